"""The small models that come with the package, by name.

They are whole LLaVAs (vision tower, projector, language model), made by `scripts/pocket/`, for the first minute and for
tests; each folder's README.md says what its model can see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llava.errors import InvalidRequest

DEFAULT: Final = "tiny"
"""The model that answers where none is named."""

DESCRIPTIONS: Final = {
    "tiny": "a small embedded LLaVA that knows drawn scenes and photographs of clothing, and nothing else",
}


def names() -> list[str]:
    """Names of the models that are there."""
    return [name for name in DESCRIPTIONS if (_folder(name) / "config.json").is_file()]


def find(name: str = DEFAULT) -> Path:
    """The folder of a model.

    Raises:
        InvalidRequest: no model of that name, or it is not in this installation.
    """
    if name not in DESCRIPTIONS:
        raise InvalidRequest(f"there is no embedded model {name!r}. There is: {', '.join(DESCRIPTIONS)}.")
    folder = _folder(name)
    if not (folder / "config.json").is_file():
        raise InvalidRequest(f"{folder}: the embedded model {name!r} is not in this installation. Install llava again.")
    return folder


def resolve(model: str | None) -> tuple[str, str | None]:
    """What to load for a model named on a command line, and a line that says what it is where it is one of ours.

    A folder of the current directory goes before an embedded model of the same name.
    """
    name = model or DEFAULT
    if name not in DESCRIPTIONS or (model is not None and Path(model).is_dir()):
        return name, None
    notice = f"{name}: {DESCRIPTIONS[name]}. For a full LLaVA give --model-name FOLDER (README, section LLaVA Weights)."
    return str(find(name)), notice


def _folder(name: str) -> Path:
    return Path(__file__).parent / name
