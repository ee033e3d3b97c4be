"""Estimates the strengths of players from who beat whom how often: Bradley-Terry by maximum likelihood.

The odds that one player beats another are the exponential of the difference of their strengths.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_BALANCED: Final = 1e-10
"""Largest difference between a player's unexpected wins and losses at convergence, relative to their sum."""


def bradley_terry(wins: Floats) -> Floats:
    """Returns the strengths that make the results most likely, with a mean of 0. Solves several tables at once.

    Newton's method. A step that moves two players apart by r is shortened to log(1 + r) / r of itself: the curvature of
    this likelihood changes by at most a factor of e for each 1 that two players move apart, from which it follows that
    the likelihood rises with every such step.

    Args:
        wins: [..., players, players], how often the row beat the column: not negative, diagonal 0.

    Returns:
        Strengths, [..., players], in natural log odds.

    Raises:
        ValueError: the likelihood of a table has no maximum.
        ArithmeticError: the iteration does not converge.
    """
    if not has_maximum(wins).all():
        raise ValueError("the likelihood has no maximum: a player never lost to some other, even through others")
    players = wins.shape[-1]
    games = wins + wins.swapaxes(-1, -2)
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(1000):
        win = _win_probabilities(strengths)
        loss = win.swapaxes(-1, -2)
        won, lost = (wins * loss).sum(-1), (wins.swapaxes(-1, -2) * win).sum(-1)
        # The gradient is zero where unexpected wins and unexpected losses are equal.
        if (np.abs(won - lost) <= _BALANCED * (won + lost)).all():
            return strengths - strengths.mean(-1, keepdims=True)
        information = games * win * loss
        # The information matrix is singular: it does not determine the sum of the strengths. Adding 1 / players keeps
        # that sum as it is.
        hessian = _diagonal(information.sum(-1)) - information + 1.0 / players
        step = np.linalg.solve(hessian, (won - lost)[..., None])[..., 0]
        apart = np.maximum(np.ptp(step, axis=-1, keepdims=True), 1e-300)
        strengths = strengths + np.log1p(apart) / apart * step
    raise ArithmeticError("Newton's method did not converge in 1000 steps")


def has_maximum(wins: Floats) -> Bools:
    """Returns whether the likelihood of each table of results has a maximum; [..., players, players] to [...]."""
    return np.asarray(beats_in_a_chain(wins).all(axis=(-1, -2)))


def beats_in_a_chain(wins: Floats) -> Bools:
    """Returns whether the row's player beat the column's, directly or through others; True on the diagonal."""
    players = wins.shape[-1]
    reached = ((wins > 0) | np.eye(players, dtype=bool)).astype(np.float32)
    for _ in range(max(1, (players - 1).bit_length())):
        reached = np.minimum(reached @ reached, 1.0)
    return reached > 0


def _win_probabilities(strengths: Floats) -> Floats:
    """Returns each player's (row) chance against each other (column), exact even if tiny; [..., players, players]."""
    return np.exp(-np.logaddexp(0.0, strengths[..., None, :] - strengths[..., :, None]))


def _diagonal(values: Floats) -> Floats:
    return values[..., None] * np.eye(values.shape[-1])
