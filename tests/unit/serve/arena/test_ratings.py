"""Scores against closed forms, hand-computed games, the condition of a maximum, and strengths that are known."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from llava.serve.arena.bradley_terry import bradley_terry
from llava.serve.arena.ratings import Games, Rating, rate

Game = tuple[str, str, float]


def games(*results: Game) -> Games:
    players = tuple(sorted({name for first, second, _ in results for name in (first, second)}))
    return Games(
        players,
        np.array([players.index(first) for first, _, _ in results]),
        np.array([players.index(second) for _, second, _ in results]),
        np.array([points for _, _, points in results]),
    )


def times(count: int, first: str, second: str, points: float = 1.0) -> list[Game]:
    return [(first, second, points)] * count


def scores(*results: Game, method: str = "bradley-terry") -> dict[str, float]:
    (group,) = rate(games(*results), method, num_resamples=0, seed=0)  # type: ignore[arg-type]
    return {rating.player: rating.score for rating in group.ratings}


def ratings(*results: Game, num_resamples: int = 200, method: str = "bradley-terry") -> dict[str, Rating]:
    groups = rate(games(*results), method, num_resamples=num_resamples, seed=0)  # type: ignore[arg-type]
    return {rating.player: rating for group in groups for rating in group.ratings}


def play(strengths: dict[str, float], count: int, seed: int, ties: float = 0.0) -> list[Game]:
    chance = random.Random(seed)
    results = []
    for _ in range(count):
        first, second = chance.sample(sorted(strengths), 2)
        wins = chance.random() < 1 / (1 + math.exp(strengths[second] - strengths[first]))
        results.append((first, second, 0.5 if chance.random() < ties else float(wins)))
    return results


# Bradley-Terry


@pytest.mark.parametrize(
    ("won", "tied", "lost", "odds"),
    [(30, 0, 10, 3.0), (10, 0, 30, 1 / 3), (5, 10, 5, 1.0), (30, 10, 10, 35 / 15), (1, 0, 1, 1.0), (999, 0, 1, 999.0)],
)
def test_two_models_differ_by_the_log_of_their_odds(won, tied, lost, odds):
    found = scores(*times(won, "a", "b"), *times(tied, "b", "a", 0.5), *times(lost, "b", "a"))
    assert found["a"] - found["b"] == pytest.approx(400 * math.log10(odds), abs=1e-6)
    assert (found["a"] + found["b"]) / 2 == pytest.approx(1000, abs=1e-9)


def test_results_that_fit_strengths_of_1_2_and_4_exactly_give_them_back():
    found = scores(
        *(times(20, "mid", "low") + times(10, "low", "mid")),
        *(times(20, "top", "mid") + times(10, "mid", "top")),
        *(times(24, "top", "low") + times(6, "low", "top")),
    )
    step = 400 * math.log10(2)
    assert found == {
        "low": pytest.approx(1000 - step, abs=1e-6),
        "mid": pytest.approx(1000, abs=1e-6),
        "top": pytest.approx(1000 + step, abs=1e-6),
    }


def unexpected(strengths: np.ndarray, wins: np.ndarray) -> list[tuple[float, float]]:
    """Of each player: the wins against, and the losses to, chance as these strengths see it, in plain arithmetic.

    Wins minus losses is the gradient of the log-likelihood, which is concave: where they are equal is its maximum.
    """
    players = range(len(wins))

    def lose(player: int, other: int) -> float:
        return 1 / (1 + math.exp(strengths[player] - strengths[other]))

    return [
        (sum(wins[i, j] * lose(i, j) for j in players), sum(wins[j, i] * lose(j, i) for j in players)) for i in players
    ]


@pytest.mark.parametrize("seed", range(12))
def test_at_the_maximum_everybody_won_as_much_as_expected(seed):
    generator = np.random.default_rng(seed)
    players = int(generator.integers(2, 12))
    wins = generator.integers(0, 9, (players, players)) * (generator.random((players, players)) < 0.5) / 2
    wins[np.arange(players), (np.arange(players) + 1) % players] += generator.choice([1.0, 50.0, 1e6])
    np.fill_diagonal(wins, 0)
    strengths = bradley_terry(wins)
    for won, lost in unexpected(strengths, wins):
        assert won == pytest.approx(lost, rel=1e-8)
    assert strengths.sum() == pytest.approx(0, abs=1e-9)


def test_one_sided_results_that_few_games_close_to_a_ring_are_rated():
    # Here a whole step of Newton's method goes so far that none leads back.
    results = [(0, 1, 1e3), (1, 2, 11e3), (1, 4, 100.0), (2, 3, 10.0), (3, 0, 1e6), (4, 2, 1e6), (4, 3, 1e7)]
    wins = np.zeros((5, 5))
    for winner, loser, count in results:
        wins[winner, loser] = count
    for won, lost in unexpected(bradley_terry(wins), wins):
        assert won == pytest.approx(lost, rel=1e-8)


def test_several_tables_at_once_give_what_each_gives_alone():
    generator = np.random.default_rng(5)
    tables = generator.integers(1, 30, (7, 5, 5)) * (1 - np.eye(5))
    assert bradley_terry(tables) == pytest.approx(np.stack([bradley_terry(table) for table in tables]), abs=1e-9)


def test_very_unequal_models_are_rated_without_overflow():
    chain = [f"m{index:02}" for index in range(30)]
    found = scores(*((first, second, 0.999999) for first, second in pairwise(chain)))
    steps = {round(found[first] - found[second], 3) for first, second in pairwise(chain)}
    assert steps == {round(400 * math.log10(999_999), 3)}


def test_wins_without_a_maximum_are_no_result():
    with pytest.raises(ValueError, match="no maximum"):
        bradley_terry(np.array([[0.0, 3.0], [0.0, 0.0]]))


# Who won or lost everything


def test_a_model_that_won_everything_has_a_finite_score_and_no_upper_limit():
    found = ratings(*times(10, "a", "b"))
    # One tie is added to ten wins: odds of 10.5 to 0.5.
    assert found["a"].score - found["b"].score == pytest.approx(400 * math.log10(21), abs=1e-6)
    assert (found["a"].bounded_below, found["a"].bounded_above) == (True, False)
    assert (found["b"].bounded_below, found["b"].bounded_above) == (False, True)
    assert [found[name].low for name in "ab"] == [found[name].high for name in "ab"] == [None, None]


def test_the_added_tie_is_reported_and_only_where_it_is_needed():
    (certain,) = rate(games(*times(9, "a", "b"), *times(1, "b", "a")), "bradley-terry", num_resamples=300, seed=0)
    (held,) = rate(games(*times(10, "a", "b")), "bradley-terry", num_resamples=300, seed=0)
    assert (certain.uses_prior, held.uses_prior) == (False, True)
    # A resample without b's only win has a chance of 0.9 to the tenth, 0.349: 105 of 300, standard deviation 8.
    assert 80 < certain.num_resamples_with_prior < 130


def test_a_newcomer_that_won_once_takes_the_limits_of_nobody_else():
    others = play({"a": 0.5, "b": 0.0, "c": -0.5}, 300, seed=1)
    alone, joined = ratings(*others), ratings(*others, ("new", "b", 1.0))
    assert not joined["new"].bounded_above
    assert joined["new"].score > joined["b"].score
    for name in "abc":
        assert (joined[name].bounded_below, joined[name].bounded_above) == (True, True)
        assert joined[name].score == pytest.approx(alone[name].score, abs=1)
        assert width(joined[name]) == pytest.approx(width(alone[name]), rel=0.15)


def test_in_a_chain_of_wins_the_middle_has_no_limit_on_either_side():
    found = ratings(*times(3, "a", "b"), *times(3, "b", "c"))
    limits = {name: (rating.bounded_below, rating.bounded_above) for name, rating in found.items()}
    assert limits == {"a": (True, False), "b": (False, False), "c": (False, True)}
    assert found["a"].score > found["b"].score > found["c"].score


def test_a_tie_bounds_both_sides():
    found = ratings(*times(3, "a", "b"), ("a", "b", 0.5))
    assert all(rating.bounded_below and rating.bounded_above for rating in found.values())
    assert found["a"].score - found["b"].score == pytest.approx(400 * math.log10(3.5 / 0.5), abs=1e-6)


@pytest.mark.parametrize("method", ["bradley-terry", "elo"])
def test_models_that_no_game_connects_are_rated_apart(method):
    results = [*times(3, "a", "b"), ("b", "a", 1.0), *times(1, "x", "y"), *times(1, "y", "x")]
    first, second = rate(games(*results), method, num_resamples=10, seed=0)
    assert [rating.player for rating in first.ratings] == ["a", "b"]
    assert sorted(rating.player for rating in second.ratings) == ["x", "y"]
    assert np.mean([rating.score for rating in second.ratings]) == pytest.approx(1000)


# Elo


def test_elo_of_three_games_is_what_the_formula_gives_by_hand():
    # Win at equal scores: +2. Then 1002 against 998 is expected to win 0.505756: a tie costs 4 x 0.005756.
    # Then b, at 998.023, beats c, at 1000, being expected to win 0.497155: +2.011380.
    found = scores(("a", "b", 1.0), ("b", "a", 0.5), ("b", "c", 1.0), method="elo")
    assert found["a"] == pytest.approx(1001.976975, abs=1e-6)
    assert found["b"] == pytest.approx(1000.034405, abs=1e-6)
    assert found["c"] == pytest.approx(997.988620, abs=1e-6)


def test_elo_depends_on_the_order_of_the_games_and_bradley_terry_does_not():
    early, late = [*times(20, "a", "b"), *times(20, "b", "a")], [*times(20, "b", "a"), *times(20, "a", "b")]
    assert scores(*early, method="elo")["a"] < 1000 < scores(*late, method="elo")["a"]
    assert scores(*early)["a"] == pytest.approx(scores(*late)["a"])


# Intervals


STRENGTHS = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.3, "e": -1.2}


def test_known_strengths_lie_in_their_intervals_about_as_often_as_promised():
    points = 400 / math.log(10)
    inside = total = 0
    for seed in range(40):
        found = ratings(*play(STRENGTHS, 400, seed), num_resamples=300)
        for name, strength in STRENGTHS.items():
            low, high = found[name].low, found[name].high
            assert low is not None
            assert high is not None
            inside += low <= 1000 + points * strength <= high
            total += 1
    # 200 intervals of 95 %: the standard deviation is about 1.5 %, somewhat more because five share a log.
    assert 0.90 <= inside / total <= 0.99


def test_many_battles_give_the_known_strengths_and_few_do_not():
    points = 400 / math.log(10)
    many = ratings(*play(STRENGTHS, 20_000, seed=2))
    few = ratings(*play(STRENGTHS, 200, seed=2))
    for name, strength in STRENGTHS.items():
        assert many[name].score == pytest.approx(1000 + points * strength, abs=15)
        assert width(few[name]) == pytest.approx(10 * width(many[name]), rel=0.4), "width goes with the root of games"


def width(rating: Rating) -> float:
    assert rating.low is not None
    assert rating.high is not None
    return rating.high - rating.low


def test_elo_of_resampled_games_keeps_their_order():
    # In this order a ends far below 1000; games in any order would leave it in the middle.
    found = ratings(*times(300, "a", "b"), *times(300, "b", "a"), method="elo")
    assert found["a"].score < 900
    assert found["a"].low is not None
    assert found["a"].high is not None
    assert found["a"].low < found["a"].score < found["a"].high < 950


@pytest.mark.parametrize("method", ["bradley-terry", "elo"])
def test_a_seed_gives_the_same_intervals_again_and_another_seed_others(method):
    results = games(*play(STRENGTHS, 300, seed=3, ties=0.2))
    first, again, other = (rate(results, method, num_resamples=100, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [rating.score for rating in first[0].ratings] == [rating.score for rating in other[0].ratings]
    assert [rating.low for rating in first[0].ratings] != [rating.low for rating in other[0].ratings]


@pytest.mark.parametrize("method", ["bradley-terry", "elo"])
def test_a_score_lies_in_its_interval(method):
    for rating in ratings(*play(STRENGTHS, 500, seed=4, ties=0.2), method=method).values():
        assert rating.low is not None
        assert rating.high is not None
        assert rating.low < rating.score < rating.high


def test_without_resamples_there_are_no_intervals():
    found = ratings(*times(3, "a", "b"), *times(2, "b", "a"), num_resamples=0)
    assert {(rating.low, rating.high, rating.bounded_above) for rating in found.values()} == {(None, None, True)}


def test_resampling_in_batches_covers_every_resample(monkeypatch: pytest.MonkeyPatch):
    results = games(*play(STRENGTHS, 200, seed=6))
    for method, name in (("bradley-terry", "_BATCH_NUMBERS"), ("elo", "_BATCH_INDICES")):
        (whole,) = rate(results, method, num_resamples=50, seed=7)  # type: ignore[arg-type]
        monkeypatch.setattr(f"llava.serve.arena.ratings.{name}", 700)
        (parts,) = rate(results, method, num_resamples=50, seed=7)  # type: ignore[arg-type]
        assert [rating.low for rating in parts.ratings] == pytest.approx([rating.low for rating in whole.ratings])
