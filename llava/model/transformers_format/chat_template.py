"""Writes a conversation template as the Jinja text that transformers, vLLM and SGLang render prompts with.

For one or more user turns with images, the rendered text equals that of `Conversation.get_prompt` with image tokens in
place of `<image>`; tests compare the two for every template that can be exported.
"""

from __future__ import annotations

import json

from llava.conversation import Conversation, SeparatorStyle
from llava.errors import InvalidRequest
from llava.templates.jinja_text import takes_parts

# Joins a message's images and text; `image` is the text of one image.
_CONTENT = """\
{%- macro content(message) -%}
  {%- if message['content'] is string -%}{{ message['content'] }}
  {%- else -%}
    {%- set ns = namespace(images='', text='') -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] in ['image', 'image_url'] -%}{%- set ns.images = ns.images + BEFORE + image + AFTER -%}
      {%- elif part['type'] == 'text' -%}{%- set ns.text = ns.text + part['text'] -%}{%- endif -%}
    {%- endfor -%}
    JOINED
  {%- endif -%}
{%- endmacro -%}
"""
_SYSTEM = """\
{%- if messages and messages[0]['role'] == 'system' -%}
  {%- set system = messages[0]['content'] if messages[0]['content'] is string else messages[0]['content'][0]['text'] -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = SYSTEM -%}
  {%- set turns = messages -%}
{%- endif -%}
"""


def chat_template(conversation: Conversation, *, image: str, bos: str) -> str:
    """Returns the Jinja text of a template.

    Args:
        conversation: the template; its few-shot messages become part of the text.
        image: the text that stands for one image, such as `<image>`.
        bos: the token that the original's tokenizer put before the text. The rendered text begins with it and must be
            tokenised without special tokens, as `apply_chat_template` does.

    Raises:
        InvalidRequest: a template without turns (`plain`), which cannot render a chat.
    """
    if conversation.sep_style is SeparatorStyle.JINJA:
        return _of_folder(conversation, image=image, bos=bos)
    if conversation.sep_style not in _TURNS:
        raise InvalidRequest(f"the template {conversation.name!r} has no turns; choose a chat template to export.")
    before, after, joined = (
        ("", "\n", "{{- ns.images + ns.text -}}")
        if conversation.image_first
        else ("\n", "", "{{- ns.text + ns.images -}}")
    )
    content = _CONTENT.replace("BEFORE", _text(before)).replace("AFTER", _text(after)).replace("JOINED", joined)
    parts = [
        f"{{%- set image = {_text(image)} -%}}\n",
        content,
        _SYSTEM.replace("SYSTEM", _text(conversation.system)),
        f"{{{{- {_text(bos)} -}}}}\n",
        _TURNS[conversation.sep_style](conversation),
    ]
    return "".join(parts)


# Gives the text of a folder messages whose images are text, as it gets them in this package.
_FLATTENED = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
  {%- set flat.messages = flat.messages + [{'role': message['role'], 'content': CONTENT}] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def _of_folder(conversation: Conversation, *, image: str, bos: str) -> str:
    joined = "{{- ns.images + ns.text -}}"
    content = _CONTENT.replace("BEFORE", _text("")).replace("AFTER", _text("\n")).replace("JOINED", joined)
    first = f"{{%- set bos_token = '' -%}}{{{{- {_text(bos)} -}}}}\n"
    as_text = "content(message)"
    as_part = f"[{{'type': 'text', 'text': {as_text}}}]" if takes_parts(conversation.jinja) else as_text
    flattened = _FLATTENED.replace("CONTENT", as_part)
    return f"{{%- set image = {_text(image)} -%}}\n{content}{flattened}{first}{conversation.jinja}"


def _text(value: str | None) -> str:
    """Returns a string literal of Jinja."""
    return json.dumps(value or "", ensure_ascii=False)


def _roles(conversation: Conversation) -> str:
    user, assistant = (_text(role) for role in conversation.roles)
    return f"({user} if message['role'] == 'user' else {assistant})"


def _shots(conversation: Conversation, turn: str) -> str:
    """Renders the template's few-shot messages, which stand before the conversation's own turns."""
    shots = [{"role": role, "content": text} for role, text in conversation.messages[: conversation.offset]]
    if not shots:
        return ""
    named = [
        {"role": "user" if s["role"] == conversation.roles[0] else "assistant", "content": s["content"]} for s in shots
    ]
    return f"{{%- for message in {json.dumps(named, ensure_ascii=False)} -%}}{turn}{{%- endfor -%}}\n"


def _single(conversation: Conversation) -> str:
    turn = "{{- " + _roles(conversation) + " + ': ' + content(message) + " + _text(conversation.sep) + " -}}"
    return _with_turns(conversation, f"{{{{- system + {_text(conversation.sep)} -}}}}\n", turn, ":")


def _two(conversation: Conversation) -> str:
    sep, sep2 = _text(conversation.sep), _text(conversation.sep2)
    end = f"({sep} if message['role'] == 'user' else {sep2})"
    turn = "{{- " + _roles(conversation) + " + ': ' + content(message) + " + end + " -}}"
    return _with_turns(conversation, f"{{{{- system + {sep} -}}}}\n", turn, ":")


def _mpt(conversation: Conversation) -> str:
    sep = _text(conversation.sep)
    turn = "{{- " + _roles(conversation) + " + content(message) + " + sep + " -}}"
    return _with_turns(conversation, f"{{{{- system + {sep} -}}}}\n", turn, "")


def _turns(conversation: Conversation) -> str:
    sep, sep2 = _text(conversation.sep), _text(conversation.sep2)
    end = f"({sep} if message['role'] == 'user' else {sep2})"
    turn = "{{- " + _roles(conversation) + " + content(message) + " + end + " -}}"
    if conversation.system_role:
        start = f"{{%- if system -%}}{{{{- {_text(conversation.system_role)} + system + {sep} -}}}}{{%- endif -%}}\n"
        return _with_turns(conversation, start, turn, "")
    inside = "((system + '\n\n') if loop.first and system else '')"
    turn = "{{- " + _roles(conversation) + f" + {inside} + content(message) + " + end + " -}}"
    return _with_turns(conversation, "", turn, "")


def _headed(conversation: Conversation) -> str:
    head, end = _text(conversation.sep + " "), _text(conversation.sep2)
    turn = "{{- " + head + " + " + _roles(conversation) + " + ': ' + content(message) + " + end + " -}}"
    opened = conversation.sep + " "
    return _with_turns(conversation, f"{{{{- system + {end} + {end} -}}}}\n", turn, ":", opened=opened)


def _with_turns(conversation: Conversation, start: str, turn: str, after_role: str, *, opened: str = "") -> str:
    opening = _text(f"{opened}{conversation.roles[1]}{after_role}")
    return (
        f"{start}{_shots(conversation, turn)}"
        f"{{%- for message in turns -%}}{turn}{{%- endfor -%}}\n"
        f"{{%- if add_generation_prompt -%}}{{{{- {opening} -}}}}{{%- endif -%}}"
    )


def _inst(conversation: Conversation) -> str:
    sep, sep2 = _text(conversation.sep), _text(conversation.sep2)
    wrapped = "'<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + content(message)"
    return (
        "{%- for message in turns -%}"
        "{%- if message['role'] == 'user' -%}"
        f"{{{{- ({sep} if not loop.first else '') + '[INST] ' + "
        f"(({wrapped}) if loop.first and system else content(message)) + ' [/INST]' -}}}}"
        "{%- else -%}"
        f"{{{{- ' ' + content(message) + ' ' + {sep2} -}}}}"
        "{%- endif -%}{%- endfor -%}"
    )


_TURNS = {
    SeparatorStyle.SINGLE: _single,
    SeparatorStyle.TWO: _two,
    SeparatorStyle.MPT: _mpt,
    SeparatorStyle.HEADED: _headed,
    SeparatorStyle.TURNS: _turns,
    SeparatorStyle.LLAMA_2: _inst,
}
