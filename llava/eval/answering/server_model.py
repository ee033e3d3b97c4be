"""Answers the questions of an evaluation through a running server: a controller, a worker, or an OpenAI-compatible one.

This loads neither PyTorch nor a model. The server puts each question into the template of its model.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from llava.errors import InvalidRequest, LlavaError, ModelNotFound, RemoteError, WorkerLost, WorkerTimeout
from llava.eval.answering.answerer import EvalAnswer
from llava.eval.answering.settings import AnsweringSettings
from llava.eval.data.questions import Question
from llava.images.headers import portable_type
from llava.images.loading import read_encoded
from llava.model.loading.arguments import ModelSettings
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.chat_server import ChatServer
from llava.serve.client.conversation import Chat, Turn
from llava.serve.client.images import ChatImage, read_image
from llava.text_generation.answer_events import Answer

_MAX_BYTES: Final = 12_000_000
"""Maximum size of an image that is sent unchanged, so that in base64 it stays below a request's limit of 20 MB."""
_PAUSES_S: Final = (1, 2, 4, 8, 15, 30, 60)
"""Seconds to wait before each retry if the server was full or lost its worker."""
_HOPELESS: Final = (401, 403, 404)
_PASSING: Final = (429, 502, 503)


class ServerModel:
    """An `Answerer` that asks a server."""

    def __init__(self, address: str, model: ModelSettings, answering: AnsweringSettings):
        """
        Args:
            address: URL of the server.
            model: `model_path` names one of the server's models; the other settings must have their defaults.
            answering: how questions are answered.

        Raises:
            InvalidRequest: a setting cannot be used with a server.
        """
        for is_set, flag in (
            (answering.conv_mode, "--conv-mode"),
            (answering.answer_prompter, "--answer-prompter"),
            (answering.sampling.num_beams > 1, "--num-beams"),
            (
                model.model_base or model.vision_tower or model.mm_projector,
                "--model-base, --vision-tower, --mm-projector",
            ),
            (model.load_8bit or model.load_4bit or model.dtype or model.device, "--device, --dtype, --load-8bit"),
        ):
            if is_set:
                raise InvalidRequest(
                    f"{flag} cannot be used with --server, which loads its model and writes its prompts itself. "
                    "Drop the flag, or drop --server and load the model with --model-name."
                )
        self._server = ChatServer(address)
        self._asked_name = model.model_path
        self._answering = answering
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
        """Does nothing: `identify` has reached the server."""

    async def answer(self, question: Question) -> EvalAnswer:
        images = tuple(self._read_image(source) for source in question.images)
        chat = Chat((Turn("user", question.text, images),))
        sampling = self._answering.sampling_for(question)
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

    async def _answer(self, chat: Chat, settings: AnswerSettings) -> EvalAnswer:
        pieces = []
        reason = None
        async with aclosing(self._server.answer(chat, self._name, settings)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    reason = event.finish_reason
                else:
                    pieces.append(event.text)
        return EvalAnswer("".join(pieces).strip(), reason == "length")

    def is_hopeless(self, error: LlavaError) -> bool:
        if isinstance(error, RemoteError):
            return error.status in _HOPELESS + _PASSING
        return isinstance(error, (WorkerLost, WorkerTimeout))

    async def close(self) -> None:
        await self._server.close()


def _image(source: str | Path) -> ChatImage:
    """Returns an image as it is sent: unchanged if possible, so that the server's model sees what a local one would."""
    data, name = read_encoded(source)
    media_type = portable_type(data, name)
    if media_type is not None and len(data) <= _MAX_BYTES:
        return ChatImage(data, media_type, Path(name).name)
    return read_image(source)
