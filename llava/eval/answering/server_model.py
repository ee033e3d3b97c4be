"""Answers the questions of an evaluation through a running server: a controller, a worker, any OpenAI-compatible one.

Loads neither PyTorch nor a model. The server puts a question into its model's own template.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import aclosing
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from llava.errors import InvalidRequest, LlavaError, ModelNotFound, RemoteError, WorkerLost, WorkerTimeout
from llava.eval.answering.answerer import Manner, Written
from llava.eval.data.questions import Question
from llava.images.formats import MEDIA_TYPES, recognise
from llava.images.loading import read_encoded
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.chat_server import ChatServer
from llava.serve.client.conversation import Chat, Turn
from llava.serve.client.images import ChatImage, read_image
from llava.serve.worker.backend import Finished

_MAX_BYTES: Final = 12_000_000
"""Of an image that is sent as it is: with others around it, in base64, below the 20 MB of a request."""
_PAUSES_S: Final = (1, 2, 4, 8, 15, 30, 60)
"""Before a question is asked again that the server had no room for, or that was lost with a worker."""
_HOPELESS: Final = (401, 403, 404)
_PASSING: Final = (429, 502, 503)


class ServerModel:
    """An `Answerer`."""

    def __init__(self, args: argparse.Namespace, manner: Manner):
        """
        Raises:
            InvalidRequest: settings that a server does not take.
        """
        for is_set, flag in (
            (manner.conv_mode, "--conv-mode"),
            (manner.answer_prompter, "--answer-prompter"),
            (manner.sampling.num_beams > 1, "--num-beams"),
            (args.model_base or args.vision_tower or args.mm_projector, "--model-base, --vision-tower, --mm-projector"),
            (args.load_8bit or args.load_4bit or args.dtype or args.device, "--device, --dtype, --load-8bit"),
        ):
            if is_set:
                raise InvalidRequest(
                    f"{flag} cannot be used with --server: the server loads its model and writes its prompts itself. "
                    "Leave it out, or load the model here with --model-name."
                )
        self._server = ChatServer(args.server)
        self._asked_name = args.model_path
        self._manner = manner
        self._read_image = lru_cache(maxsize=4)(_image)

    async def identify(self) -> tuple[str, dict[str, Any]]:
        there = await self._server.models()
        if self._asked_name is None and len(there) != 1:
            names = ", ".join(there) or "none yet"
            raise InvalidRequest(f"{self._server.address} serves several models ({names}). Choose: --model-name NAME.")
        self._name = self._asked_name or there[0]
        if self._name not in there:
            raise ModelNotFound(self._name, there)
        return self._name, {"server_model": self._name}

    async def open(self) -> None:
        """The server is there since `identify`."""

    async def answer(self, question: Question) -> Written:
        images = tuple(self._read_image(source) for source in question.images)
        chat = Chat((Turn("user", question.text, images),))
        sampling = self._manner.sampling_for(question)
        settings = AnswerSettings(
            sampling.temperature,
            1.0 if sampling.top_p is None else sampling.top_p,
            sampling.max_new_tokens,
            sampling.seed,
        )
        for pause_s in (*_PAUSES_S, None):
            try:
                return await self._answer(chat, settings)
            except (RemoteError, WorkerLost) as error:
                if pause_s is None or error.status not in _PASSING:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _answer(self, chat: Chat, settings: AnswerSettings) -> Written:
        pieces = []
        reason = None
        async with aclosing(self._server.answer(chat, self._name, settings)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    reason = event.finish_reason
                else:
                    pieces.append(event.text)
        return Written("".join(pieces).strip(), reason == "length")

    def is_hopeless(self, error: LlavaError) -> bool:
        if isinstance(error, RemoteError):
            return error.status in _HOPELESS + _PASSING
        return isinstance(error, (WorkerLost, WorkerTimeout))

    async def close(self) -> None:
        await self._server.close()


def _image(source: str | Path) -> ChatImage:
    """An image as it is sent: byte for byte, so that the server's model sees what a model here would."""
    data, name = read_encoded(source)
    kind = recognise(data, name).label
    if kind in MEDIA_TYPES and len(data) <= _MAX_BYTES:
        return ChatImage(data, MEDIA_TYPES[kind], Path(name).name)
    return read_image(source)
