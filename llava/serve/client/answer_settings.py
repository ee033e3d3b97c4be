"""How an answer is written: the settings of our front ends, each declared once.

The page's sliders, the terminal's `/set` and the body of a request are all made from the fields of `AnswerSettings`.
A new setting is a field here, and a flag of `llava chat` if it should have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from llava.errors import InvalidRequest
from llava.serve.client.images import SHAPES, ImageShape
from llava.text_generation.settings import Sampling

MAX_TOKENS: Final = 1_000_000
"""The highest `max_tokens` that our servers accept."""


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What front ends need to know to show a setting and to read it."""

    expected: str
    """The values it can have, as error messages and `/set` show them."""
    read: Callable[[str], Any]
    """Reads a typed value; raises ValueError or KeyError."""
    label: str = ""
    """Title of its slider; empty if the page has none."""
    hint: str = ""
    """The small line under that title."""
    slider: tuple[float, float, float] = (0, 1, 0.1)
    """Lowest value, highest value and step of the slider."""
    travels: bool = True
    """Whether the setting is a field of the request; the others are applied before the request is made."""


def _read_seed(text: str) -> int | None:
    return None if text.lower() in ("none", "off", "") else int(text)


def _read_shape(text: str) -> str:
    return {shape.lower(): shape for shape in SHAPES}[text.lower()]


_TEMPERATURE: Final = SettingInfo(
    "a number from 0 (always the most likely token) to 2",
    float,
    label="Temperature",
    hint="0 always picks the most likely token.",
)
_TOP_P: Final = SettingInfo(
    "a number above 0 and at most 1 (off)", float, label="Top-p", hint="1 is off.", slider=(0.05, 1, 0.05)
)
_MAX_TOKENS: Final = SettingInfo(
    f"a whole number from 1 to {MAX_TOKENS}", int, label="Max output tokens", slider=(1, 2048, 1)
)
_SEED: Final = SettingInfo("a whole number, or none", _read_seed)
_SHAPE: Final = SettingInfo(" or ".join(shape.lower() for shape in SHAPES), _read_shape, travels=False)


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How an answer is written."""

    temperature: float = field(default=0.2, metadata={"info": _TEMPERATURE})
    """Randomness of sampling; 0 is greedy, 2 the highest."""
    top_p: float = field(default=1.0, metadata={"info": _TOP_P})
    """Sampling keeps the most likely tokens that together have this probability; 1 keeps all."""
    max_tokens: int = field(default=512, metadata={"info": _MAX_TOKENS})
    """Longest answer, in tokens."""
    seed: int | None = field(default=None, metadata={"info": _SEED})
    """Makes sampling repeatable; None draws a new seed for each answer."""
    shape: ImageShape = field(default="Crop", metadata={"info": _SHAPE})
    """What to do with images that are not square."""

    def check(self) -> None:
        """
        Raises:
            InvalidRequest: a value is out of its bounds.
        """
        Sampling(self.temperature, self.top_p, max_new_tokens=self.max_tokens, seed=self.seed)
        if self.max_tokens > MAX_TOKENS:
            raise InvalidRequest(f"max_tokens is {self.max_tokens}; it must be at most {MAX_TOKENS}.")

    def request_fields(self) -> dict[str, Any]:
        """The fields of a chat request; a setting that is None is left out."""
        values = {name: getattr(self, name) for name, info in SETTINGS.items() if info.travels}
        return {name: value for name, value in values.items() if value is not None}


SETTINGS: Final[Mapping[str, SettingInfo]] = {
    setting.name: setting.metadata["info"] for setting in fields(AnswerSettings)
}
"""All settings by name, in the order in which they are shown."""
