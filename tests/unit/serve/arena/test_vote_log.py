"""What a line of the arena's log says, and that a line which says nothing is reported with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import DataError
from llava.serve.arena.vote_log import Battle, Vote, parse_line, read_votes
from tests.support.votes import BEGIN, vote, write_log


def parsed(row: object) -> Battle | str:
    return parse_line(json.dumps(row).encode() + b"\n")


def without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}


def test_a_vote_as_fastchat_writes_it_is_a_battle():
    line = (
        b'{"tstamp": 1690000000.1234, "type": "rightvote", "models": ["", ""], "states": ['
        b'{"template_name": "vicuna_v1.1", "system_message": "", "roles": ["USER", "ASSISTANT"], "messages": '
        b'[["USER", "Hi"], ["ASSISTANT", "Hello"]], "offset": 0, "conv_id": "5a1c", "model_name": "llava-7b"}, '
        b'{"template_name": "vicuna_v1.1", "system_message": "", "roles": ["USER", "ASSISTANT"], "messages": '
        b'[["USER", "Hi"], ["ASSISTANT", "Yes?"]], "offset": 0, "conv_id": "77f0", "model_name": "llava-13b"}], '
        b'"ip": "192.0.2.1"}\n'
    )
    assert parse_line(line) == Battle(
        tstamp=1690000000.1234,
        vote=Vote.RIGHT,
        left="llava-7b",
        right="llava-13b",
        anonymous=True,
        conversation=("5a1c", "77f0"),
    )


@pytest.mark.parametrize(
    ("models", "anonymous"),
    [
        (("", ""), True),
        (("Model A", "Model B"), True),
        (("### Model A", "### Model B"), True),
        (("### Model A: a", "### Model B: b"), False),
        (("<h3>Model A: a</h3>\n", "<h3>Model B: b</h3>\n"), False),
        (("Model A: a", "Model B: b"), False),
        (("a", "b"), False),
    ],
)
def test_a_vote_is_anonymous_only_if_the_page_showed_no_name(models, anonymous):
    battle = parsed(vote("a", "b", models=models))
    assert isinstance(battle, Battle)
    assert (battle.anonymous, battle.left, battle.right) == (anonymous, "a", "b")


def test_the_names_that_the_page_showed_do_where_the_conversations_have_none():
    row = vote("", "", models=("### Model A: first", "### Model B: second"))
    battle = parsed(row)
    assert isinstance(battle, Battle)
    assert (battle.left, battle.right) == ("first", "second")


@pytest.mark.parametrize("kind", ["chat", "upvote", "downvote", "flag", "share"])
def test_other_lines_of_the_page_are_known_by_their_type(kind):
    assert parsed({"tstamp": BEGIN, "type": kind, "model": "a", "state": {}, "ip": ""}) == kind


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([1, 2], "not a JSON object"),
        (without(vote("a", "b"), "type"), "no type"),
        (vote("a", "b", "leftvot"), "unknown type 'leftvot'"),
        (vote("a", "b", ["leftvote"]), "unknown type"),  # type: ignore[arg-type]
        (without(vote("a", "b"), "tstamp"), "`tstamp` is missing"),
        (vote("a", "b", at=float("nan")), "`tstamp` is missing or not a number"),
        (vote("a", "b", at=True), "`tstamp` is missing or not a number"),
        (vote("a", "b", at=1_767_571_200_000.0), "not a time in seconds"),
        (vote("a", "b", at=-1.0), "not a time in seconds"),
        (without(vote("a", "b"), "models"), "`models` is not a list of two names"),
        ({**vote("a", "b"), "models": ["", None]}, "`models` is not a list of two names"),
        ({**vote("a", "b"), "models": ["", "", ""]}, "`models` is not a list of two names"),
        (without(vote("a", "b"), "states"), "`states` is not a list of two conversations"),
        ({**vote("a", "b"), "states": ["a", "b"]}, "`states` is not a list of two conversations"),
        (
            {**vote("a", "b"), "states": [{"model_name": "a"}, {"model_name": 7}]},
            "`model_name` in `states` is not a string",
        ),
        (vote("a", ""), "the right model has no name"),
        (vote("", "b"), "the left model has no name"),
        (vote("a", "b", models=("", "b")), "`models` names the right model only"),
        (vote("a", "b", models=("a", "")), "`models` names the left model only"),
        (vote("a", "b", models=("a", "c")), "the page named 'c' on the right, but 'b' answered"),
        (vote("a\x1b[31m", "b"), "control characters"),
    ],
)
def test_a_row_that_tells_of_no_battle_says_why(row, problem):
    with pytest.raises(DataError, match=problem.replace("[", r"\[")):
        parsed(row)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"tstamp": 1, "type": "leftvo', "cut off"),
        (b'{"tstamp": 1, "type": "leftvo\n', "not JSON"),
        (b"\0\0\0\0\n", "not JSON"),
        (b'{"type": "\xff\xfe"}\n', "not UTF-8"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'{"tstamp": ' + b"9" * 5_000 + b"}\n", "not JSON|no type"),
    ],
)
def test_bytes_that_are_no_line_say_why(line, problem):
    with pytest.raises(DataError, match=problem):
        parse_line(line)


def test_a_bad_line_is_reported_with_its_place_and_the_others_are_read(tmp_path: Path):
    log = write_log(tmp_path / "2026-01-05-conv.json", [vote("a", "b"), "no vote", {"type": "chat"}, vote("b", "a")])
    with log.open("ab") as file:
        file.write(b'{"tstamp": 1767571300.5, "type": "tievo')  # the page was killed while it wrote
    found = read_votes([log])
    assert len(found.battles) == 2
    assert found.others == {"chat": 1}
    assert found.num_lines == 5
    assert [str(bad) for bad in found.bad_lines] == [
        f"{log}, line 2: not a JSON object",
        f"{log}, line 5: cut off before the end of the line",
    ]


def test_strict_reading_stops_at_a_bad_line_and_names_it(tmp_path: Path):
    log = write_log(tmp_path / "2026-01-05-conv.json", [vote("a", "b"), vote("a", "")])
    with pytest.raises(DataError, match=r"conv\.json, line 2: the right model has no name.* --strict"):
        read_votes([log], strict=True)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_line_ends_of_any_system_and_a_byte_order_mark_make_no_difference(end, tmp_path: Path):
    log = write_log(tmp_path / "a-conv.json", [vote("a", "b"), vote("b", "a")], end)
    log.write_bytes(b"\xef\xbb\xbf" + log.read_bytes())
    found = read_votes([log], strict=True)
    assert (len(found.battles), found.num_lines) == (2, 2)


def test_a_last_line_without_its_end_counts_if_it_is_whole(tmp_path: Path):
    log = write_log(tmp_path / "a-conv.json", [vote("a", "b")], end="")
    assert len(read_votes([log], strict=True).battles) == 1


def test_a_folder_is_its_logs_and_no_file_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    first = write_log(tmp_path / "2026-01-05-conv.json", [vote("a", "b")])
    write_log(tmp_path / "vision-tmp-2026-01-06-conv.json", [vote("a", "b")])
    write_log(tmp_path / "settings.json", [vote("a", "b")])
    found = read_votes([tmp_path, first, ".", first.name])
    assert len(found.battles) == 2
    assert [Path(file).name for file in found.files] == ["2026-01-05-conv.json", "vision-tmp-2026-01-06-conv.json"]


def test_battles_of_several_logs_come_in_order_of_time(tmp_path: Path):
    write_log(tmp_path / "a-conv.json", [vote("a", "b", at=BEGIN + 3), vote("a", "b", at=BEGIN + 1)])
    write_log(tmp_path / "b-conv.json", [vote("a", "b", at=BEGIN + 2)])
    assert [battle.tstamp - BEGIN for battle in read_votes([tmp_path]).battles] == [1, 2, 3]


def test_a_path_without_logs_is_an_error_that_says_how_to_get_votes(tmp_path: Path):
    with pytest.raises(DataError, match=r"contains no logs .*llava web --log-dir"):
        read_votes([tmp_path])
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        read_votes([tmp_path / "nowhere"])
