"""Finds the small models that come with the package, by name.

They are complete LLaVAs (vision tower, projector, language model) made by `scripts/pocket/`, for a first try and for
tests. The README.md of each folder says what its model can see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llava.errors import InvalidRequest

DEFAULT: Final = "tiny"
"""The embedded model that answers if no model is named."""

DESCRIPTIONS: Final = {
    "tiny": "a small embedded LLaVA that knows drawn scenes and photographs of clothing, and nothing else",
}


def names() -> list[str]:
    """Lists the names of the embedded models of this installation."""
    return [name for name in DESCRIPTIONS if (_folder(name) / "config.json").is_file()]


def find(name: str = DEFAULT) -> Path:
    """Returns the folder of an embedded model.

    Raises:
        InvalidRequest: no model of that name, or it is not in this installation.
    """
    if name not in DESCRIPTIONS:
        raise InvalidRequest(f"unknown embedded model {name!r}. Available: {', '.join(DESCRIPTIONS)}.")
    folder = _folder(name)
    if not (folder / "config.json").is_file():
        raise InvalidRequest(
            f"{folder}: the embedded model {name!r} is missing from this installation. Install llava again."
        )
    return folder


def resolve(model: str | None) -> tuple[str, str | None]:
    """Decides what to load for a model that a command line names.

    A folder in the current directory takes precedence over an embedded model of the same name.

    Returns:
        The model's folder or hub id, and for an embedded model a line that describes it.
    """
    name = model or DEFAULT
    if name not in DESCRIPTIONS or (model is not None and Path(model).is_dir()):
        return name, None
    notice = f"{name}: {DESCRIPTIONS[name]}. For a full LLaVA give --model-name FOLDER (README, section LLaVA Weights)."
    return str(find(name)), notice


def _folder(name: str) -> Path:
    return Path(__file__).parent / name
