"""What a review is going to cost, and the limit on it."""

from __future__ import annotations

from tests.support.reviews import arguments, read_lines


def test_a_dry_run_counts_calls_tokens_and_cost_and_asks_nothing(judge, files, output, review):
    code, out, _ = review(arguments(files, output, dry_run=True, swap=True, price_in=2.5, price_out=10))
    assert code == 0
    assert judge.bodies == []
    assert not output.exists()
    size = 2 * sum(len(body) for body in prompts_of(files, output, judge, review))
    assert "calls:   18 to make, 0 made already" in out
    assert f"prompts: {size:,} characters, about {round(size / 4):,} tokens" in out
    assert "replies: about 2,340 tokens (130 each), at most 18,432" in out
    cost = (round(size / 4) * 2.5 + 2340 * 10) / 1e6
    assert f"cost:    about {cost:.4f}, at most about" in out


def prompts_of(files, output, judge, review) -> list[str]:
    assert review(arguments(files, output))[0] == 0
    return ["".join(message["content"] for message in body["messages"]) for body in judge.bodies]


def test_a_dry_run_takes_its_estimate_from_the_replies_that_are_there(judge, files, output, review):
    assert review(arguments(files, output))[0] == 0
    code, out, _ = review(arguments(files, output, dry_run=True, swap=True))
    assert code == 0
    assert "calls:   9 to make, 9 made already" in out
    assert "as in the 9 existing replies" in out
    assert "replies: about 180 tokens (20 each)" in out


def test_the_cost_stays_below_its_limit_and_a_higher_limit_goes_on(judge, files, output, review):
    prices = {"price_in": 1000, "price_out": 1000, "max_tokens": 100}
    code, _, err = review(arguments(files, output, max_cost=2, concurrency=2, **prices))
    assert code == 1
    assert "could bring the cost above --max-cost 2" in err
    done = read_lines(output)
    spent = sum(sum(record["usage"].values()) for record in done) / 1000
    assert 0 < len(done) < 9
    assert spent <= 2
    assert review(arguments(files, output, max_cost=100, **prices))[0] == 0
    assert len(judge.bodies) == 9
