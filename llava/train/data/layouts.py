"""Lays a training record out as segments: pieces of the training text, each supervised or not.

`llava.train.data.labels` turns the segments into token ids and labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.errors import DataError, InvalidRequest
from llava.template_choice import conversation_for
from llava.templates.jinja_text import ROLES, render
from llava.text_generation.literal_text import guarded
from llava.train.data.records import ASSISTANT, HUMAN, Record, RecordTurn, has_words


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of training text."""

    text: str
    supervised: bool
    """True if the model is trained to write this text."""
    answer: bool = False
    """True for the words of an answer; false for role names and separators, which some templates also train, and for an
    answer that is blank."""


Layout = Callable[[Conversation, Record], list[Segment]]
"""Lays out a record in a template."""


def training_template(version: str, model: str | None = None) -> Conversation:
    """Returns the training template that `--version` selects.

    `v0` and `v0.5` select the first release's training text, `v1` and its variants (`v1_1`, `v1_3`, ...) the text of
    Vicuna v1.1. `auto` is the template that the model is meant to be asked with. Any other name must be a key of
    `conv_templates`.

    Args:
        model: folder or hub id of the model to train; needed for `auto`.

    Raises:
        InvalidRequest: the name is unknown, and the message lists the known ones; or nothing says what `auto` is.
        CheckpointError: the model's folder cannot be read (`auto` only).
    """
    if version == "auto":
        return _for_training(_own_template(model))
    if version in ("v0", "v0.5"):
        return conv_templates["v0_train"].copy()
    if version not in conv_templates and version.startswith(("v1_", "v1.")):
        return conv_templates["vicuna_v1"].copy()
    if version not in conv_templates:
        known = ", ".join(["auto", *sorted(conv_templates)])
        raise InvalidRequest(f"--version {version}: there is no such template. Available: {known}.")
    return _for_training(conv_templates[version].copy())


def _own_template(model: str | None) -> Conversation:
    from llava.model.loading.model_folder import read_model_folder
    from llava.model.weights.reader import resolve_folder

    if model is None:
        raise InvalidRequest("--version auto: name the model too, because its folder says which template it needs.")
    folder = read_model_folder(resolve_folder(model))
    return conversation_for(folder.settings, name=folder.path.name)


def _for_training(template: Conversation) -> Conversation:
    if template.sep_style is SeparatorStyle.SINGLE:
        # Training adds line ends that chats in `###` templates lack, and leaves out their few-shot examples.
        return replace(template, messages=[], offset=0, sep_style=SeparatorStyle.HEADED, sep2="\n")
    return template


def segments_of(
    record: Record, template: Conversation, *, images_first: bool, control_tokens: re.Pattern[str] | None = None
) -> list[Segment]:
    """Lays a record out as training text, with one `<image>` for each image.

    Args:
        record: a record from `load_records`. Its system turn replaces the template's system text.
        template: a template from `training_template`.
        images_first: moves a turn's only `<image>` to a line of its own before the text, as v1 and later do.
            v0 leaves it where the record has it.
        control_tokens: spellings that are only text where the record has them, from
            `llava.text_generation.literal_text.control_tokens`; None if there are none.

    Raises:
        DataError: the record does not have the alternating turns, or the image and caption, that the template needs.
    """
    if images_first and template.sep_style is not SeparatorStyle.PLAIN:
        tagged = "mmtag" in str(template.version)
        turns = tuple(replace(turn, text=_image_first(turn.text, tagged=tagged)) for turn in record.turns)
        record = replace(record, turns=turns)
    if control_tokens is not None:
        # Only now, because taking an image out of a text may join what is left to a control token.
        record = _with_literal_text(record, control_tokens)
    if record.system is not None:
        template = template.with_system(record.system)
    return _LAYOUTS[template.sep_style](template, record)


def turn_problem(record: Record, template: Conversation) -> str | None:
    """Says why the turns of a record do not fit a template; None if they do."""
    if template.sep_style is SeparatorStyle.HEADED:
        return None
    if template.sep_style is SeparatorStyle.PLAIN:
        roles = [turn.role for turn in record.turns]
        if record.system is not None:
            return "the plain template has no place for a system turn. Choose another --version."
        if roles == [HUMAN, ASSISTANT] and DEFAULT_IMAGE_TOKEN in record.turns[0].text:
            return None
        return (
            f"the plain template needs one human turn with {DEFAULT_IMAGE_TOKEN} and one answer, "
            f"found {len(roles)} turns. Choose another --version for conversations."
        )
    skipped = int(record.turns[0].role != HUMAN)
    for number, turn in enumerate(record.turns[skipped:]):
        expected = (HUMAN, ASSISTANT)[number % 2]
        if turn.role != expected:
            return (
                f"{record.place_of(number + skipped)} is from '{turn.role}', expected '{expected}'. "
                "This template needs alternating turns, starting with 'human'."
            )
    if len(record.turns) == skipped:
        return "no question is left, because this template drops an answer that comes first."
    return None


def _check_turns(record: Record, template: Conversation) -> None:
    problem = turn_problem(record, template)
    if problem is not None:
        raise DataError(f"{record.name}: {problem}")


def _with_literal_text(record: Record, control_tokens: re.Pattern[str]) -> Record:
    turns = tuple(replace(turn, text=guarded(turn.text, control_tokens)) for turn in record.turns)
    system = None if record.system is None else guarded(record.system, control_tokens)
    return replace(record, turns=turns, system=system)


def _image_first(text: str, *, tagged: bool) -> str:
    if text.count(DEFAULT_IMAGE_TOKEN) == 1:
        text = f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}".strip()
    if tagged:
        text = text.replace(DEFAULT_IMAGE_TOKEN, f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>")
    return text


def _headed_layout(template: Conversation, record: Record) -> list[Segment]:
    """Writes the system text, a blank line and one `### Role: text` line per turn, as the first release trained.

    Role names of answers are trained too, and so is the `###` before a question, because it ends an answer.
    """
    signal, line_end = template.sep, template.sep2 or ""
    segments = [Segment(template.system + 2 * line_end, supervised=False)]
    for turn in record.turns:
        if turn.role == HUMAN:
            segments.append(Segment(signal, supervised=True))
            segments.append(Segment(f" {template.roles[0]}: {turn.text}{line_end}", supervised=False))
        else:
            segments.append(Segment(f"{signal} {template.roles[1]}:", supervised=True))
            segments.append(Segment(f" {turn.text}{line_end}", supervised=True, answer=has_words(turn.text)))
    segments.append(Segment(f"{signal} ", supervised=True))
    return segments


def _two_layout(template: Conversation, record: Record) -> list[Segment]:
    """Writes `system USER: text ASSISTANT: text</s>...`; only answers and the `</s>` after them are trained."""
    segments = [Segment(template.system + template.sep, supervised=False)]
    for turn in _alternating(template, record):
        is_answer = turn.role == ASSISTANT
        role, separator = (template.roles[1], template.sep2 or "") if is_answer else (template.roles[0], template.sep)
        segments.append(Segment(f"{role}:", supervised=False))
        if turn.text:
            segments.append(
                Segment(f" {turn.text}{separator}", supervised=is_answer, answer=is_answer and has_words(turn.text))
            )
    return segments


def _llama_2_layout(template: Conversation, record: Record) -> list[Segment]:
    """Writes `[INST] <<SYS>>...<</SYS>> text [/INST] text </s><s>[INST] ...`; trains answers and their `</s>`."""
    segments = []
    for number, turn in enumerate(_alternating(template, record)):
        if turn.role == ASSISTANT:
            segments.append(
                Segment(f" {turn.text} {template.sep2 or ''}", supervised=True, answer=has_words(turn.text))
            )
            continue
        text = turn.text
        if number == 0 and template.system:
            text = f"<<SYS>>\n{template.system}\n<</SYS>>\n\n{text}"
        opening = template.sep if number else ""
        segments.append(Segment(f"{opening}[INST] {text} [/INST]", supervised=False))
    return segments


def _mpt_layout(template: Conversation, record: Record) -> list[Segment]:
    """Writes ChatML, `role` text `<|im_end|>`; answers and the `<|im_end|>` after them are trained."""
    segments = [Segment(template.system + template.sep, supervised=False)]
    for turn in _alternating(template, record):
        is_answer = turn.role == ASSISTANT
        segments.append(Segment(template.roles[1] if is_answer else template.roles[0], supervised=False))
        if turn.text:
            teaches = is_answer and has_words(turn.text)
            segments.append(Segment(turn.text + template.sep, supervised=is_answer, answer=teaches))
    return segments


def _turns_layout(template: Conversation, record: Record) -> list[Segment]:
    """Writes control tokens around turns; answers and the token after them are trained, the line break after it not."""
    end = template.sep2 or template.sep
    signal = end.rstrip("\n")
    segments = []
    if template.system and template.system_role:
        segments.append(Segment(f"{template.system_role}{template.system}{template.sep}", supervised=False))
    for number, turn in enumerate(_alternating(template, record)):
        text = turn.text
        if turn.role == ASSISTANT:
            segments.append(Segment(template.roles[1], supervised=False))
            segments.append(Segment(text + signal, supervised=True, answer=has_words(text)))
            segments.append(Segment(end[len(signal) :], supervised=False))
            continue
        if number == 0 and template.system and not template.system_role:
            text = f"{template.system}\n\n{text}"
        segments.append(Segment(f"{template.roles[0]}{text}{template.sep}", supervised=False))
    return segments


def _jinja_layout(template: Conversation, record: Record) -> list[Segment]:
    """Writes what the folder's own chat template writes; answers and what ends them are trained.

    Raises:
        DataError: the template writes an earlier turn otherwise once there is a later one, so that no text of the whole
            conversation is what the model would see turn by turn.
    """
    roles = {HUMAN: ROLES[0], ASSISTANT: ROLES[1]}
    messages = [{"role": roles[turn.role], "content": turn.text} for turn in _alternating(template, record)]
    if template.system:
        messages.insert(0, {"role": "system", "content": template.system})
    whole = render(template.jinja, messages, opens=False)
    segments, done = [], ""
    for number, message in enumerate(messages):
        if message["role"] != ROLES[1]:
            continue
        before = render(template.jinja, messages[:number], opens=True)
        after = render(template.jinja, messages[: number + 1], opens=False)
        if not (before.startswith(done) and after.startswith(before) and whole.startswith(after)):
            raise DataError(
                f"{record.name}: the model's chat template writes turn {number + 1} otherwise in a longer "
                "conversation, so the record cannot be trained as a whole. Give another --version, or split the record."
            )
        segments.append(Segment(before[len(done) :], supervised=False))
        answer = after[len(before) :]
        signal = answer.rstrip("\n")
        segments.append(Segment(signal, supervised=True, answer=has_words(message["content"])))
        segments.append(Segment(answer[len(signal) :], supervised=False))
        done = after
    segments.append(Segment(whole[len(done) :], supervised=False))
    return segments


def _plain_layout(template: Conversation, record: Record) -> list[Segment]:
    """Writes the image, its caption and a line end; the instruction is left out."""
    _check_turns(record, template)
    question, answer = record.turns
    images = DEFAULT_IMAGE_TOKEN * question.text.count(DEFAULT_IMAGE_TOKEN)
    caption = Segment(answer.text + template.sep, supervised=True, answer=has_words(answer.text))
    return [Segment(images, supervised=False), caption]


def _alternating(template: Conversation, record: Record) -> Sequence[RecordTurn]:
    _check_turns(record, template)
    # An answer without a question is dropped; later releases do so too.
    return record.turns[int(record.turns[0].role != HUMAN) :]


_LAYOUTS: dict[SeparatorStyle, Layout] = {
    SeparatorStyle.HEADED: _headed_layout,
    SeparatorStyle.TWO: _two_layout,
    SeparatorStyle.LLAMA_2: _llama_2_layout,
    SeparatorStyle.MPT: _mpt_layout,
    SeparatorStyle.TURNS: _turns_layout,
    SeparatorStyle.JINJA: _jinja_layout,
    SeparatorStyle.PLAIN: _plain_layout,
}
