"""The text of an answer in the making: pieces add up to it, it ends at a stop text, half characters never show."""

from __future__ import annotations

import pytest

from llava.model.loading.tokenizer import load_tokenizer
from llava.text_generation.answer_events import Piece, ServerAnswer
from llava.text_generation.answer_text import AnswerText, Detokenizer, UntilStop
from tests.support.checkpoints import DATA


class Words:
    """A tokenizer whose ids are positions in a list of pieces of text."""

    def __init__(self, *pieces: str):
        self.pieces = pieces

    def decode(self, ids, skip_special_tokens):
        return "".join(self.pieces[i] for i in ids)

    def convert_ids_to_tokens(self, i):
        return self.pieces[i]


def stream(pieces: list[str], stop: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> tuple[list[str], AnswerText]:
    heard: list[str] = []
    text = AnswerText(Words(*pieces), stop, prefixes, lambda piece: heard.append(piece.text))
    for i in range(len(pieces)):
        text.update(list(range(i + 1)))
    text.finish()
    return heard, text


@pytest.mark.parametrize(
    ("pieces", "stop", "expected", "stopped"),
    [
        (["A cat", ".", "###", "Human"], ("###",), "A cat.", True),
        (["A cat", ". #", "##", "Human"], ("###",), "A cat.", True),
        (["C", "#", " and F", "##", "!"], ("###",), "C# and F##!", False),
        (["A ", "cat", " "], (), "A cat", False),
        (["  A", " cat</s>"], ("</s>",), "A cat", True),
        (["One#"], ("###",), "One#", False),
        (["One, t", "wo, three"], ("three", "two"), "One,", True),
        (["ab", "ab", "abc"], ("abc", "b!"), "abab", True),
    ],
)
def test_answer_ends_at_the_stop_text_and_never_shows_a_part_of_it(pieces, stop, expected, stopped):
    heard, text = stream(pieces, stop)
    assert ("".join(heard), text.text, text.stopped) == (expected, expected, stopped)


@pytest.mark.parametrize(
    ("pieces", "stop", "shown", "stopped"),
    [
        (["A cat", ".", "###", "Human"], ("###",), ["A cat", ".", ""], True),
        (["A cat", ". #", "##", "Human"], ("###",), ["A cat", ". ", ""], True),
        (["C", "#", " and F", "##", "!"], ("###",), ["C", "", "# and F", "", "##!", ""], False),
        (["  A ", "cat "], (), ["  A ", "cat ", ""], False),
        (["One#"], ("###",), ["One", "#"], False),
        (["One, t", "wo, three"], ("three", "two"), ["One, ", ""], True),
    ],
)
def test_text_of_another_engine_ends_at_the_stop_text_and_never_shows_a_part_of_it(pieces, stop, shown, stopped):
    text, heard = UntilStop(stop), []
    for piece in pieces:
        heard.append(text.push(piece))
        if text.stopped:
            break
    heard.append(text.flush())
    assert ([piece for piece in heard if piece], text.stopped) == ([piece for piece in shown if piece], stopped)


def test_role_that_the_model_writes_first_is_dropped_before_it_is_shown():
    heard, text = stream(["Ass", "istant", ":", " A", " cat"], ("###",), ("###", "Assistant:"))
    assert (heard, text.text) == (["A cat"], "A cat")  # "A" alone could still become "Assistant:"


def test_half_a_character_is_never_shown():
    pieces = ["caf", "<0xC3>", "<0xA9>", "!"]

    class Bytes(Words):
        def decode(self, ids, skip_special_tokens):
            raw = b"".join(
                bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.encode() for p in (pieces[i] for i in ids)
            )
            return raw.decode(errors="replace")

    heard: list[Piece] = []
    text = AnswerText(Bytes(*pieces), (), (), heard.append)
    for i in range(4):
        text.update(list(range(i + 1)))
    assert heard == [Piece("caf", 1), Piece("é!", 3)]


TEXTS = (
    "A cat sits on the mat. It is black, isn't it?\n\n1. One\n2. Two",
    "  leading and   inner   spaces  ",
    "\u732b \U0001f600 na\u00efve caf\u00e9 \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "def f(x):\n    return x ** 2\n",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("step", [1, 2, 5])
def test_text_token_by_token_is_the_text_decoded_at_once(text, step):
    tokenizer = load_tokenizer(DATA / "llava-v1.5-tiny")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(ids[i : i + step]) for i in range(0, len(ids), step)]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


def test_ids_without_text_take_no_space_from_what_follows():
    tokenizer = load_tokenizer(DATA / "llava-v1.5-tiny")
    ids = tokenizer("A cat", add_special_tokens=False).input_ids
    broken_up = [ids[0], tokenizer.bos_token_id, tokenizer.eos_token_id, *ids[1:]]
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push([i]) for i in broken_up]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(broken_up, skip_special_tokens=True)


def test_pieces_count_every_token_even_if_the_last_ones_have_no_text():
    heard: list[Piece] = []
    text = AnswerText(Words("A cat", ". #", "##"), ("###",), (), heard.append)
    text.update([0])
    text.update([0, 1, 2])
    text.finish()
    assert heard == [Piece("A cat", 1), Piece(".", 2)]
    heard.clear()
    text = AnswerText(Words("A cat", "</s>"), ("</s>",), (), heard.append)
    text.update([0])
    text.update([0, 1])
    text.finish()
    assert heard == [Piece("A cat", 1), Piece("", 1)]


@pytest.mark.parametrize(("count", "counted"), [(7, 7), (None, 2), (2, 2)])
def test_a_servers_own_count_is_what_the_pieces_add_up_to(count, counted):
    answer = ServerAnswer()
    pieces = [answer.piece("A ", 1), answer.piece("cat", 1)]
    *rest, end = answer.end("stop", 5, count)
    assert (end.text, end.num_new_tokens) == ("A cat", counted)
    assert sum(piece.num_new_tokens for piece in [*pieces, *rest]) == counted
