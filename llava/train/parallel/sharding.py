"""Reads the sharding flags (`--fsdp` and its relatives) of every release, without importing torch.

The original's flags were those of FSDP1. They become settings of FSDP2, PyTorch's sharding for each parameter, and what
has no counterpart there is refused by name.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.errors import InvalidRequest

_LAYER_SUFFIX = "DecoderLayer"
"""How the names of the classes end that are gathered as units: the layers of the language model."""

_MEANINGLESS = frozenset({"auto_wrap", "full_shard"})
"""Words of `--fsdp` that name what FSDP2 always does."""
_REFUSED_WORDS = {
    "hybrid_shard": "sharding within a node and copying between nodes is not supported",
    "hybrid_shard_zero2": "sharding within a node and copying between nodes is not supported",
    "no_shard": "this would not shard anything",
}
_OFF = ("", "false", "no", "0")
_ON = ("true", "yes", "1")


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a model is sharded over processes with FSDP2."""

    reshard_after_forward: bool = True
    """Whether a layer's parameters are freed between its forward and backward pass (`full_shard`); False keeps them,
    which is faster and needs more memory (`shard_grad_op`)."""
    cpu_offload: bool = False
    """Whether parameters, gradients and optimizer state stay in host memory between uses."""
    layers: tuple[str, ...] = ()
    """Class names of the modules that are gathered as units, as given; empty for the decoder's own layers."""
    recompute: bool = False
    """Whether activations are recomputed, as `--gradient_checkpointing` does."""

    def fsdp_config(self) -> dict[str, Any]:
        """Returns the `fsdp_config` of transformers' `TrainingArguments`."""
        return {
            "version": 2,
            "reshard_after_forward": self.reshard_after_forward,
            "cpu_offload": self.cpu_offload,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            # The first process reads the weights and sends each other process its share.
            "cpu_ram_efficient_loading": True,
            # Each process writes its own share, so that a checkpoint needs no memory for the whole model.
            "state_dict_type": "SHARDED_STATE_DICT",
        }


def is_launched() -> bool:
    """Tells whether a launcher (torchrun, accelerate launch, Slurm) started this process as one of a group."""
    return "LOCAL_RANK" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


def take_launcher_settings() -> Sharding | None:
    """Reads the FSDP settings that `accelerate launch` passes in the environment, and removes the request for them
    there, because accelerate would otherwise load the vision tower in the first process only.

    Raises:
        InvalidRequest: as `sharding_of`.
    """
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() not in _ON:
        return None
    config = {"version": "2"}
    names = ("reshard_after_forward", "activation_checkpointing", "transformer_cls_to_wrap", "offload_params")
    found = {name: os.environ[f"FSDP_{name.upper()}"] for name in names if os.environ.get(f"FSDP_{name.upper()}")}
    renamed = {"transformer_cls_to_wrap": "transformer_layer_cls_to_wrap", "offload_params": "cpu_offload"}
    config |= {renamed.get(name, name): value for name, value in found.items()}
    words = {"FULL_SHARD": "true", "SHARD_GRAD_OP": "false"}
    if "reshard_after_forward" in config:
        config["reshard_after_forward"] = words.get(config["reshard_after_forward"], config["reshard_after_forward"])
    return sharding_of(True, config)


def sharding_of_words(words: Sequence[str]) -> Sharding | None:
    """Reads the sharding flags of a command line; as `sharding_of`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--fsdp", nargs="?", const="true")
    parser.add_argument("--fsdp_config")
    parser.add_argument("--fsdp_transformer_layer_cls_to_wrap")
    found, _ = parser.parse_known_args(list(words))
    return sharding_of(found.fsdp, found.fsdp_config, found.fsdp_transformer_layer_cls_to_wrap)


def sharding_of(
    fsdp: str | bool | Sequence[str] | None,
    config: str | Mapping[str, Any] | None = None,
    layer: str | None = None,
) -> Sharding | None:
    """Turns the values of the sharding flags into settings.

    Args:
        fsdp: `--fsdp`: words such as "full_shard auto_wrap" of FSDP1, or true or false.
        config: `--fsdp_config`: a JSON file, JSON text, or the settings themselves.
        layer: `--fsdp_transformer_layer_cls_to_wrap`: class names, separated by commas.

    Returns:
        The settings; None if `--fsdp` is not set.

    Raises:
        InvalidRequest: a word or setting that FSDP2 cannot honour; the message names it.
    """
    words = _words(fsdp)
    if words is None:
        return None
    given = f'--fsdp "{" ".join(words)}"' if words else "--fsdp"
    reshard, offload = True, False
    for word in words:
        if word in _REFUSED_WORDS:
            raise InvalidRequest(f"{given}: {word} cannot be honoured, because {_REFUSED_WORDS[word]}. Use full_shard.")
        if word == "shard_grad_op":
            reshard = False
        elif word == "offload":
            offload = True
        elif word not in _MEANINGLESS:
            raise InvalidRequest(
                f"{given}: there is no option {word!r}. Available: full_shard, shard_grad_op, offload, auto_wrap."
            )
    if "full_shard" in words and "shard_grad_op" in words:
        raise InvalidRequest(f"{given}: full_shard and shard_grad_op contradict each other. Choose one.")
    settings = _Settings(_read_config(config))
    reshard = settings.boolean("reshard_after_forward", reshard)
    offload = settings.boolean("cpu_offload", offload)
    recompute = settings.boolean("activation_checkpointing", False)
    layers = settings.layers(layer)
    settings.refuse_the_rest()
    return Sharding(reshard, offload, layers, recompute)


def _words(fsdp: str | bool | Sequence[str] | None) -> list[str] | None:
    if fsdp is None or fsdp is False:
        return None
    if fsdp is True:
        return []
    words = fsdp.replace(",", " ").split() if isinstance(fsdp, str) else [str(word) for word in fsdp]
    text = " ".join(words).lower()
    if text in _OFF:
        return None
    return [] if text in _ON else words


def _read_config(config: str | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, str):
        try:
            text = config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8")
            config = json.loads(text)
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"--fsdp_config {config}: cannot be read as JSON ({error}).") from None
    if not isinstance(config, Mapping):
        raise InvalidRequest(f"--fsdp_config: expected a JSON object with settings, found {type(config).__name__}.")
    return {str(name).removeprefix("fsdp_"): value for name, value in config.items()}


class _Settings:
    """Takes the known settings out of `--fsdp_config` one by one, so that what is left is unknown."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def boolean(self, name: str, default: bool) -> bool:
        value = self._values.pop(name, default)
        if isinstance(value, bool):
            return value
        if str(value).lower() in (*_ON, *_OFF[1:]):
            return str(value).lower() in _ON
        raise InvalidRequest(f"--fsdp_config: {name} is {value!r}, expected true or false.")

    def layers(self, flag: str | None) -> tuple[str, ...]:
        named = self._values.pop("transformer_layer_cls_to_wrap", None)
        value = flag if flag is not None else named
        if value is None:
            return ()
        names = value.split(",") if isinstance(value, str) else list(value)
        names = [str(name).strip() for name in names]
        for name in names:
            if not name.endswith(_LAYER_SUFFIX):
                raise InvalidRequest(
                    f"--fsdp_transformer_layer_cls_to_wrap {name}: is no layer of a language model. Use the decoder's, "
                    "such as LlamaDecoderLayer, or remove the flag."
                )
        return tuple(dict.fromkeys(names))

    def refuse_the_rest(self) -> None:
        accepted = {
            "version": ("2",),
            "min_num_params": ("0",),
            "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP",),
            "cpu_ram_efficient_loading": ("True", "true"),
            "state_dict_type": ("SHARDED_STATE_DICT",),
            "use_orig_params": ("True", "true"),
            "sync_module_states": ("True", "true"),
            "xla": ("False", "false"),
        }
        for name, value in self._values.items():
            if name not in accepted:
                known = "reshard_after_forward, cpu_offload, activation_checkpointing, transformer_layer_cls_to_wrap"
                raise InvalidRequest(f"--fsdp_config: {name} cannot be honoured. Available: {known}.")
            if str(value) not in accepted[name]:
                raise InvalidRequest(
                    f"--fsdp_config: {name} {value} cannot be honoured; it must be {accepted[name][0]}. "
                    "Remove the setting."
                )
