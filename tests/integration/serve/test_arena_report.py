"""`llava arena-report` from real logs to tables, files and a plot; and what it says where there is nothing to rank."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from llava.command_line import run
from llava.serve import arena_report
from tests.support.votes import BEGIN, DAY, simulate, vote, write_log

STRENGTHS = {"llava-v1.6-34b": 1.5, "llava-v1.5-13b": 0.7, "llava_v1.5_7b": 0.0, "tiny": -1.5}


@pytest.fixture
def report(capsys):
    """Runs the command in this process; returns (exit code, standard output, standard error)."""

    def run_it(*arguments: str | Path) -> tuple[int, str, str]:
        argv = [str(argument) for argument in arguments]
        code = run(arena_report.add_arguments, arena_report.main, argv=argv, prog="llava arena-report")
        return code, *capsys.readouterr()

    return run_it


@pytest.fixture
def ranking(report):
    """What the command says as JSON."""

    def run_it(*arguments: str | Path) -> dict:
        code, out, err = report(*arguments, "--format", "json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run_it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two days of an arena: 600 votes, chats between them, the last line cut off."""
    rows = simulate(STRENGTHS, 600, seed=1, tie_share=0.2)
    logs = tmp_path / "logs"
    logs.mkdir()
    chats = [{"tstamp": BEGIN, "type": "chat", "model": "tiny", "state": {}}] * 5
    write_log(logs / "2026-01-05-conv.json", [*rows[:300], *chats])
    second = write_log(logs / "2026-01-06-conv.json", rows[300:])
    with second.open("ab") as file:
        file.write(b'{"tstamp": 1767571300.5, "ty')
    return logs


def scores(ranking: dict) -> dict[str, float]:
    return {standing["model"]: standing["score"] for standing in ranking["standings"]}


def table(text: str, first: str) -> dict[str, str]:
    """Of a text report: the lines of the table whose head begins with `first`, by their first word that is a name."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == [first])
    rows = lines[start + 1 : lines.index("", start)]
    return {row.split()[0] if first == "model" else row.split()[1]: row for row in rows}


# What it says


@pytest.mark.parametrize("method", ["bradley-terry", "elo"])
def test_models_are_ranked_by_their_strength(method, folder, ranking):
    found = ranking(folder, "--method", method)
    assert [standing["model"] for standing in found["standings"]] == list(STRENGTHS)
    assert [standing["rank"] for standing in found["standings"]] == [1, 2, 3, 4]


def test_hand_counted_votes_stand_in_the_tables(report, tmp_path: Path):
    rows = [vote("a", "b")] * 3 + [vote("a", "b", "rightvote")] + [vote("b", "a", "tievote")] * 2
    log = write_log(tmp_path / "votes.jsonl", [*rows, vote("a", "b", "bothbad_vote"), vote("b", "a", "rightvote")])
    code, out, err = report(log)
    assert (code, err) == (0, "")
    # Of 8 battles a won 4, tied 2, was as bad in 1, lost 1: 5.5 to 2.5, so 400 * log10(2.2) = 137.0 apart.
    standings = table(out, "rank")
    assert standings["a"].split()[:3] == ["1", "a", "1068"]
    assert standings["a"].split()[6:] == ["8", "4", "2", "1", "1", "68.8", "%"]
    assert standings["b"].split()[:3] == ["2", "b", "932"]
    assert standings["b"].split()[6:] == ["8", "1", "2", "1", "4", "31.2", "%"]
    assert table(out, "model")["a"].split() == ["a", "b", "8", "4", "2", "1", "1", "68.8", "%"]
    assert out.startswith("Arena: 8 battles of 2 models, 2026-01-05 (UTC)\n")


def test_every_line_read_is_accounted_for(ranking, tmp_path: Path):
    rows = [
        vote("a", "b", conversation="one"),
        vote("a", "b", "rightvote", conversation="one", at=BEGIN + 1),
        vote("b", "a", conversation="two", at=BEGIN + 2),
        vote("a", "a", conversation="three"),
        vote("a", "b", conversation="four", models=None),
        vote("a", "b", conversation="five", at=BEGIN - 1),
        {"type": "chat"},
        {"type": "upvote"},
        {"type": "flag"},
        "not a vote",
        vote("a", "b", "leftvot"),
        vote("a", ""),
    ]
    log = write_log(tmp_path / "2026-01-05-conv.json", rows, end="\r\n")
    found = ranking(tmp_path, "--anonymous-only", "--since", "2026-01-05")
    assert found["num_battles"] == 2
    assert found["excluded"] == {
        "the same model on both sides": 1,
        "further votes on the same conversation": 1,
        "outside the dates": 1,
        "the models' names were shown": 1,
    }
    assert found["other_lines"] == {"chat": 1, "flag": 1, "upvote": 1}
    assert found["bad_lines"] == [
        f"{log}, line 10: not a JSON object",
        f"{log}, line 11: unknown type 'leftvot'",
        f"{log}, line 12: the right model has no name, neither in `models` nor in `states`",
    ]
    assert found["num_lines"] == len(rows) == 2 + 4 + 3 + found["num_bad_lines"]


def test_what_was_left_out_stands_in_the_text(folder, report):
    _, out, _ = report(folder, "--named-only", "--min-votes", "3")
    assert "\n  Chosen: named votes, the first vote of a conversation, models with 3 votes or more\n" in out
    assert "\n  606 lines read, in 2 files\n" in out
    assert "\n  5 lines without a battle (chat: 5)\n" in out
    assert "battles left out: the models' names were hidden\n" in out
    assert "2026-01-06-conv.json, line 301: cut off before the end of the line" in out


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        ((), [5, 6, 7]),
        (("--since", "2026-01-06"), [6, 7]),
        (("--until", "2026-01-06"), [5, 6]),
        (("--since", "2026-01-06", "--until", "2026-01-06"), [6]),
    ],
)
def test_both_days_of_a_period_count(dates, days, ranking, tmp_path: Path):
    moments = [BEGIN, BEGIN + DAY, BEGIN + 2 * DAY - 0.5, BEGIN + 2 * DAY]
    log = write_log(tmp_path / "votes.jsonl", [vote("a", "b", at=moment) for moment in moments])
    found = ranking(log, *dates)
    assert found["num_battles"] == sum(day in days for day in (5, 6, 6, 7))
    assert found["first_vote"].startswith(f"2026-01-0{days[0]}T00:00:00")


def test_the_period_is_said(folder, report):
    _, out, _ = report(folder, "--since", "2026-01-05", "--until", "2026-01-05")
    assert "a conversation, from 2026-01-05 on, before 2026-01-06\n" in out


def test_elo_follows_the_time_of_the_votes_not_their_place_in_the_files(ranking, tmp_path: Path):
    rows = [vote("a", "b", at=BEGIN + i) for i in range(20)] + [vote("b", "a", at=BEGIN + 20 + i) for i in range(20)]
    ordered = write_log(tmp_path / "ordered.jsonl", rows)
    shuffled = write_log(tmp_path / "shuffled.jsonl", [*rows[20:], *rows[:20]])
    assert scores(ranking(ordered, "--method", "elo")) == scores(ranking(shuffled, "--method", "elo"))
    assert scores(ranking(ordered, "--method", "elo"))["b"] > 1000


def test_models_that_never_met_are_said_not_to_compare(report, tmp_path: Path):
    rows = [vote("a", "b"), vote("b", "a"), vote("a", "b"), vote("x", "y"), vote("y", "x")]
    _, out, _ = report(write_log(tmp_path / "votes.jsonl", rows))
    assert "The models fall into 2 groups without a battle between them." in out
    assert out.index("Group 1") < out.index("  a ") < out.index("Group 2") < out.index("  x ")


def test_a_model_that_never_lost_has_no_upper_limit_and_the_reason_is_said(report, tmp_path: Path):
    _, out, _ = report(write_log(tmp_path / "votes.jsonl", [vote("a", "b")] * 5))
    standings = table(out, "rank")
    assert "no upper limit" in standings["a"]
    assert "no lower limit" in standings["b"]
    assert "No upper limit for a: some models never beat them" in out
    assert "So one tie is added between two models that met" in out
    assert "inf" not in " ".join(standings.values())


def test_equal_scores_share_a_rank(ranking, tmp_path: Path):
    rows = [vote(*pair) for pair in ("ab", "ba", "ac", "ca", "bc", "cb")]
    found = ranking(write_log(tmp_path / "votes.jsonl", rows))
    assert [(standing["rank"], standing["model"]) for standing in found["standings"]] == [(1, "a"), (1, "b"), (1, "c")]


def test_without_resamples_the_column_of_intervals_is_empty(folder, ranking, report):
    found = ranking(folder, "--bootstrap", "0")
    assert {(standing["low"], standing["high"]) for standing in found["standings"]} == {(None, None)}
    _, out, _ = report(folder, "--bootstrap", "0")
    assert "no intervals (--bootstrap 0)" in out


def test_no_report_holds_the_address_of_a_voter(folder, report, tmp_path: Path):
    report(folder, "--output", tmp_path / "made")
    assert not any(b"192.0.2.1" in file.read_bytes() for file in (tmp_path / "made").iterdir())


# Formats and files


def test_all_formats_say_the_same(folder, ranking, report):
    found = ranking(folder)
    _, text, _ = report(folder)
    _, markdown, _ = report(folder, "--format", "markdown")
    _, lines, remarks = report(folder, "--format", "csv")
    for standing, row in zip(found["standings"], csv.DictReader(io.StringIO(lines)), strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in standing.items()}
        shown = [f"{standing['score']:.0f}", f"{standing['low']:.0f} to {standing['high']:.0f}"]
        assert table(text, "rank")[standing["model"]].split()[2:6] == " ".join(shown).split()
        assert f"| {standing['model'].replace('_', chr(92) + '_')} | {' | '.join(shown)} |" in markdown
    assert "600 battles counted" in remarks, "where the format has no room for it, on standard error"


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_folder_gets_every_format_and_a_plot(kind, folder, report, tmp_path: Path):
    made = tmp_path / "deep" / "made"
    code, out, err = report(folder, "--output", made, "--plot", kind)
    assert code == 0
    names = {"report.json", "report.md", "report.csv", "report-pairs.csv", f"report.{kind}"}
    assert {file.name for file in made.iterdir()} == names
    assert all(name in err for name in names)
    assert out.startswith("Arena: 600 battles")
    assert f"![Scores with their intervals](report.{kind})" in (made / "report.md").read_text()
    pairs = list(csv.DictReader(io.StringIO((made / "report-pairs.csv").read_text())))
    assert len(pairs) == 6
    assert sum(int(pair["battles"]) for pair in pairs) == 600


def test_the_plot_names_every_model_and_is_read_as_text(folder, report, tmp_path: Path):
    report(folder, "--output", tmp_path / "made")
    svg = (tmp_path / "made" / "report.svg").read_text()
    words = {"".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if "text" in node.tag}
    assert set(STRENGTHS) <= words
    assert "Bradley-Terry score, bars cover 95 % of the resamples" in words
    assert "@font-face" not in svg


def test_the_plot_as_png_grows_with_the_number_of_models(report, tmp_path: Path):
    heights = []
    for count in (2, 12):
        names = {f"model-{number}": 0.0 for number in range(count)}
        log = write_log(tmp_path / f"{count}.jsonl", simulate(names, 300, seed=1))
        report(log, "--output", tmp_path / str(count), "--plot", "png", "--bootstrap", "20")
        with Image.open(tmp_path / str(count) / "report.png") as image:
            heights.append(image.height)
            assert len(image.convert("RGB").getcolors(100_000) or []) > 10, "something is drawn"
    assert heights[1] > 2 * heights[0]


def test_the_same_log_gives_the_same_files(folder, report, tmp_path: Path):
    for name in ("first", "second"):
        report(folder, "--output", tmp_path / name)
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", ["=HYPERLINK(0)", "+1", "-x", "@sum"])
def test_a_name_that_a_spreadsheet_would_run_is_quoted_in_csv_alone(name, report, ranking, tmp_path: Path):
    log = write_log(tmp_path / "votes.jsonl", [vote(name, "a"), vote("a", name)])
    made = tmp_path / "made"
    report(log, "--output", made)
    for file in ("report.csv", "report-pairs.csv"):
        assert f",'{name}," in (made / file).read_text()
        assert f",{name}," not in (made / file).read_text()
    assert name in scores(ranking(log))


@pytest.mark.parametrize("name", ["a|b", "<script>alert(1)</script>", "$x_1$", "[link](http://x)", "猫-7b"])
def test_a_name_with_marks_of_markdown_html_or_formulas_stays_a_name(name, report, tmp_path: Path):
    log = write_log(tmp_path / "votes.jsonl", [vote(name, "b"), vote("b", name)])
    code, out, _ = report(log, "--format", "markdown", "--output", tmp_path / "made")
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith("| 1 |")]
    assert all(line.replace("\\|", "").count("|") == 11 for line in rows), "ten cells"
    assert "<script>" not in out
    svg = ElementTree.fromstring((tmp_path / "made" / "report.svg").read_text())
    assert name in {"".join(node.itertext()).strip() for node in svg.iter()}


# Where there is nothing to rank


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([], (), "no vote between two models (0 other lines). To get votes, start the web page with `llava web"),
        ([{"type": "chat"}, {"type": "chat"}, 7], (), "(2 other lines, and 1 that cannot be read (first: "),
        ([vote("a", "a")], (), "none of the 1 battles is left to count (the same model on both sides: 1)"),
        ([vote("a", "b")], ("--named-only",), "none of the 1 battles is left to count (the models' names were hidden"),
        ([vote("a", "b")], ("--min-votes", "2"), "none of the 1 battles is left to count (a model with fewer than 2"),
        ([vote("a", "b"), 7], ("--strict",), "line 2: not a JSON object. Repair or remove the line"),
        ([vote("a", "b")], ("--since", "2026-02-01", "--until", "2026-01-01"), "Exchange the two"),
    ],
)
def test_nothing_to_rank_is_one_line_that_says_why(rows, arguments, message, report, tmp_path: Path):
    log = write_log(tmp_path / "2026-01-05-conv.json", rows)
    code, out, err = report(log, *arguments, "--output", tmp_path / "made")
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_an_output_that_is_a_file_is_named(folder, report, tmp_path: Path):
    (tmp_path / "taken").write_text("mine")
    code, _, err = report(folder, "--output", tmp_path / "taken")
    assert (code, err) == (1, f"error: --output {tmp_path / 'taken'}: this is a file. Name a folder.\n")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [("--since", "yesterday"), ("--bootstrap", "-1"), ("--anonymous-only", "--named-only"), ("--method", "glicko")],
)
def test_wrong_usage_exits_with_2(arguments, report, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        report(folder, *arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_llava_and_python_dash_m_run_it(folder, run_python):
    direct = run_python("-m", "llava.serve.arena_report", folder, "--bootstrap", "50")
    through = run_python("-m", "llava", "arena-report", folder, "--bootstrap", "50")
    assert direct.returncode == 0, direct.stderr
    assert direct.stdout == through.stdout
    assert "llava-v1.6-34b" in direct.stdout
