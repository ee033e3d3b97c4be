"""Adds LoRA matrices to a model that will be trained.

The model stays of our class: PEFT replaces its linear layers in place (`inject_adapter_in_model`), so the names of all
other parameters, the sharding and the loss are those of any other run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llava.errors import CheckpointError, InvalidRequest, ShapeMismatch
from llava.model.weights.lora import read_adapter
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import EMBEDDING, resolve_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llava.train.setup.arguments import TrainingOptions
    from llava.train.setup.trainable import TokenRows

Bias = Literal["none", "all", "lora_only"]

ADAPTER_NAME = "default"
"""PEFT's name of the adapter, which is part of its parameters' names."""
_NOT_ADAPTED = ("mm_projector", "vision_tower", "vision_resampler", "lm_head")
"""Parts whose linear layers get no LoRA matrices, as in the original."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """How the language model is adapted."""

    rank: int = 64
    """Rank of each change."""
    alpha: int = 16
    """A change is scaled by alpha / rank, or by alpha / sqrt(rank) with `use_rslora`."""
    dropout: float = 0.05
    """Fraction of the inputs of the matrices that is dropped in training, 0 to 1."""
    bias: Bias = "none"
    """Which biases of the language model train: none, all, or those of adapted layers (`lora_only`)."""
    use_dora: bool = False
    """Whether the length of each row of a changed matrix trains on its own (DoRA)."""
    use_rslora: bool = False
    """Whether changes are scaled so that high ranks learn as fast as low ones (rank-stabilised LoRA)."""
    start_from: Path | None = None
    """Folder of an adapter to train on; None starts from no change."""

    def __post_init__(self) -> None:
        """
        Raises:
            InvalidRequest: a value out of its range; names the flag.
        """
        if self.rank < 1:
            raise InvalidRequest(f"--lora_r {self.rank}: must be at least 1.")
        if self.alpha <= 0:
            raise InvalidRequest(f"--lora_alpha {self.alpha}: must be greater than 0.")
        if not 0 <= self.dropout < 1:
            raise InvalidRequest(f"--lora_dropout {self.dropout}: must be at least 0 and less than 1.")
        if self.bias not in ("none", "all", "lora_only"):
            raise InvalidRequest(f"--lora_bias {self.bias}: must be none, all or lora_only.")

    @classmethod
    def from_options(cls, options: TrainingOptions) -> LoraSettings | None:
        """Builds the settings of a command line; None if it does not ask for LoRA.

        Raises:
            InvalidRequest: a value out of its range, or flags that contradict the adapter to start from.
        """
        if not options.lora_enable:
            return None
        settings = cls(
            rank=options.lora_r,
            alpha=options.lora_alpha,
            dropout=options.lora_dropout,
            bias=options.lora_bias,  # type: ignore[arg-type]  # checked above
            use_dora=options.use_dora,
            use_rslora=options.use_rslora,
        )
        return settings._starting_from(options.lora_weight_path) if options.lora_weight_path else settings

    def _starting_from(self, path: str) -> LoraSettings:
        """Takes the shape of an adapter; a flag that says something else is an error."""
        folder = resolve_folder(path, what="adapter")
        saved = read_adapter(folder).settings
        for name in ("rank_pattern", "alpha_pattern"):
            if saved.get(name):
                raise InvalidRequest(f"--lora_weight_path {path}: adapters with a {name} cannot be trained on.")
        theirs = {
            "lora_r": ("rank", saved.get("r", 8)),
            "lora_alpha": ("alpha", saved.get("lora_alpha", 8)),
            "use_dora": ("use_dora", bool(saved.get("use_dora"))),
            "use_rslora": ("use_rslora", bool(saved.get("use_rslora"))),
        }
        for flag, (name, value) in theirs.items():
            given = getattr(self, name)
            if given not in (value, _DEFAULTS[name]):
                raise InvalidRequest(
                    f"--{flag} {given}: the adapter in --lora_weight_path {path} has {value}. Remove the flag."
                )
        return replace(self, start_from=folder, **dict(theirs.values()))


_DEFAULTS = {"rank": 64, "alpha": 16, "use_dora": False, "use_rslora": False}


def ignored_flags(options: TrainingOptions) -> list[str]:
    """Lists the flags that are set and have no effect without `--lora_enable True`."""
    names = ("lora_r", "lora_alpha", "lora_dropout", "lora_bias", "lora_weight_path", "use_dora", "use_rslora")
    defaults = type(options).__dataclass_fields__
    return [f"--{name}" for name in names if getattr(options, name) != defaults[name].default]


# ---- the model -------------------------------------------------------------------------------------------------------


def add_lora(model: Any, settings: LoraSettings, *, base: str) -> None:
    """Puts LoRA matrices beside every linear layer of the language model, in float32 and without effect at first.

    Args:
        model: a LLaVA; its parameters keep their names, except that an adapted layer's own weight is `base_layer`.
        base: what the adapter's config names as its base.

    Raises:
        InvalidRequest: biases shall train, and the language model has none.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    if settings.bias != "none" and not any(
        name.startswith("model.layers.") and name.endswith(".bias") for name, _ in model.named_parameters()
    ):
        raise InvalidRequest(f"--lora_bias {settings.bias}: the language model has no biases. Remove the flag.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        target_modules=_targets(model, settings),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    # The vision tower has layers of the same names, which get no matrices.
    with _without_tower(model):
        inject_adapter_in_model(config, model, adapter_name=ADAPTER_NAME)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.float32)
    if settings.use_dora:
        _set_magnitudes(model)
    # Trainer trains a quantised model only if it is told of its adapter.
    model._hf_peft_config_loaded = True


@contextmanager
def _without_tower(model: Any) -> Iterator[None]:
    decoder = model.get_model()
    tower = decoder._modules.pop("vision_tower", None)
    try:
        yield
    finally:
        if tower is not None:
            decoder._modules["vision_tower"] = tower


def _targets(model: nn.Module, settings: LoraSettings) -> list[str]:
    """Returns the last parts of the names of the layers to adapt, as the original lists them."""
    from torch import nn

    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(part in name for part in _NOT_ADAPTED)
    ]
    if settings.start_from is None:
        return sorted({name.rpartition(".")[2] for name in linear})
    adapter = read_adapter(settings.start_from)
    adapted = {name.removesuffix(".weight") for name in adapter.changes}
    targets = {name.rpartition(".")[2] for name in adapted}
    if adapted != {name for name in linear if name.rpartition(".")[2] in targets}:
        raise InvalidRequest(
            f"--lora_weight_path {settings.start_from}: the adapter changes other layers than LoRA trains here (linear "
            "layers of the language model, each kind in all layers). Merge it into the base and start from the result."
        )
    return sorted(targets)


def _set_magnitudes(model: nn.Module) -> None:
    """Sets DoRA's magnitudes to the lengths of the base's rows; PEFT's own are rounded to the base's format."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = dequantize_module_weight(module.get_base_layer())
            module.lora_magnitude_vector[ADAPTER_NAME].weight.data = weight.detach().float().norm(dim=1)


def start_from_adapter(model: Any, rows: TokenRows | None, folder: Path | None) -> frozenset[str]:
    """Copies an adapter and the tensors beside it into a model that `add_lora` has prepared.

    Args:
        folder: the adapter's; None for a new adapter, which leaves the model as it is.

    Returns:
        Names of the parameters that the folder holds whole; the run saves them too.

    Raises:
        CheckpointError: a tensor that the model does not have.
        ShapeMismatch: a tensor of another shape.
    """
    if folder is None:
        return frozenset()
    adapter = read_adapter(folder)
    parameters = dict(model.named_parameters())
    for name, change in adapter.changes.items():
        module = name.removesuffix(".weight")
        found = {"lora_A": change.down, "lora_B": change.up}
        for part, value in found.items():
            copy_into(parameters[f"{module}.{part}.{ADAPTER_NAME}.weight"], value, name, folder)
        if change.magnitude is not None:
            copy_into(
                parameters[f"{module}.lora_magnitude_vector.{ADAPTER_NAME}.weight"], change.magnitude, name, folder
            )
    for name, (weights, theirs) in adapter.whole.items():
        own = _own_name(model, name)
        if own not in parameters:
            raise CheckpointError(f"{adapter.described(name)}, which the model to train does not have.")
        copy_into(parameters[own], weights.tensor(theirs), theirs, folder)
        if name == EMBEDDING and rows is not None:
            rows.load(weights.tensor(theirs))
    return frozenset(_own_name(model, name) for name in adapter.whole)


def _own_name(model: Any, name: str) -> str:
    """Returns the name of a parameter of the model for our name of a tensor."""
    if name.startswith(TOWER_PREFIX):
        return TOWER_PREFIX + model.get_vision_tower().own_name(name.removeprefix(TOWER_PREFIX))
    path, _, own = name.rpartition(".")
    adapted = f"{path}.base_layer.{own}"
    return adapted if any(candidate == adapted for candidate, _ in model.named_parameters()) else name


def copy_into(parameter: Tensor, value: Tensor, name: str, folder: Path) -> None:
    """Copies a tensor of a folder into a parameter.

    Raises:
        ShapeMismatch: they have different shapes.
    """
    if parameter.shape != value.shape:
        raise ShapeMismatch(name, folder, tuple(value.shape), tuple(parameter.shape))
    parameter.data.copy_(value)
