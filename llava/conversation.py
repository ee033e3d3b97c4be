"""Defines the conversation templates and renders conversations into prompts.

v0 and later releases use the same name for different texts, and a checkpoint answers well only with the text it was
trained on. There are therefore two tables:

- `conv_templates` is the one to use. It has all keys of the later releases (v1.0 to v1.6) with their later meaning, and
  the v0 keys that later releases dropped (`simple`, `simple_legacy`, `multimodal`, `bair_v1`, `vicuna_v1_1`). Only `v1`
  and `llava_v1` mean different texts in v0 and later. They have the later meaning here, because most checkpoints in use
  need it; their v0 texts are `v0` and `v0_llava_v1`.
- `conv_templates_v0` has the eight keys of v0 with their v0 meaning. `template(name, release="v0")` uses it first, so
  `--conv-mode llava_v1` selects the v0 text for a v0 checkpoint.

Releases also place images differently: v0 leaves `<image>` where the text has it, later releases move it before the
first question. This is a property of the template, `Conversation.image_first`.
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
from llava.templates.jinja_text import answer_end, render

Release = Literal["v0", "head"]
"""A release of LLaVA: v0, or any later one."""


class SeparatorStyle(Enum):
    """How a template joins the system text, roles and turns."""

    SINGLE = auto()
    """`system` + sep, then `role: text` + sep for each turn; an open turn is `role:`."""
    TWO = auto()
    """Like SINGLE, with `sep` after user turns and `sep2` after assistant turns."""
    MPT = auto()
    """ChatML: `role` + text + sep for each turn; the role includes its line break."""
    PLAIN = auto()
    """Texts and separators without roles: the image and caption of pretraining."""
    LLAMA_2 = auto()
    """`[INST] … [/INST]` around user turns; the first one includes the system text."""
    HEADED = auto()
    """The training text of v0: `system` + two sep2, then `sep role: text` + sep2 for each turn."""
    TURNS = auto()
    """Control tokens around each turn: role + text + sep for the user and the system, role + text + sep2 for the
    assistant; roles and separators include their line breaks."""
    JINJA = auto()
    """The Jinja text of a model folder, in `jinja`."""


@dataclass
class Conversation:
    """A template and the turns so far.

    A message is a role and a text. The text is a string, None or "" for an open turn, or a tuple `(text, image, mode)`
    for a turn with an image or a list of images. Only the text is part of the prompt.
    """

    system: str
    """Text before the first turn."""
    roles: tuple[str, str]
    """Names of the user and the assistant."""
    messages: list[list[Any]]
    """The turns, each a list of role and text."""
    offset: int
    """Number of leading messages that are few-shot examples of the template."""
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    """How the parts are joined."""
    sep: str = "###"
    """Separator after a turn, or after user turns if `sep2` is set."""
    sep2: str | None = None
    """Separator after assistant turns, in styles that have two."""
    version: str = "Unknown"
    """Version of the training text, such as "v1"."""
    skip_next: bool = False
    """Set by a web page to drop an empty submission."""
    image_first: bool = True
    """True to put the image of a first turn before its question (v1.0 and later), false to leave it in place (v0)."""
    name: str = field(default="", compare=False)
    """Key of the template, for logs and messages."""
    system_role: str = ""
    """What stands before the system text in style TURNS; "" puts the system text into the first question."""
    jinja: str = field(default="", repr=False)
    """The text of style JINJA."""

    def append_message(self, role: str, message: Any) -> None:
        """Adds a turn; a `message` of None opens the assistant's turn for the model to complete."""
        self.messages.append([role, message])

    def get_prompt(self) -> str:
        """Renders the conversation as a prompt, with one `<image>` for each image.

        Raises:
            TemplateError: the turns do not fit the template, such as a second text in `plain` or an empty first turn
                in an `[INST]` template.
        """
        return _RENDERERS[self.sep_style](self, self._texts())

    @property
    def stop_str(self) -> str:
        """The text that ends an answer in this template."""
        if self.sep_style is SeparatorStyle.JINJA:
            return answer_end(self.jinja).strip()
        if self.sep_style is SeparatorStyle.TURNS:
            return (self.sep2 or self.sep).strip()
        if self.sep_style in (SeparatorStyle.TWO, SeparatorStyle.LLAMA_2) and self.sep2:
            return self.sep2
        return self.sep

    def with_system(self, text: str) -> Conversation:
        """Returns a copy with another system text, in the place and the form that the style has for it."""
        if self.sep_style is SeparatorStyle.MPT:
            header, line_end, _ = self.system.partition("\n")  # `<|im_start|>system` stands before the text
            text = f"{header}{line_end}{text}"
        changed = self.copy()
        changed.system = text
        return changed

    def copy(self) -> Conversation:
        """Returns a copy to which turns can be added without changing this one; images are shared."""
        return replace(self, messages=[list(message) for message in self.messages])

    def get_images(self, return_pil: bool = False) -> list[Any]:
        """Returns the images of all turns in reading order, in their original size.

        Args:
            return_pil: returns the images as they were added, instead of base64-encoded PNG files for a worker.
        """
        images: list[Any] = []
        for _, message in self.messages[self.offset :]:
            if isinstance(message, tuple):
                images.extend(message[1] if isinstance(message[1], list) else [message[1]])
        images = [image for image in images if image is not None]
        return images if return_pil else [_base64_png(image) for image in images]

    def dict(self) -> dict[str, Any]:
        """Returns the conversation without its images, ready for JSON logs."""
        return {
            "system": self.system,
            "roles": self.roles,
            "messages": [[role, _text_of(message)] for role, message in self.messages],
            "offset": self.offset,
            "sep": self.sep,
            "sep2": self.sep2,
        }

    def _texts(self) -> list[tuple[str, str | None]]:
        """Returns role and text of each turn, with the image of a first turn moved to the template's place for it."""
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
                f"turn {index + 1}: the template {conversation.name or 'plain'!r} holds one text; it has no separator "
                "(sep2) for a second one. Choose a chat template such as 'llava_v1' for a dialogue."
            )
        prompt += text + separator
    return prompt


def _render_llama_2(conversation: Conversation, turns: Turns) -> str:
    prompt = ""
    for index, (role, text) in enumerate(turns):
        if index == 0 and (not text or role != conversation.roles[0]):
            raise TemplateError(
                f"turn 1: an [INST] template ({conversation.name or 'llama_2'!r}) must begin with a text of "
                f"{conversation.roles[0]!r}, but this conversation begins with {text or 'nothing'!r} of {role!r}."
            )
        if not text:
            continue
        if index % 2:
            prompt += f" {text} {conversation.sep2 or ''}"
            continue
        if index == 0 and conversation.system:
            text = f"<<SYS>>\n{conversation.system}\n<</SYS>>\n\n{text}"
        prompt += f"{conversation.sep}[INST] {text} [/INST]"
    # The tokenizer adds the first begin-of-sequence token.
    return prompt.removeprefix(conversation.sep)


def _render_headed(conversation: Conversation, turns: Turns) -> str:
    end = conversation.sep2 or ""
    prompt = conversation.system + 2 * end
    for role, text in turns:
        prompt += f"{conversation.sep} {role}: {text}{end}" if text else f"{conversation.sep} {role}:"
    return prompt


def _render_turns(conversation: Conversation, turns: Turns) -> str:
    system, prompt = conversation.system, ""
    if system and conversation.system_role:
        prompt = f"{conversation.system_role}{system}{conversation.sep}"
    for index, (role, text) in enumerate(turns):
        if not text:
            prompt += role
            continue
        if index == 0 and system and not conversation.system_role:
            text = f"{system}\n\n{text}"
        end = conversation.sep if role == conversation.roles[0] else conversation.sep2 or conversation.sep
        prompt += f"{role}{text}{end}"
    return prompt


def _render_jinja(conversation: Conversation, turns: Turns) -> str:
    opens = bool(turns) and turns[-1][0] == conversation.roles[1] and not turns[-1][1]
    messages = [{"role": role, "content": text or ""} for role, text in (turns[:-1] if opens else turns)]
    if conversation.system:
        messages.insert(0, {"role": "system", "content": conversation.system})
    return render(conversation.jinja, messages, opens=opens)


_RENDERERS: Final[dict[SeparatorStyle, Callable[[Conversation, Turns], str]]] = {
    SeparatorStyle.SINGLE: _render_single,
    SeparatorStyle.TWO: _render_two,
    SeparatorStyle.MPT: _render_mpt,
    SeparatorStyle.PLAIN: _render_plain,
    SeparatorStyle.LLAMA_2: _render_llama_2,
    SeparatorStyle.HEADED: _render_headed,
    SeparatorStyle.TURNS: _render_turns,
    SeparatorStyle.JINJA: _render_jinja,
}


# Released checkpoints were trained and evaluated with exactly these texts, including missing and doubled spaces.

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


def _turns(role: str, sep: str, sep2: str = "", *, system: str = "", assistant: str = "assistant") -> Conversation:
    """A family with control tokens around turns; `role` has {} in place of the role's name."""
    has_system = not role.startswith("<start_of_turn>")
    return Conversation(
        system,
        (role.format("user"), role.format(assistant)),
        [],
        0,
        SeparatorStyle.TURNS,
        sep,
        sep2 or sep,
        "turns",
        system_role=role.format("system") if has_system else "",
    )


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
        # Keys of the later releases, with their later meaning.
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
        # Families of language models that came later, in the words of their own chat templates. The first three names
        # are those of LLaVA-NeXT and LLaVA-OneVision.
        "qwen_1_5": _turns("<|im_start|>{}\n", "<|im_end|>\n", system="You are a helpful assistant."),
        "qwen_2": _turns("<|im_start|>{}\n", "<|im_end|>\n", system="You are a helpful assistant."),
        "llava_llama_3": _turns(
            "<|start_header_id|>{}<|end_header_id|>\n\n",
            "<|eot_id|>",
            system=f"You are a helpful language and vision assistant. {_SEES}",
        ),
        "llama_3": _turns("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
        "chatml": _turns("<|im_start|>{}\n", "<|im_end|>\n"),
        "gemma": _turns("<start_of_turn>{}\n", "<end_of_turn>\n", assistant="model"),
        "phi_3": _turns("<|{}|>\n", "<|end|>\n"),
        "olmo_2": _turns("<|{}|>\n", "\n", "<|endoftext|>\n"),
        "zephyr": _turns("<|{}|>\n", "</s>\n"),
        # Keys that no release had: the v0 text of a key whose meaning changed, and the training text of v0.
        "v0_llava_v1": conv_templates_v0["llava_v1"],
        "v0_train": Conversation(
            _POLITE_HUMAN, _HUMAN, [], 0, SeparatorStyle.HEADED, "###", "\n", "v0", image_first=False
        ),
    }
)
"""All templates by name. Copy a template before adding turns: `conv_templates[name].copy()`."""

default_conversation: Final[Conversation] = conv_templates["vicuna_v1"]
"""Default template of the later releases. Use `default_template_for` to get the template of a checkpoint."""


def template(name: str, *, release: Release = "head") -> Conversation:
    """Returns a new conversation in the template called `name`.

    Args:
        name: a key of `conv_templates` or `conv_templates_v0`.
        release: release that decides the meaning of a name: "v0", or "head" for later releases.

    Raises:
        UnknownTemplate: neither table has the name; the message suggests similar ones.
    """
    tables = (conv_templates_v0, conv_templates) if release == "v0" else (conv_templates,)
    for table in tables:
        if name in table:
            return table[name].copy()
    close = difflib.get_close_matches(name, conv_templates, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Available: {', '.join(conv_templates)}."
    raise UnknownTemplate(f"there is no conversation template {name!r}. {hint}")
