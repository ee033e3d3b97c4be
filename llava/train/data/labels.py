"""Turns a conversation into token ids and labels, built together.

A conversation is first laid out as segments: pieces of the training text, each supervised or not. The whole text is
then tokenised once (so that the ids are those the model meets when it chats), and the tokenizer's character offsets
say to which segment each token belongs. Nothing is tokenised a second time to count lengths.

A token that reaches over the border of two segments belongs to the one in which it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.errors import DataError, InvalidRequest
from llava.train.data.records import ASSISTANT, HUMAN, Record, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of training text."""

    text: str
    supervised: bool
    """True where the loss is taken."""
    answer: bool = False
    """True for the words of an answer (not for role names and turn signals, which some templates also train)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample, ready to be padded into a batch."""

    input_ids: list[int]
    labels: list[int]
    """As long as `input_ids`; -100 where no loss is taken."""
    num_images: int
    """Images whose markers are left after truncation; always the first ones."""
    truncated: bool
    answer_tokens: int
    """Supervised tokens inside answers; 0 means that this sample teaches nothing."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """How images stand in the ids."""

    as_patches: bool
    """True: a run of `<im_patch>` ids an image (v0). False: one -200 an image, expanded by the model (from v1 on)."""
    start_end: bool = False
    """Put `<im_start>` before and `<im_end>` after each image."""


Layout = Callable[[Conversation, Sequence[Turn], str], list[Segment]]


# ---- templates: records -> segments ----------------------------------------------------------------------------------


def training_template(version: str) -> Conversation:
    """The template that `--version` selects.

    `v0` and `v0.5` are the first release's training text; any name of `conv_templates` selects that template; `v1` and
    its variants (`v1_1`, `v1_3`, ...) are Vicuna's v1.1.

    Raises:
        InvalidRequest: an unknown name; lists the known ones.
    """
    if version in ("v0", "v0.5"):
        return conv_templates["v0_train"].copy()
    if version not in conv_templates and version.startswith(("v1_", "v1.")):
        return conv_templates["vicuna_v1"].copy()
    if version not in conv_templates:
        raise InvalidRequest(f"--version {version}: no such template. Known: {', '.join(sorted(conv_templates))}.")
    template = conv_templates[version].copy()
    if template.sep_style is SeparatorStyle.SINGLE:
        # A `###` template chats without the line ends that it trains with, and without its few-shot examples.
        return replace(template, messages=[], offset=0, sep_style=SeparatorStyle.HEADED, sep2="\n")
    return template


def segments_of(record: Record, template: Conversation, *, images_first: bool) -> list[Segment]:
    """Lays a record out as training text; `<image>` still stands for each image.

    Args:
        record: a checked record.
        template: from `training_template`.
        images_first: move a turn's only `<image>` to its front on a line of its own, as v1 and later do.
            v0 leaves it where the data has it.

    Raises:
        DataError: the template needs alternating turns, or an image caption pair, and the record has something else.
    """
    turns = record.turns
    if images_first and template.sep_style is not SeparatorStyle.PLAIN:
        tagged = "mmtag" in str(template.version)
        turns = tuple(replace(turn, text=_image_first(turn.text, tagged=tagged)) for turn in turns)
    return _LAYOUTS[template.sep_style](template, turns, record.name)


def _image_first(text: str, *, tagged: bool) -> str:
    if text.count(DEFAULT_IMAGE_TOKEN) == 1:
        text = f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}".strip()
    if tagged:
        text = text.replace(DEFAULT_IMAGE_TOKEN, f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>")
    return text


def _headed_layout(template: Conversation, turns: Sequence[Turn], name: str) -> list[Segment]:
    """`system`, blank line, then `### Role: text` a line: the text of the first release's training.

    Answers are trained with their role name, and so is the `###` before a question: it is what ends an answer.
    """
    signal, line_end = template.sep, template.sep2 or ""
    segments = [Segment(template.system + 2 * line_end, supervised=False)]
    for turn in turns:
        if turn.role == HUMAN:
            segments.append(Segment(signal, supervised=True))
            segments.append(Segment(f" {template.roles[0]}: {turn.text}{line_end}", supervised=False))
        else:
            segments.append(Segment(f"{signal} {template.roles[1]}:", supervised=True))
            segments.append(Segment(f" {turn.text}{line_end}", supervised=True, answer=True))
    segments.append(Segment(f"{signal} ", supervised=True))
    return segments


def _two_layout(template: Conversation, turns: Sequence[Turn], name: str) -> list[Segment]:
    """`system USER: text ASSISTANT: text</s>...`; only answers and the `</s>` after them are trained."""
    separators = (template.sep, template.sep2 or "")
    segments = [Segment(template.system + template.sep, supervised=False)]
    for turn in _alternating(turns, name):
        is_answer = turn.role == ASSISTANT
        role = template.roles[is_answer]
        segments.append(Segment(f"{role}:", supervised=False))
        if turn.text:
            segments.append(Segment(f" {turn.text}{separators[is_answer]}", supervised=is_answer, answer=is_answer))
    return segments


def _llama_2_layout(template: Conversation, turns: Sequence[Turn], name: str) -> list[Segment]:
    """`[INST] <<SYS>>...<</SYS>> text [/INST] text </s><s>[INST] ...`; answers and their `</s>` are trained."""
    segments = []
    for number, turn in enumerate(_alternating(turns, name)):
        if turn.role == ASSISTANT:
            segments.append(Segment(f" {turn.text} {template.sep2 or ''}", supervised=True, answer=True))
            continue
        text = turn.text
        if number == 0 and template.system:
            text = f"<<SYS>>\n{template.system}\n<</SYS>>\n\n{text}"
        opening = template.sep if number else ""
        segments.append(Segment(f"{opening}[INST] {text} [/INST]", supervised=False))
    return segments


def _mpt_layout(template: Conversation, turns: Sequence[Turn], name: str) -> list[Segment]:
    """ChatML: `role` text `<|im_end|>`; answers and the `<|im_end|>` after them are trained."""
    segments = [Segment(template.system + template.sep, supervised=False)]
    for turn in _alternating(turns, name):
        is_answer = turn.role == ASSISTANT
        segments.append(Segment(template.roles[is_answer], supervised=False))
        if turn.text:
            segments.append(Segment(turn.text + template.sep, supervised=is_answer, answer=is_answer))
    return segments


def _plain_layout(template: Conversation, turns: Sequence[Turn], name: str) -> list[Segment]:
    """The image, then its caption and a line end; the instruction is not used."""
    if [turn.role for turn in turns] != [HUMAN, ASSISTANT] or DEFAULT_IMAGE_TOKEN not in turns[0].text:
        raise DataError(
            f"{name}: the plain template takes one human turn with {DEFAULT_IMAGE_TOKEN} and one answer, "
            f"found {len(turns)} turns. Choose another --version for conversations."
        )
    images = DEFAULT_IMAGE_TOKEN * turns[0].text.count(DEFAULT_IMAGE_TOKEN)
    return [Segment(images, supervised=False), Segment(turns[1].text + template.sep, supervised=True, answer=True)]


def _alternating(turns: Sequence[Turn], name: str) -> Sequence[Turn]:
    if turns[0].role != HUMAN:
        turns = turns[1:]  # an answer to nothing: later releases leave it out, too
    for number, turn in enumerate(turns):
        expected = (HUMAN, ASSISTANT)[number % 2]
        if turn.role != expected:
            raise DataError(
                f"{name}: turn {number} of the dialogue is from '{turn.role}', expected '{expected}'. "
                "This template needs turns that alternate, beginning with 'human'."
            )
    return turns


_LAYOUTS: dict[SeparatorStyle, Layout] = {
    SeparatorStyle.HEADED: _headed_layout,
    SeparatorStyle.TWO: _two_layout,
    SeparatorStyle.LLAMA_2: _llama_2_layout,
    SeparatorStyle.MPT: _mpt_layout,
    SeparatorStyle.PLAIN: _plain_layout,
}


# ---- segments -> ids and labels --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tokens:
    """Parallel lists, one entry a token; an image is one `IMAGE_TOKEN_INDEX` until the end."""

    ids: list[int]
    labels: list[int]
    in_answer: list[bool]


def encode(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    images: ImageTokens,
    *,
    image_lengths: Sequence[int] = (),
    max_length: int | None = None,
    bos_token_id: int | None = None,
    name: str = "sample",
) -> Encoded:
    """Tokenises segments and labels every token.

    Args:
        segments: from `segments_of`.
        tokenizer: a fast tokenizer that has the `<im_*>` tokens which `images` needs.
        images: how images stand in the ids.
        image_lengths: positions that each image takes in the model, in order of its `<image>`.
        max_length: longest sequence in the model, images counted in full; None for no limit. What is over is cut from
            the end, never inside an image: an image that does not fit goes as a whole, with all that follows.
        bos_token_id: id put in front; None asks the tokenizer.
        name: what an error message calls the sample.

    Raises:
        DataError: the number of markers is not the number of images, or the text spells an image token out.
    """
    text, borders = _join(segments, images)
    tokens = _tokenise(text, borders, segments, tokenizer, images)
    start_of_text = [bos_token_id] if bos_token_id is not None else tokenizer("", verbose=False)["input_ids"]
    tokens.ids[:0] = start_of_text
    tokens.labels[:0] = [IGNORE_INDEX] * len(start_of_text)
    tokens.in_answer[:0] = [False] * len(start_of_text)
    found = tokens.ids.count(IMAGE_TOKEN_INDEX)
    if found != len(image_lengths):
        raise DataError(
            f"{name}: the text has {found} image markers for {len(image_lengths)} images. "
            f"Write one {DEFAULT_IMAGE_TOKEN} for each image and never {DEFAULT_IMAGE_PATCH_TOKEN} itself."
        )
    full = len(tokens.ids)
    if max_length is not None:
        _truncate(tokens, _fitting(tokens.ids, image_lengths, max_length, tokenizer, images))
    kept = tokens.ids.count(IMAGE_TOKEN_INDEX)
    answer_tokens = sum(
        label != IGNORE_INDEX and inside for label, inside in zip(tokens.labels, tokens.in_answer, strict=True)
    )
    truncated = len(tokens.ids) < full
    if images.as_patches:
        _expand_images(tokens, image_lengths, token_id(tokenizer, DEFAULT_IMAGE_PATCH_TOKEN))
    return Encoded(tokens.ids, tokens.labels, kept, truncated, answer_tokens)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of an added token.

    Raises:
        InvalidRequest: the tokenizer does not have it.
    """
    found = tokenizer.get_added_vocab().get(token)
    if found is None:
        raise InvalidRequest(
            f"The tokenizer has no {token}. Add it (mm_use_im_start_end, mm_use_im_patch_token) first."
        )
    return found


def _join(segments: Sequence[Segment], images: ImageTokens) -> tuple[str, list[int]]:
    """The whole text, and for each segment the position at which it ends."""
    marker = DEFAULT_IMAGE_PATCH_TOKEN if images.as_patches else DEFAULT_IMAGE_TOKEN
    if images.start_end:
        marker = f"{DEFAULT_IM_START_TOKEN}{marker}{DEFAULT_IM_END_TOKEN}"
    texts, borders, end = [], [], 0
    for segment in segments:
        text = segment.text.replace(DEFAULT_IMAGE_TOKEN, marker)
        texts.append(text)
        end += len(text)
        borders.append(end)
    return "".join(texts), borders


def _tokenise(
    text: str,
    borders: list[int],
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    images: ImageTokens,
) -> _Tokens:
    # Text around a -200 has always been tokenised piece by piece; text around <im_patch> in one go.
    chunks = [text] if images.as_patches else text.split(DEFAULT_IMAGE_TOKEN)
    patch_id = token_id(tokenizer, DEFAULT_IMAGE_PATCH_TOKEN) if images.as_patches else None
    tokens = _Tokens([], [], [])
    position, current = 0, 0
    for number, chunk in enumerate(chunks):
        if number:
            _append(tokens, IMAGE_TOKEN_INDEX, None)
            position += len(DEFAULT_IMAGE_TOKEN)
        encoding: Any = tokenizer(chunk, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for identity, (start, _) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            while current < len(borders) - 1 and position + start >= borders[current]:
                current += 1
            if identity == patch_id:
                _append(tokens, IMAGE_TOKEN_INDEX, None)
            else:
                _append(tokens, identity, segments[current])
        position += len(chunk)
    return tokens


def _append(tokens: _Tokens, identity: int, segment: Segment | None) -> None:
    tokens.ids.append(identity)
    tokens.labels.append(identity if segment is not None and segment.supervised else IGNORE_INDEX)
    tokens.in_answer.append(segment is not None and segment.answer)


def _fitting(
    ids: list[int],
    image_lengths: Sequence[int],
    max_length: int,
    tokenizer: PreTrainedTokenizerBase,
    images: ImageTokens,
) -> int:
    """How many entries of `ids` fit into `max_length` positions without cutting an image."""
    lengths = iter(image_lengths)
    keep, used = 0, 0
    for identity in ids:
        used += next(lengths) if identity == IMAGE_TOKEN_INDEX else 1
        if used > max_length:
            break
        keep += 1
    if keep == len(ids):
        return keep
    if images.start_end:
        end = token_id(tokenizer, DEFAULT_IM_END_TOKEN)
        if keep > 1 and ids[keep] == end and ids[keep - 1] == IMAGE_TOKEN_INDEX:
            keep -= 1  # the image fits but its end token does not
        start = token_id(tokenizer, DEFAULT_IM_START_TOKEN)
        if keep and ids[keep] == IMAGE_TOKEN_INDEX and ids[keep - 1] == start:
            keep -= 1
    return keep


def _truncate(tokens: _Tokens, keep: int) -> None:
    del tokens.ids[keep:], tokens.labels[keep:], tokens.in_answer[keep:]


def _expand_images(tokens: _Tokens, image_lengths: Sequence[int], patch_id: int) -> None:
    ids: list[int] = []
    labels: list[int] = []
    lengths = iter(image_lengths)
    for identity, label in zip(tokens.ids, tokens.labels, strict=True):
        repeat = next(lengths) if identity == IMAGE_TOKEN_INDEX else 1
        ids += [patch_id if identity == IMAGE_TOKEN_INDEX else identity] * repeat
        labels += [label] * repeat
    tokens.ids, tokens.labels = ids, labels
