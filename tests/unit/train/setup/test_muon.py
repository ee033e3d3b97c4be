"""The optimizer that `--optim muon` chooses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llava.train.setup.muon import MuonWithAdamW, parameter_groups


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 16)
        self.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, 3)
        self.model = nn.Module()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.embed(ids)
        for layer in self.layers:
            states = torch.tanh(layer(states))
        return self.head(states)


def _wrapped() -> nn.Module:
    outer = nn.Module()
    outer.model = Small()
    return outer


@pytest.mark.parametrize("shape", [(16, 16), (24, 12), (12, 24)])
def test_updates_have_singular_values_near_one_scaled_to_the_size_of_adamw(shape):
    generator = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0][: shape[0], : shape[1]].clone()
    MuonWithAdamW([{"params": [weight], "orthogonal": True}], lr=1.0).step()
    values = torch.linalg.svdvals(weight) / (0.2 * max(shape) ** 0.5)
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_only_matrices_of_layers_are_orthogonalised():
    groups = parameter_groups(_wrapped(), weight_decay=0.1)
    matrices = [group for group in groups if group["orthogonal"]]
    assert [len(group["params"]) for group in matrices] == [2]
    assert sum(len(group["params"]) for group in groups) == len(list(_wrapped().parameters()))
    assert [group["weight_decay"] for group in groups if not group["orthogonal"]] == [0.0]


def test_it_learns_and_goes_on_from_a_saved_state_as_if_uninterrupted():
    ids, labels = torch.arange(11), torch.arange(11) % 3

    def train(model: nn.Module, optimizer: MuonWithAdamW, steps: int) -> float:
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model.model(ids), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return float(loss)

    whole = _wrapped()
    final = train(whole, MuonWithAdamW(parameter_groups(whole, weight_decay=0.01), lr=1e-2), 60)
    assert final < 0.1

    first = _wrapped()
    optimizer = MuonWithAdamW(parameter_groups(first, weight_decay=0.01), lr=1e-2)
    train(first, optimizer, 30)
    second = _wrapped()
    second.load_state_dict(first.state_dict())
    resumed = MuonWithAdamW(parameter_groups(second, weight_decay=0.01), lr=1e-2)
    resumed.load_state_dict(optimizer.state_dict())
    assert train(second, resumed, 30) == pytest.approx(final, abs=1e-6)


def test_a_state_of_this_optimizer_before_it_used_that_of_torch_is_read():
    model = _wrapped()
    optimizer = MuonWithAdamW(parameter_groups(model, weight_decay=0.01))
    model.model(torch.arange(11)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    names = {"momentum_buffer": "momentum", "exp_avg": "mean", "exp_avg_sq": "square"}
    earlier = {
        number: {names.get(name, name): int(value) if name == "step" else value for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    groups = [
        {key: group[key] for key in ("params", "lr", "weight_decay", "orthogonal")} for group in saved["param_groups"]
    ]
    resumed = MuonWithAdamW(parameter_groups(model, weight_decay=0.01))
    resumed.load_state_dict({"state": earlier, "param_groups": groups})
    resumed.step()
    optimizer.step()
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            torch.testing.assert_close(resumed.state[weight][name], value)
