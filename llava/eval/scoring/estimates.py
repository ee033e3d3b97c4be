"""Estimates the uncertainty of figures: of shares and other ratios over questions, some of which are related.

Answers to questions about the same image tend to be right or wrong together, so a figure rests on fewer independent
observations than it has questions. If a benchmark asks several questions per image, the errors are computed by image.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_Z = 1.959963984540054
"""Number of standard errors on either side of the mean that cover 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure with its uncertainty."""

    name: str
    """Name of the figure."""
    value: float | None
    """The figure; None if no question contributes to it."""
    standard_error: float | None
    """Standard error, in the unit of the figure."""
    low: float | None
    """Lower end of the 95 % confidence interval."""
    high: float | None
    """Upper end of the 95 % confidence interval."""
    gained: float
    """Sum of the numerator, such as the number of correct answers."""
    possible: float
    """Sum of the denominator, such as the number of questions."""

    def as_json(self) -> dict[str, Any]:
        """Returns the figure unrounded; counts are integers if they are whole."""
        return {
            "value": self.value,
            "standard_error": self.standard_error,
            "interval_95": None if self.value is None else [self.low, self.high],
            "gained": _whole(self.gained),
            "possible": _whole(self.possible),
        }


@dataclass(frozen=True, slots=True)
class Part:
    """The contribution of one question to a figure."""

    gained: float
    """Added to the numerator."""
    possible: float = 1.0
    """Added to the denominator."""
    group: Hashable = None
    """Questions of the same group are not independent, such as those about one image; None puts it in no group."""


def ratio(name: str, parts: Iterable[Part], *, scale: float = 100.0) -> Estimate:
    """Returns the sum of `gained` divided by the sum of `possible`, times `scale`.

    The standard error is that of a ratio of two sums over independent groups. A plain share of independent questions
    gets Wilson's interval, which keeps its width even if all or none are correct; any other ratio gets the normal
    interval, clipped to 0 and `scale`.
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
    """Returns the sum of independent figures; figures without a value are skipped."""
    known = [one for one in estimates if one.value is not None and one.standard_error is not None]
    gained, possible = (math.fsum(getattr(one, field) for one in known) for field in ("gained", "possible"))
    if not known:
        return Estimate(name, None, None, None, None, gained, possible)
    value = math.fsum(one.value or 0.0 for one in known)
    error = math.sqrt(math.fsum((one.standard_error or 0.0) ** 2 for one in known))
    return Estimate(name, value, error, max(0.0, value - _Z * error), value + _Z * error, gained, possible)


def table(estimates: Sequence[Estimate]) -> str:
    """Returns the figures as a text table, one figure per line."""
    width = max([len("figure"), *(len(one.name) for one in estimates)])
    lines = [f"{'figure':<{width}}  {'value':>8}  {'std.err.':>8}  {'95 % interval':>18}  {'of':>7}"]
    for one in estimates:
        value, error, low, high = (_figure(x) for x in (one.value, one.standard_error, one.low, one.high))
        interval = "-" if one.value is None else f"{low} to {high}"
        lines.append(f"{one.name:<{width}}  {value:>8}  {error:>8}  {interval:>18}  {_whole(one.possible):>7}")
    return "\n".join(lines)


def _residuals(parts: Sequence[Part], value: float) -> Iterable[float]:
    """Returns the difference between what each group gained and what the figure predicts for it."""
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
    # Rounding must not move the figure out of its own interval.
    return min(share, middle - half), max(share, middle + half)


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else round(value, 6)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
