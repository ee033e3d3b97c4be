"""Selects which parameters train in each stage, and describes the selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava.errors import InvalidRequest

PROJECTOR = "model.mm_projector."
NEWLINE = "model.image_newline"
TOWER = "model.vision_tower."
ROWS = "trained_rows"


class TokenRows(nn.Module):
    """Trainable rows of an embedding whose other rows are frozen.

    Stage 1 trains `<im_start>` and `<im_end>` and leaves the rest of the vocabulary unchanged. During training a small
    parameter replaces the two rows, so gradients, optimizer state and weight decay never touch the others. `merged`
    returns the table to save.
    """

    def __init__(self, embedding: nn.Embedding, token_ids: list[int]) -> None:
        super().__init__()
        self.token_ids = token_ids
        self.rows = nn.Parameter(embedding.weight.detach()[token_ids].to(torch.float32, copy=True))

    def attach(self, embedding: nn.Embedding) -> None:
        """Makes `embedding` return these rows for their token ids."""
        embedding.add_module(ROWS, self)
        embedding.register_forward_hook(self._substitute)

    def _substitute(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for number, token_id in enumerate(self.token_ids):
            output = torch.where((args[0] == token_id)[..., None], self.rows[number].to(output.dtype), output)
        return output

    def merged(self, embedding: nn.Embedding) -> Tensor:
        """Returns a copy of the embedding table, float32 [vocabulary, hidden], that includes the trained rows."""
        return merged_table(embedding.weight.detach(), self.rows.detach(), self.token_ids)

    def load(self, table: Tensor) -> None:
        """Reads the rows from an embedding table, [vocabulary, hidden]."""
        self.rows.data.copy_(table[self.token_ids])


def merged_table(table: Tensor, rows: Tensor, token_ids: list[int]) -> Tensor:
    """Returns a float32 copy of an embedding table, [vocabulary, hidden], with `rows` at `token_ids`."""
    merged = table.to(torch.float32, copy=True)
    merged[token_ids] = rows.to(merged)
    return merged


@dataclass(frozen=True, slots=True)
class Stage:
    """What trains, as the flags select it."""

    adapter_only: bool
    """True for stage 1: only the projector and the rows of the start and end tokens train."""
    freeze_backbone: bool = False
    """True to freeze the language model except for its output layer."""
    freeze_projector: bool = False
    """True to freeze the projector."""
    lora: bool = False
    """True to train LoRA matrices in place of the language model."""
    lora_bias: str = "none"
    """Which biases of the language model train beside LoRA matrices: none, all or lora_only."""
    tower: bool = False
    """True to train the vision tower."""

    def trains(self, name: str) -> bool:
        """Tells whether a parameter trains, by its name."""
        if name.startswith(TOWER):
            return self.tower
        if name.startswith(PROJECTOR) or (self.lora and name == NEWLINE):
            return not self.freeze_projector
        if self.adapter_only:
            return False
        if self.lora:
            is_bias = name.endswith(".bias") and self.lora_bias != "none"
            return ".lora_" in name or (is_bias and (self.lora_bias == "all" or ".base_layer." in name))
        # As in the original, a frozen backbone still has its output layer trained.
        return not (self.freeze_backbone and name.startswith("model."))


def select_trainable(
    model: Any, stage: Stage, *, start_end_ids: tuple[int, ...] = (), frozen_dtype: torch.dtype = torch.float32
) -> TokenRows | None:
    """Sets `requires_grad` and the number format of every parameter of `model`.

    Args:
        start_end_ids: ids of `<im_start>` and `<im_end>`; empty if the run does not use them.
        frozen_dtype: number format of frozen parameters; those that train are float32.

    Returns:
        The trainable embedding rows in stage 1 and with LoRA if there are start and end tokens, else None.

    Raises:
        InvalidRequest: nothing would train, or stage 1 has no projector.
    """
    has_projector = any(name.startswith(PROJECTOR) for name, _ in model.named_parameters())
    if stage.adapter_only and not has_projector:
        raise InvalidRequest("--tune_mm_mlp_adapter trains the projector, but the model has none. Set --vision_tower.")
    if stage.adapter_only and stage.freeze_projector:
        raise InvalidRequest("--tune_mm_mlp_adapter and --freeze_mm_mlp_adapter together leave nothing to train.")
    idle = _without_influence(model)
    for name, parameter in model.named_parameters():
        trains = stage.trains(name) and name not in idle
        parameter.requires_grad_(trains)
        if type(parameter) is nn.Parameter:  # quantised parameters have formats of their own
            parameter.data = parameter.data.to(torch.float32 if trains else frozen_dtype)
    if (stage.adapter_only or stage.lora) and start_end_ids:
        embedding = model.get_input_embeddings()
        rows = TokenRows(embedding, list(start_end_ids))
        rows.attach(embedding)
        return rows
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidRequest("All parameters are frozen, so nothing would train. Remove one of the freeze flags.")
    return None


def _without_influence(model: Any) -> set[str]:
    """Returns the names of parameters that never get a gradient, which processes would wait for."""
    tower = model.get_model()._modules.get("vision_tower")
    return set() if tower is None else {f"{TOWER}{name}" for name in tower.unused_parameters()}


def describe_trainable(model: nn.Module) -> str:
    """Describes in one line which parts train, with their numbers of parameters and the total."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = _part_of(name)
            parts[part] = parts.get(part, 0) + parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    listed = ", ".join(f"{part} ({count:,})" for part, count in parts.items())
    return f"training {sum(parts.values()):,} of {total:,} parameters: {listed}"


def _part_of(name: str) -> str:
    if ROWS in name:
        return "rows <im_start>, <im_end> of model.embed_tokens"
    pieces = name.split(".")
    if ".lora_" in name:
        return "LoRA of model.layers"
    return ".".join(pieces[:2]) if pieces[0] == "model" else pieces[0]
