"""The client of our front ends, against real servers on loopback that behave well and badly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

from llava.errors import InvalidRequest, LlavaError, RemoteError, WorkerLost
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.chat_server import ChatServer
from llava.serve.client.conversation import Chat
from llava.serve.service.server import listen
from llava.text_generation.answer_events import Answer, AnswerEvent
from tests.support.fake_openai_server import WORDS, FakeOpenAiServer
from tests.support.serving import InThread

CHAT = Chat().ask("What is it?")


@pytest.fixture
def engine() -> Iterator[tuple[FakeOpenAiServer, str]]:
    fake = FakeOpenAiServer()
    with InThread(fake.app()) as server:
        yield fake, server.url


async def read(address: str) -> list[AnswerEvent]:
    return [event async for event in ChatServer(address).answer(CHAT, "engine-model", AnswerSettings())]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_an_answer_arrives_in_pieces_and_ends_with_its_counts(engine, suffix):
    fake, address = engine
    *pieces, end = asyncio.run(read(address + suffix))
    assert tuple(piece.text for piece in pieces if piece.text) == WORDS
    assert sum(piece.num_new_tokens for piece in pieces) == len(WORDS)
    assert end == Answer("".join(WORDS), "stop", 11, len(WORDS))
    assert fake.bodies[0]["messages"] == [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]


def test_the_models_of_a_server_are_listed(engine):
    assert asyncio.run(ChatServer(engine[1]).models()) == ["engine-model"]


def test_a_refusal_comes_in_the_servers_own_words(engine):
    fake, address = engine
    fake.status, fake.error = 503, {"message": "64 requests wait already.", "code": "queue_full"}
    with pytest.raises(RemoteError, match="64 requests wait already") as caught:
        asyncio.run(read(address))
    assert (caught.value.code, caught.value.status) == ("queue_full", 503)


def test_an_error_in_the_middle_comes_after_the_pieces(engine):
    fake, address = engine
    fake.error_after, fake.error = 2, {"message": "the worker went away.", "code": "worker_lost"}
    seen: list[str] = []

    async def until_it_fails() -> None:
        async for event in ChatServer(address).answer(CHAT, "engine-model", AnswerSettings()):
            seen.append(event.text)

    with pytest.raises(RemoteError, match="went away"):
        asyncio.run(until_it_fails())
    assert tuple(seen) == WORDS[:2]


def test_a_stream_that_just_ends_is_no_whole_answer(engine):
    engine[0].breaks_off_after = 1
    with pytest.raises(WorkerLost, match="broke off"):
        asyncio.run(read(engine[1]))


def test_closing_an_answer_ends_the_work_behind_it(engine):
    fake, address = engine
    fake.words, fake.pace_s = (" word",) * 500, 0.02

    async def read_two() -> None:
        answer = ChatServer(address).answer(CHAT, "engine-model", AnswerSettings())
        await anext(answer)
        await anext(answer)
        await answer.aclose()

    asyncio.run(read_two())
    deadline = time.monotonic() + 20
    while not fake.cancelled and time.monotonic() < deadline:
        time.sleep(0.05)
    assert fake.cancelled == 1
    assert fake.written < 400


def test_a_server_that_is_not_there_is_named():
    sockets = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    sockets[0].close()
    with pytest.raises(WorkerLost, match=f"{address} cannot be reached"):
        asyncio.run(ChatServer(address).models())


@pytest.mark.parametrize("address", ["", "localhost:10000", "ftp://host", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused_with_an_example(address):
    with pytest.raises(InvalidRequest, match="http://HOST:PORT"):
        ChatServer(address)


def _other_server() -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> PlainTextResponse:
        return PlainTextResponse("<html>hello</html>")

    @app.post("/v1/chat/completions")
    async def chat() -> StreamingResponse:
        return StreamingResponse(iter(["data: hello\n\n"]), media_type="text/event-stream")

    return app


def test_a_server_of_another_kind_is_recognised():
    with InThread(_other_server()) as server:
        with pytest.raises(WorkerLost, match="OpenAI-compatible"):
            asyncio.run(ChatServer(server.url).models())
        with pytest.raises(LlavaError, match="does not follow the protocol"):
            asyncio.run(read(server.url))
