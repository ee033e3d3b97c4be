"""Figures with their uncertainty: shares and other ratios over questions, some of which belong together.

Questions about one image succeed and fail together, so that fewer independent facts stand behind a figure than it has
questions. Wherever a benchmark asks several questions an image, the image is the unit of the errors given here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_Z = 1.959963984540054
"""Standard errors to either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure."""

    name: str
    value: float | None
    """None where there is nothing to take it from."""
    standard_error: float | None
    low: float | None
    high: float | None
    """The interval that holds the true figure in 95 of 100 such experiments."""
    gained: float
    """What the figure's numerator adds up to, such as the number of right answers."""
    possible: float
    """What its denominator adds up to, such as the number of questions."""

    def as_json(self) -> dict[str, Any]:
        """Unrounded; whole counts as integers."""
        return {
            "value": self.value,
            "standard_error": self.standard_error,
            "interval_95": None if self.value is None else [self.low, self.high],
            "gained": _whole(self.gained),
            "possible": _whole(self.possible),
        }


@dataclass(frozen=True, slots=True)
class Part:
    """What one question adds to a figure."""

    gained: float
    possible: float = 1.0
    group: Hashable = None
    """Questions of one group are not independent of each other; None is a group of its own."""


def ratio(name: str, parts: Iterable[Part], *, scale: float = 100.0) -> Estimate:
    """The sum of what was gained over the sum of what was possible, times `scale`.

    The standard error is that of a ratio of two sums over independent groups. A plain share of independent questions
    gets Wilson's interval, which keeps its width where all are right or all are wrong; anything else the normal one,
    cut off at 0 and `scale`.
    """
    parts = list(parts)
    gained, possible = (math.fsum(getattr(part, one) for part in parts) for one in ("gained", "possible"))
    if not possible:
        return Estimate(name, None, None, None, None, gained, possible)
    value = gained / possible
    error = math.sqrt(math.fsum(rest * rest for rest in _residuals(parts, value))) / possible
    low, high = _wilson(gained, possible) if _is_plain_share(parts) else (value - _Z * error, value + _Z * error)
    return Estimate(name, value * scale, error * scale, max(0.0, low) * scale, min(1.0, high) * scale, gained, possible)


def total(name: str, estimates: Sequence[Estimate]) -> Estimate:
    """The sum of independent figures; those without a value add nothing."""
    known = [one for one in estimates if one.value is not None and one.standard_error is not None]
    gained, possible = (math.fsum(getattr(one, field) for one in known) for field in ("gained", "possible"))
    if not known:
        return Estimate(name, None, None, None, None, gained, possible)
    value = math.fsum(one.value or 0.0 for one in known)
    error = math.sqrt(math.fsum((one.standard_error or 0.0) ** 2 for one in known))
    return Estimate(name, value, error, max(0.0, value - _Z * error), value + _Z * error, gained, possible)


def table(estimates: Sequence[Estimate]) -> str:
    """The figures as text, one a line."""
    width = max([len("figure"), *(len(one.name) for one in estimates)])
    lines = [f"{'figure':<{width}}  {'value':>8}  {'std.err.':>8}  {'95 % interval':>18}  {'of':>7}"]
    for one in estimates:
        value, error, low, high = (_figure(x) for x in (one.value, one.standard_error, one.low, one.high))
        interval = "-" if one.value is None else f"{low} to {high}"
        lines.append(f"{one.name:<{width}}  {value:>8}  {error:>8}  {interval:>18}  {_whole(one.possible):>7}")
    return "\n".join(lines)


def _residuals(parts: Sequence[Part], value: float) -> Iterable[float]:
    """How far each group is from what the figure leads one to expect of it."""
    groups: dict[Hashable, float] = {}
    for number, part in enumerate(parts):
        group = (number,) if part.group is None else part.group
        groups[group] = groups.get(group, 0.0) + part.gained - value * part.possible
    return groups.values()


def _is_plain_share(parts: Sequence[Part]) -> bool:
    grouped = [part.group for part in parts if part.group is not None and part.possible]
    return len(set(grouped)) == len(grouped) and all(
        part.gained in (0, 1) and part.possible in (0, 1) for part in parts
    )


def _wilson(gained: float, possible: float) -> tuple[float, float]:
    share, extra = gained / possible, _Z * _Z / possible
    middle = (share + extra / 2) / (1 + extra)
    half = _Z / (1 + extra) * math.sqrt(share * (1 - share) / possible + extra / (4 * possible))
    # Rounding must not take a figure out of its own interval.
    return min(share, middle - half), max(share, middle + half)


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else round(value, 6)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
