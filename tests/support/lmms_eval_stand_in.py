"""The little of lmms-eval that our model class touches, since lmms-eval cannot be installed beside the tests.

It stands in for names and shapes of arguments alone, as lmms-eval 0.7.3 has them. That the real one works with the
class, `scripts/bench/lmms_eval.sh` shows.
"""

from __future__ import annotations

import abc
import logging
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


class CacheHook:
    """Remembers what it was told, as lmms-eval's writes it to disk."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, Any]] = []

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.kept.append((attr, req, res))


class lmms(abc.ABC):
    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook = CacheHook()
        self.task_dict: dict[str, Any] = {}

    @property
    def rank(self) -> int:
        return self._rank

    @abc.abstractmethod
    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]: ...

    @abc.abstractmethod
    def generate_until(self, requests: list[Any]) -> list[str]: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]: ...

    def clean(self) -> None:
        self.task_dict = {}


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class GenerationResult:
    text: Any
    token_counts: Any = None


@dataclass
class Instance:
    """A request: its arguments in the order of lmms-eval's simple tasks."""

    args: tuple[Any, ...]
    metadata: dict[str, Any] = field(default_factory=dict)


def modules() -> dict[str, ModuleType]:
    """The modules under their names, for `sys.modules`."""
    found = {
        name: ModuleType(name)
        for name in (
            "lmms_eval",
            "lmms_eval.api",
            "lmms_eval.api.instance",
            "lmms_eval.api.model",
            "lmms_eval.models",
            "lmms_eval.models.registry_v2",
        )
    }
    found["lmms_eval.api.model"].lmms = lmms  # type: ignore[attr-defined]
    found["lmms_eval.api.instance"].GenerationResult = GenerationResult  # type: ignore[attr-defined]
    found["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest  # type: ignore[attr-defined]
    found["loguru"] = ModuleType("loguru")
    found["loguru"].logger = logging.getLogger("loguru")  # type: ignore[attr-defined]
    return found
