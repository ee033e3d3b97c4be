"""A judge over real HTTP, a small question set, and a way to run a review: what all tests of GPT review share."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.command_line import run
from llava.eval import eval_gpt_review_visual
from tests.support.fake_judge import MODEL, FakeJudge, judging
from tests.support.reviews import make_question_set


@pytest.fixture
def judge(monkeypatch):
    """A judge that the environment leads to."""
    judge = FakeJudge()
    with judging(judge) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("LLAVA_JUDGE_MODEL", MODEL)
        yield judge


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return make_question_set(tmp_path / "set")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "made" / "review.json"


@pytest.fixture
def review(capsys):
    """Runs a command in this process; gives (exit code, standard output, standard error)."""

    def run_it(argv: list[str], command=eval_gpt_review_visual) -> tuple[int, str, str]:
        code = run(command.add_arguments, command.main, argv=argv)
        return code, *capsys.readouterr()

    return run_it
