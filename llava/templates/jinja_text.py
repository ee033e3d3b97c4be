"""Renders the chat template of a model folder: Jinja text of a stranger, in a sandbox, as transformers renders it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from llava.errors import TemplateError

if TYPE_CHECKING:
    from jinja2 import Template

ROLES: Final = ("user", "assistant")
_PROBE: Final = "\u2983probe\u2984"
_NO_TOKENS: Final = {"bos_token": "", "eos_token": ""}
"""The tokenizer adds the first token itself. A template that writes the last one sets it first (`with_end_token`)."""


def render(text: str, messages: Sequence[dict[str, Any]], *, opens: bool) -> str:
    """Renders messages.

    Args:
        text: the Jinja text.
        messages: `{"role": ..., "content": ...}`; an image is the text `<image>` inside a content.
        opens: whether to open the assistant's turn.

    Raises:
        TemplateError: the text is no Jinja, or it refuses these messages; the message has its reason.
    """
    from jinja2.exceptions import TemplateError as JinjaError

    try:
        if takes_parts(text):
            messages = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
        return _compiled(text).render(messages=messages, add_generation_prompt=opens, **_NO_TOKENS)
    except (JinjaError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise TemplateError(f"the chat template of the model cannot render this conversation: {error}") from error


@lru_cache(maxsize=16)
def answer_end(text: str) -> str:
    """Returns what a template writes after an answer, such as `<|im_end|>` and a line break.

    Raises:
        TemplateError: as `render`.
    """
    rendered = render(text, [_user("Hi."), {"role": "assistant", "content": _PROBE}], opens=False)
    return rendered.rpartition(_PROBE)[2]


def with_end_token(text: str, token: str) -> str:
    """Returns a Jinja text that knows the token which its model's answers end with."""
    return f"{{%- set eos_token = {json.dumps(token, ensure_ascii=False)} -%}}\n{text}" if "eos_token" in text else text


def writes_first_token(text: str) -> bool:
    """Returns whether a template begins every prompt with the begin-of-sequence token."""
    from jinja2.exceptions import TemplateError as JinjaError

    messages = [_user("Hi.")]
    try:
        if takes_parts(text):
            messages = [{"role": ROLES[0], "content": [{"type": "text", "text": "Hi."}]}]
        return _compiled(text).render(messages=messages, bos_token=_PROBE, eos_token="").lstrip().startswith(_PROBE)
    except (JinjaError, TypeError, ValueError, KeyError, AttributeError):
        return False


@lru_cache(maxsize=16)
def takes_parts(text: str) -> bool:
    """Returns whether a template reads a content as a list of parts and would lose one that is a text."""
    from jinja2.exceptions import TemplateError as JinjaError

    try:
        as_text = _compiled(text).render(messages=[_user(_PROBE)], add_generation_prompt=True, **_NO_TOKENS)
    except (JinjaError, TypeError, ValueError, KeyError, AttributeError):
        return True
    return _PROBE not in as_text


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


@lru_cache(maxsize=16)
def _compiled(text: str) -> Template:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks answers for training; here it is only its content."""

        tags = {"generation"}  # noqa: RUF012, the base class's own form

        def parse(self, parser: Any) -> nodes.Node:
            number = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=number)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(text)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError as JinjaError

    raise JinjaError(message)
