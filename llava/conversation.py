"""Conversation templates as data, and the one renderer that turns a conversation into a prompt.

Two generations of released code gave templates of the same name different texts, and a checkpoint answers well only
under the text it was trained with. So there are two tables:

- `conv_templates`, the table to use: every key of the later releases (v1.0 to v1.6) with the later meaning, and beside
  them the v0 keys that the later releases dropped (`simple`, `simple_legacy`, `multimodal`, `bair_v1`, `vicuna_v1_1`).
  Only `v1` and `llava_v1` mean different things in the two generations; here they have the later meaning, because that
  is what people who type them today have checkpoints for. Their v0 texts are `v0` and `v0_llava_v1`.
- `conv_templates_v0`: the eight keys of v0 with their v0 meaning. `template(name, era="v0")` looks there first, so
  `--conv-mode llava_v1` on a v0 checkpoint gives the v0 text.

The generations also place an image differently: v0 leaves `<image>` where the text has it, later releases move it
before the first question. `Conversation.image_first` says which; it is a property of the template.
"""

from __future__ import annotations

import base64
import difflib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final, Literal

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import TemplateError, UnknownTemplate

Era = Literal["v0", "head"]


class SeparatorStyle(Enum):
    """How a template joins system text, roles and turns."""

    SINGLE = auto()
    """`system+sep`, then `role: text` + sep a turn; an open turn is `role:`."""
    TWO = auto()
    """As SINGLE, with `sep` after user turns and `sep2` after assistant turns."""
    MPT = auto()
    """ChatML: `role` + text + sep, the role carrying its own line break."""
    PLAIN = auto()
    """Texts and separators only, no roles: image and caption of pretraining."""
    LLAMA_2 = auto()
    """`[INST] … [/INST]` around user turns, the system text inside the first."""
    HEADED = auto()
    """What v0 trained on: each turn begins with the separator, `sep role: text` + sep2, after `system` + two sep2."""


@dataclass
class Conversation:
    """A template and the turns said so far.

    A message's text is a string, None or "" for an open turn, or a tuple `(text, image, mode)` for a turn that
    carries an image (or a list of images); only its text reaches the prompt.
    """

    system: str
    roles: tuple[str, str]
    messages: list[list[Any]]
    offset: int
    """Number of leading messages that belong to the template (few-shot examples), not to the user."""
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    skip_next: bool = False
    """Set by a web page to drop an empty submission."""
    image_first: bool = True
    """Whether the image of a first turn goes before its question (v1.0 and later), or stays where the text has it."""
    name: str = field(default="", compare=False)
    """Key of the template this began as, for logs and messages."""

    def append_message(self, role: str, message: Any) -> None:
        """Adds a turn; `message` None opens the assistant's turn for the model to fill."""
        self.messages.append([role, message])

    def get_prompt(self) -> str:
        """The conversation as one prompt, with one `<image>` for each image.

        Raises:
            TemplateError: the turns do not fit the template (a second text in `plain`, an empty first turn in
                `[INST]` templates).
        """
        return _RENDERERS[self.sep_style](self, self._texts())

    @property
    def stop_str(self) -> str:
        """The text at which an answer of this template ends."""
        if self.sep_style in (SeparatorStyle.TWO, SeparatorStyle.LLAMA_2) and self.sep2:
            return self.sep2
        return self.sep

    def copy(self) -> Conversation:
        """A conversation of its own: adding turns to it leaves this one alone. Images are shared, not copied."""
        return replace(self, messages=[list(message) for message in self.messages])

    def get_images(self, return_pil: bool = False) -> list[Any]:
        """The images of the user's turns, in reading order, in their own size.

        Args:
            return_pil: give them as they were put in; otherwise as base64 text of PNG files, as workers take them.
        """
        images: list[Any] = []
        for _, message in self.messages[self.offset :]:
            if isinstance(message, tuple):
                images.extend(message[1] if isinstance(message[1], list) else [message[1]])
        images = [image for image in images if image is not None]
        return images if return_pil else [_base64_png(image) for image in images]

    def dict(self) -> dict[str, Any]:
        """What a log line keeps: texts without images, ready for JSON."""
        return {
            "system": self.system,
            "roles": self.roles,
            "messages": [[role, _text_of(message)] for role, message in self.messages],
            "offset": self.offset,
            "sep": self.sep,
            "sep2": self.sep2,
        }

    def _texts(self) -> list[tuple[str, str | None]]:
        """Role and text of each turn, the image of a first turn moved to where the template wants it."""
        turns = [(role, _text_of(message)) for role, message in self.messages]
        if not (self.image_first and self.messages and isinstance(self.messages[0][1], tuple)):
            return turns
        role, text = turns[0]
        text = text or ""
        count = max(1, text.count(DEFAULT_IMAGE_TOKEN))
        question = text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
        if "mmtag" in self.version:
            shown = (self.roles[0], f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>" * count)
            return [shown, (self.roles[1], "Received."), (role, question), *turns[1:]]
        return [(role, f"{DEFAULT_IMAGE_TOKEN}\n" * count + question), *turns[1:]]


def _base64_png(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _text_of(message: Any) -> str | None:
    return message[0] if isinstance(message, tuple) else message


Turns = list[tuple[str, "str | None"]]


def _render_single(conversation: Conversation, turns: Turns) -> str:
    prompt = conversation.system + conversation.sep
    for role, text in turns:
        prompt += f"{role}: {text}{conversation.sep}" if text else f"{role}:"
    return prompt


def _render_two(conversation: Conversation, turns: Turns) -> str:
    separators = (conversation.sep, conversation.sep2 or "")
    prompt = conversation.system + conversation.sep
    for index, (role, text) in enumerate(turns):
        prompt += f"{role}: {text}{separators[index % 2]}" if text else f"{role}:"
    return prompt


def _render_mpt(conversation: Conversation, turns: Turns) -> str:
    prompt = conversation.system + conversation.sep
    for role, text in turns:
        prompt += f"{role}{text}{conversation.sep}" if text else role
    return prompt


def _render_plain(conversation: Conversation, turns: Turns) -> str:
    separators = (conversation.sep, conversation.sep2)
    prompt = conversation.system
    for index, (_, text) in enumerate(turns):
        if not text:
            continue
        separator = separators[index % 2]
        if separator is None:
            raise TemplateError(
                f"turn {index + 1}: the template {conversation.name or 'plain'!r} has no separator (sep2) for a second "
                "text; it holds one text. Choose a chat template such as 'llava_v1' for a dialogue."
            )
        prompt += text + separator
    return prompt


def _render_llama_2(conversation: Conversation, turns: Turns) -> str:
    prompt = ""
    for index, (role, text) in enumerate(turns):
        if index == 0 and (not text or role != conversation.roles[0]):
            raise TemplateError(
                f"turn 1: an [INST] template ({conversation.name or 'llama_2'!r}) must begin with a text of "
                f"{conversation.roles[0]!r}, this conversation begins with {text or 'nothing'!r} of {role!r}."
            )
        if not text:
            continue
        if index % 2:
            prompt += f" {text} {conversation.sep2 or ''}"
            continue
        if index == 0 and conversation.system:
            text = f"<<SYS>>\n{conversation.system}\n<</SYS>>\n\n{text}"
        prompt += f"{conversation.sep}[INST] {text} [/INST]"
    # The tokenizer adds the first begin-of-sequence token itself.
    return prompt.removeprefix(conversation.sep)


def _render_headed(conversation: Conversation, turns: Turns) -> str:
    end = conversation.sep2 or ""
    prompt = conversation.system + 2 * end
    for role, text in turns:
        prompt += f"{conversation.sep} {role}: {text}{end}" if text else f"{conversation.sep} {role}:"
    return prompt


_RENDERERS: Final[dict[SeparatorStyle, Callable[[Conversation, Turns], str]]] = {
    SeparatorStyle.SINGLE: _render_single,
    SeparatorStyle.TWO: _render_two,
    SeparatorStyle.MPT: _render_mpt,
    SeparatorStyle.PLAIN: _render_plain,
    SeparatorStyle.LLAMA_2: _render_llama_2,
    SeparatorStyle.HEADED: _render_headed,
}


# The texts below are what released checkpoints were trained and evaluated with, to the character: the missing spaces
# after full stops and the doubled ones belong to them.

_POLITE_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_POLITE_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_SIMPLE = (
    "You are LLaVA, a large language model trained by UW Madison WAIV Lab, based on LLaMA architecture."
    "You are designed to assist human with a variety of tasks using natural language."
    "Follow the instructions carefully."
)
_SIMPLE_LEGACY = (
    "You are LLaVA, a large language model trained by UW Madison WAIV Lab."
    "You are designed to assist human with a variety of tasks using natural language."
    "Follow the instructions carefully."
)
_SEES = (
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_MULTIMODAL = (
    f"You are LLaVA, a large language and vision assistant trained by UW Madison WAIV Lab.{_SEES}"
    "Follow the instructions carefully and explain your answers in detail."
)
_MMTAG = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_HI: tuple[str, str] = ("Hi!", "Hi there!  How can I help you today?\n")
_RENEWABLE_ANSWER = (
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, "
    "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are "
    "finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences "
    "between renewable and non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources "
    "are finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
    "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
    "operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations "
    "than non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
    "and needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable "
    "sources are not, and their depletion can lead to economic and social instability.\n"
)
_RENEWABLE: tuple[str, str] = (
    "What are the key differences between renewable and non-renewable energy sources?",
    _RENEWABLE_ANSWER,
)

_HUMAN = ("Human", "Assistant")
_USER = ("USER", "ASSISTANT")
_CHATML = ("<|im_start|>user\n", "<|im_start|>assistant\n")


def _single(system: str, shots: tuple[str, str] | None = None, **fields: Any) -> Conversation:
    messages = [[role, text] for role, text in zip(_HUMAN, shots, strict=True)] if shots else []
    return Conversation(system, _HUMAN, messages, offset=len(messages), **fields)


def _two(system: str, roles: tuple[str, str] = _USER, version: str = "v1", **fields: Any) -> Conversation:
    return Conversation(system, roles, [], 0, SeparatorStyle.TWO, " ", "</s>", version, **fields)


def _chatml(system_lines: str, **fields: Any) -> Conversation:
    system = f"<|im_start|>system\n{system_lines}"
    return Conversation(system, _CHATML, [], 0, SeparatorStyle.MPT, "<|im_end|>", None, "mpt", **fields)


def _inst(system: str, sep: str) -> Conversation:
    return Conversation(system, _USER, [], 0, SeparatorStyle.LLAMA_2, sep, "</s>", "llama_v2")


def _plain() -> Conversation:
    return Conversation("", ("", ""), [], 0, SeparatorStyle.PLAIN, "\n")


def _named(templates: dict[str, Conversation]) -> dict[str, Conversation]:
    return {name: replace(conversation, name=name) for name, conversation in templates.items()}


conv_templates_v0: Final[dict[str, Conversation]] = _named(
    {
        "default": _single(_POLITE_HUMAN, _RENEWABLE, image_first=False),
        "simple": _single(_SIMPLE, _HI, image_first=False),
        "simple_legacy": _single(_SIMPLE_LEGACY, ("Hi!\n\n### Response:", _HI[1]), image_first=False),
        "multimodal": _single(_MULTIMODAL, _HI, image_first=False),
        "llava_v1": _two(_MULTIMODAL, image_first=False),
        "v1": _single(_POLITE_HUMAN, _RENEWABLE, image_first=False),
        "bair_v1": _two("BEGINNING OF CONVERSATION:", ("USER", "GPT"), "Unknown", image_first=False),
        "vicuna_v1_1": _two(_POLITE_USER, image_first=False),
    }
)
"""The templates of v0 under their v0 names."""

conv_templates: Final[dict[str, Conversation]] = _named(
    {
        # Keys and meanings of the later releases.
        "default": _single(_POLITE_HUMAN, _RENEWABLE),
        "v0": _single(_POLITE_HUMAN, _RENEWABLE),
        "v1": _two(_POLITE_USER),
        "vicuna_v1": _two(_POLITE_USER),
        "llama_2": _inst(_LLAMA_2_SYSTEM, "<s>"),
        "mistral_instruct": _inst("", ""),
        "chatml_direct": _chatml("Answer the questions."),
        "mistral_direct": _chatml("Answer the questions."),
        "plain": _plain(),
        "v0_plain": _plain(),
        "llava_v0": _single(_POLITE_HUMAN),
        "v0_mmtag": _single(_MMTAG, version="v0_mmtag"),
        "llava_v1": _two(_POLITE_HUMAN),
        "v1_mmtag": _two(_MMTAG, version="v1_mmtag"),
        "llava_llama_2": _inst(f"You are a helpful language and vision assistant. {_SEES}", "<s>"),
        "mpt": _chatml(
            "A conversation between a user and an LLM-based AI assistant. "
            "The assistant gives helpful and honest answers."
        ),
        # Keys of v0 and of May 2023 that the later releases dropped.
        "simple": conv_templates_v0["simple"],
        "simple_legacy": conv_templates_v0["simple_legacy"],
        "multimodal": conv_templates_v0["multimodal"],
        "bair_v1": conv_templates_v0["bair_v1"],
        "vicuna_v1_1": conv_templates_v0["vicuna_v1_1"],
        "mpt_multimodal": _chatml(
            "- You are a helpful language and vision assistant.\n"
            f"- {_SEES}\n"
            "- You should follow the instructions carefully and explain your answers in detail.",
            image_first=False,
        ),
        "mpt_text": _chatml(
            "- You are a helpful assistant chatbot trained by MosaicML.\n"
            "- You answer questions.\n"
            "- You are excited to be able to help the user, but will refuse to do anything that could be considered "
            "harmful to the user.\n"
            "- You are more than just an information source, you are also able to write poetry, short stories, and "
            "make jokes.",
            image_first=False,
        ),
        # Names of our own: the v0 text of a key that was given a new meaning, and the text that v0 trains on.
        "v0_llava_v1": conv_templates_v0["llava_v1"],
        "v0_train": Conversation(
            _POLITE_HUMAN, _HUMAN, [], 0, SeparatorStyle.HEADED, "###", "\n", "v0", image_first=False
        ),
    }
)
"""Every template by name. Copy one before adding turns: `conv_templates[name].copy()`."""

default_conversation: Final[Conversation] = conv_templates["vicuna_v1"]
"""What the later releases use when nothing is named; for a checkpoint ask `default_template_for`."""


def template(name: str, *, era: Era = "head") -> Conversation:
    """A fresh conversation of the template called `name`.

    Args:
        name: a key of `conv_templates`, or of `conv_templates_v0`.
        era: whose meaning a name has that both generations know: "v0", or "head" for the later releases.

    Raises:
        UnknownTemplate: no table has the name; names the nearest ones.
    """
    tables = (conv_templates_v0, conv_templates) if era == "v0" else (conv_templates,)
    for table in tables:
        if name in table:
            return table[name].copy()
    close = difflib.get_close_matches(name, conv_templates, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"There are {', '.join(conv_templates)}."
    raise UnknownTemplate(f"no conversation template is called {name!r}. {hint}")
