"""Which battles count: once a conversation, by names shown or hidden, by day, by votes a model has."""

from __future__ import annotations

import pytest

from llava.serve.arena.battles import Selection, select
from llava.serve.arena.vote_log import Battle, Vote


def battle(
    left: str,
    right: str,
    at: float = 0.0,
    *,
    vote: Vote = Vote.LEFT,
    anonymous: bool = True,
    conversation: str | None = None,
) -> Battle:
    return Battle(at, vote, left, right, anonymous, (conversation, "b") if conversation else None)


REPEATED = "further votes on the same conversation"


@pytest.mark.parametrize(
    ("repeated", "times", "excluded"),
    [("first", [1, 4], {REPEATED: 2}), ("last", [3, 4], {REPEATED: 2}), ("all", [1, 2, 3, 4], {})],
)
def test_a_conversation_counts_once_as_chosen(repeated, times, excluded):
    battles = [battle("a", "b", at, conversation="one") for at in (1, 2, 3)]
    battles.append(battle("a", "b", 4, conversation="two"))
    kept, left_out = select(battles, Selection(repeated=repeated))
    assert [each.tstamp for each in kept] == times
    assert left_out == excluded


def test_votes_without_a_conversation_id_all_count():
    kept, left_out = select([battle("a", "b", at) for at in (1, 2, 3)], Selection())
    assert (len(kept), left_out) == (3, {})


def test_a_vote_after_the_names_were_shown_does_not_count_as_a_named_one_of_its_own():
    battles = [
        battle("a", "b", 1, conversation="one"),
        battle("a", "b", 2, conversation="one", anonymous=False),
        battle("a", "b", 3, conversation="two", anonymous=False),
    ]
    named, left_out = select(battles, Selection(names="named"))
    assert [each.tstamp for each in named] == [3]
    assert left_out == {REPEATED: 1, "the models' names were hidden": 1}
    anonymous, left_out = select(battles, Selection(names="anonymous"))
    assert [each.tstamp for each in anonymous] == [1]
    assert left_out == {REPEATED: 1, "the models' names were shown": 1}


def test_a_model_does_not_battle_itself():
    kept, left_out = select([battle("a", "a"), battle("a", "b")], Selection())
    assert [each.right for each in kept] == ["b"]
    assert left_out == {"the same model on both sides": 1}


def test_the_first_moment_counts_and_the_end_does_not():
    kept, left_out = select([battle("a", "b", at) for at in (9, 10, 19, 20)], Selection(since_s=10, until_s=20))
    assert [each.tstamp for each in kept] == [10, 19]
    assert left_out == {"outside the dates": 2}


def test_leaving_a_rare_model_out_can_make_another_one_rare():
    # c has two votes, one of them against d, who has one.
    battles = [battle("a", "b"), battle("a", "b"), battle("a", "c"), battle("c", "d")]
    kept, left_out = select(battles, Selection(min_votes=2))
    assert [(each.left, each.right) for each in kept] == [("a", "b"), ("a", "b")]
    assert left_out == {"a model with fewer than 2 votes": 2}
