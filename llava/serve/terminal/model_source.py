"""Opens what answers a chat: an engine in this process, or a server."""

from __future__ import annotations

import os
from contextlib import aclosing
from typing import TYPE_CHECKING

from llava.errors import InvalidRequest, ModelNotFound, RemoteError
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.chat_server import ChatServer
from llava.serve.client.conversation import Chat, ChatSource
from llava.serve.terminal.settings import ChatSettings
from llava.text_generation.answer_events import AnswerEvents

if TYPE_CHECKING:
    from llava.serve.worker.engine_backend import EngineBackend

_NO_LIST = frozenset({404, 405, 501})
"""Statuses of a server that answers questions but does not list its models."""


class LocalModelSource:
    """An engine in this process, as a `ChatSource`."""

    def __init__(self, backend: EngineBackend):
        """
        Args:
            backend: an engine that is not started yet.
        """
        self._backend = backend

    async def start(self) -> None:
        """Starts the engine; must be called before anything is asked."""
        await self._backend.start()

    async def close(self) -> None:
        await self._backend.close()

    async def models(self) -> list[str]:
        return self._backend.names

    async def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AnswerEvents:
        from pydantic import ValidationError

        from llava.serve.protocol.openai_requests import ChatRequest
        from llava.serve.service.error_responses import invalid_field

        try:
            request = ChatRequest.model_validate(chat.request(model, settings))
        except ValidationError as error:
            raise invalid_field(error) from error
        start = await self._backend.chat(request)
        async with aclosing(await start(0)) as events:
            async for event in events:
                yield event


def local_model(settings: ChatSettings) -> tuple[LocalModelSource, str]:
    """Loads the model and returns it, with a notice if it is an embedded one.

    Raises:
        LlavaError: there is no such model or template, or the model cannot be loaded.
    """
    from llava.conversation import template
    from llava.model.loading.arguments import find_model
    from llava.serve.worker.engine_backend import EngineBackend
    from llava.serve.worker.model_loading import load_model

    if settings.conv_mode:
        template(settings.conv_mode)  # reports a wrong name now, not after the first question
    folder, name, notice = find_model(settings.model)
    loaded = load_model(settings.loading, folder)
    backend = EngineBackend(name=name, load=lambda: loaded, conv_mode=settings.conv_mode, warms_up=False)
    return LocalModelSource(backend), notice or ""


def server(settings: ChatSettings) -> ChatServer:
    """Returns the server of --server, with its API key.

    Raises:
        InvalidRequest: the address is not a URL, the key cannot be read, or there are flags for loading a model.
    """
    assert settings.server is not None
    unusable = [words[0] for words in settings.loading.as_flags()]
    if settings.conv_mode:
        unusable.append("--conv-mode")
    if unusable:
        raise InvalidRequest(
            f"{', '.join(unusable)} cannot be used with --server, which loads its model itself. Leave them out, or "
            "leave out --server to load a model here."
        )
    return ChatServer(settings.server, key=_key(settings))


def _key(settings: ChatSettings) -> str:
    """The key in the file or the variable; empty if neither is named."""
    if settings.api_key_file:
        from llava.files.json_files import read_text

        key, where = read_text(settings.api_key_file).strip(), str(settings.api_key_file)
    elif settings.api_key_variable:
        key = os.environ.get(settings.api_key_variable, "").strip()
        where = f"the variable {settings.api_key_variable}"
    else:
        return ""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest(f"{where}: no API key found; expected one line of ASCII characters without spaces.")
    return key


async def choose_model(source: ChatSource, wanted: str | None) -> tuple[str, list[str]]:
    """Returns the model to ask (empty if none is served yet), and all models that are served.

    Raises:
        ModelNotFound: the wanted model is not served.
        LlavaError: the list of models is not available, and no model is named.
    """
    try:
        names = await source.models()
    except RemoteError as error:
        if error.status not in _NO_LIST:
            raise
        if wanted:
            return wanted, [wanted]
        raise RemoteError(
            f"the server does not list its models ({error}). If it is OpenAI-compatible, name one with --model.",
            code=error.code,
            status=error.status,
        ) from error
    if wanted and names and wanted not in names:
        raise ModelNotFound(wanted, names)
    return wanted or (names[0] if names else ""), names
