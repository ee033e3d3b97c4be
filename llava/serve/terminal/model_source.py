"""Who answers: an engine in this process, or a server."""

from __future__ import annotations

import argparse
import os
from contextlib import aclosing
from typing import TYPE_CHECKING

from llava.errors import InvalidRequest, ModelNotFound, RemoteError
from llava.serve.client.chat_server import ChatServer
from llava.serve.client.conversation import AnswerSettings, Chat, ChatSource
from llava.serve.worker.backend import ChatEvents

if TYPE_CHECKING:
    from llava.serve.worker.engine_backend import EngineBackend

_NO_LIST = frozenset({404, 405, 501})
"""Statuses of a server that answers questions and lists no models."""


class LocalModel:
    """An engine in this process; a `ChatSource`."""

    def __init__(self, backend: EngineBackend):
        """Args: `backend` is started by `start`, and closed by `close`."""
        self._backend = backend

    async def start(self) -> None:
        """To be called before anything is asked."""
        await self._backend.start()

    async def close(self) -> None:
        await self._backend.close()

    async def models(self) -> list[str]:
        return self._backend.names

    async def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> ChatEvents:
        from pydantic import ValidationError

        from llava.serve.protocol.openai_requests import ChatRequest
        from llava.serve.service.error_responses import invalid_field

        try:
            request = ChatRequest.model_validate(chat.request(model, settings))
        except ValidationError as error:
            raise invalid_field(error) from error
        ask = await self._backend.chat(request)
        async with aclosing(ask(0)) as events:
            async for event in events:
                yield event


def local_model(args: argparse.Namespace) -> tuple[LocalModel, str]:
    """The model of --model-path, loaded, and a line about it where it is an embedded one.

    Raises:
        LlavaError: there is no such model or template, or it cannot be loaded.
    """
    from llava.conversation import template
    from llava.model.loading.arguments import find_model
    from llava.serve.worker.engine_backend import EngineBackend
    from llava.serve.worker.model_loading import load_model

    if args.conv_mode:
        template(args.conv_mode)  # a wrong name is said now, not after the first question
    folder, name, notice = find_model(args.model_path)
    loaded = load_model(args, folder)
    backend = EngineBackend(name=name, load=lambda: loaded, conv_mode=args.conv_mode, warms_up=False)
    return LocalModel(backend), notice or ""


def server(args: argparse.Namespace) -> ChatServer:
    """The server of --server, with the key that the flags or the environment give.

    Raises:
        InvalidRequest: no address, a key that cannot be read, or flags of a model in this process.
    """
    from llava.serve.worker.model_loading import given

    local = given(args) + ["--conv-mode"] * bool(args.conv_mode)
    if local:
        raise InvalidRequest(
            f"{', '.join(local)}: how a model is loaded is decided where it runs, which is at {args.server}. "
            "Leave the flags out, or leave --server out to load a model here."
        )
    key = _key(args)
    return ChatServer(args.server, headers={"authorization": f"Bearer {key}"} if key else None)


def _key(args: argparse.Namespace) -> str:
    """From the flag's file, or the variable that the other flag names; empty for the client's own choice."""
    if args.api_key_file:
        from pathlib import Path

        from llava.files.json_files import read_text

        key = read_text(Path(args.api_key_file).expanduser()).strip()
        where = args.api_key_file
    elif args.api_key_env:
        key, where = os.environ.get(args.api_key_env, "").strip(), f"the variable {args.api_key_env}"
    else:
        return ""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest(f"{where}: no API key is there; one line of plain characters is expected.")
    return key


async def choose_model(source: ChatSource, wanted: str | None) -> tuple[str, list[str]]:
    """The model to ask (empty: none is served yet), and all that are served.

    Raises:
        ModelNotFound: the wanted one is not served.
        LlavaError: the server does not say.
    """
    try:
        names = await source.models()
    except RemoteError as error:
        if error.status not in _NO_LIST:
            raise
        if wanted:
            return wanted, [wanted]
        raise RemoteError(
            f"the server lists no models ({error}). Is it OpenAI-compatible? If it is, name one with --model.",
            code=error.code,
            status=error.status,
        ) from error
    if wanted and names and wanted not in names:
        raise ModelNotFound(wanted, names)
    return wanted or (names[0] if names else ""), names
