"""A worker over real HTTP with a fake engine: clients of both protocols, and every kind of wrong request."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import subprocess
import urllib.parse
import zlib
from itertools import pairwise
from types import SimpleNamespace

import httpx
import openai
import pytest
from PIL import Image

from llava.errors import EngineFailed, OutOfMemory
from llava.images.loading import load_image, load_image_from_base64
from llava.serve.protocol.original import UNKNOWN_FAILURE
from llava.serve.worker.app import create_worker_app
from tests.support.fake_backend import FakeEngine, Plan, fake_backend
from tests.support.images import encoded, heic, noise
from tests.support.serving import running
from tests.support.worker import ANSWER, about, asking, body, data_uri, frames, legacy, serving

# Clients of the OpenAI protocol


def test_the_openai_client_gets_an_answer_about_an_image(served):
    answer = served.client.chat.completions.create(
        model="llava-fake", messages=about(data_uri()), max_tokens=20, temperature=0, seed=3, extra_body={"top_k": 5}
    )
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    asked = served.engine.seen[0]
    assert (asked.images[0].size, asked.images[0].mode) == (noise().size, "RGB")
    assert (asked.sampling.max_new_tokens, asked.sampling.seed, asked.sampling.top_k) == (20, 3, 5)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.prompt_tokens == len(asked.prompt.split()) + 9


def test_the_openai_client_streams_with_usage(served):
    stream = served.client.chat.completions.create(
        model="llava-fake", messages=asking(), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_the_streaming_helper_of_the_openai_client_works(served):
    with served.client.chat.completions.stream(model="llava-fake", messages=asking()) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        assert "".join(deltas) == ANSWER
        assert stream.get_final_completion().choices[0].finish_reason == "stop"


def test_the_asynchronous_client_runs_several_requests_at_once(served):
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(model="llava-fake", messages=asking(str(i))) for i in range(12))
            )
            return [answer.choices[0].message.content or "" for answer in answers]

    assert asyncio.run(ask_all()) == [ANSWER] * 12
    assert served.held == (0, 0, 0)


def test_several_choices_are_told_apart_and_begin_from_seeds_of_their_own(served):
    answer = served.client.chat.completions.create(model="llava-fake", messages=asking(), n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(asked.sampling.seed for asked in served.engine.seen) == [7, 8, 9]
    texts: dict[int, str] = {}
    for chunk in served.client.chat.completions.create(model="llava-fake", messages=asking(), n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert texts == {0: ANSWER, 1: ANSWER}


def test_a_token_limit_and_a_stop_text_end_the_answer(served):
    short = served.client.chat.completions.create(model="llava-fake", messages=asking(), max_completion_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("A cat", "length")
    stopped = served.client.chat.completions.create(model="llava-fake", messages=asking(), stop=[" on"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("A cat sits", "stop")


def test_models_are_listed_and_found_by_ids_with_slashes():
    with serving(backend={"name": "lab/llava-7b"}) as served:
        assert [model.id for model in served.client.models.list()] == ["lab/llava-7b"]
        assert served.client.models.retrieve("lab/llava-7b").owned_by == "llava"
        with pytest.raises(openai.NotFoundError):
            served.client.models.retrieve("lab/none")


def test_curl_reads_the_stream(served):
    done = subprocess.run(
        [
            *("curl", "-sN", f"{served.url}/v1/chat/completions", "-H", "Content-Type: application/json"),
            *("-d", json.dumps(body(stream=True))),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.endswith("data: [DONE]\n\n")


# The original's protocol


def test_frames_carry_the_prompt_and_all_text_so_far(served):
    status, said = frames(served.url, legacy(stop="</s>"))
    assert status == 200
    assert [frame["error_code"] for frame in said] == [0] * len(said)
    assert said[0]["text"] == "USER: Hello? ASSISTANT:A"
    assert said[-1]["text"] == f"USER: Hello? ASSISTANT:{ANSWER}"
    assert all(later["text"].startswith(earlier["text"]) for earlier, later in pairwise(said))


def test_a_stream_interval_makes_fewer_frames_of_the_same_text():
    with serving(FakeEngine(plan=lambda request: Plan(pace_s=0.005, repeat=4)), stream_interval=6) as served:
        _, said = frames(served.url, legacy())
        assert said[-1]["text"].endswith(ANSWER * 4)
        assert len(said) <= 1 + 4


PNG = base64.b64encode(encoded(noise())).decode()
WRITTEN = {
    "another type than the bytes": f"data:image/jpeg;base64,{PNG}",
    "no particular type": f"data:application/octet-stream;base64,{PNG}",
    "no type": f"data:;base64,{PNG}",
    "no padding": f"data:image/png;base64,{PNG.rstrip('=')}",
    "a blank behind the comma": f"data:image/png;base64, {PNG}",
    "line ends": "data:image/png;base64," + "\n".join(PNG[i : i + 76] for i in range(0, len(PNG), 76)),
    "percent signs": "data:image/png;base64," + PNG.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    "the alphabet of URLs": "data:image/png;base64," + PNG.replace("+", "-").replace("/", "_"),
    "a parameter": f"data:image/png;charset=utf-8;base64,{PNG}",
    "capitals": f"DATA:image/PNG;BASE64,{PNG}",
    "no base64": "data:image/png," + urllib.parse.quote(base64.b64decode(PNG)),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_a_data_uri_is_read_however_a_client_writes_it(served, written):
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body(messages=about(WRITTEN[written])))
    assert response.status_code == 200, response.text
    [image] = served.engine.seen[-1].images
    assert image.tobytes() == noise().tobytes()
    assert load_image(WRITTEN[written], allow_path=False).tobytes() == noise().tobytes()
    assert load_image_from_base64(WRITTEN[written]).tobytes() == noise().tobytes()


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "AVIF", "HEIF"])
def test_every_format_that_the_command_line_reads_is_read_here(served, kind):
    data = encoded(noise(), kind) if kind != "HEIF" else heic(noise())
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body(messages=about(uri_of(data))))
    assert response.status_code == 200, response.text
    assert served.engine.seen[-1].images[0].size == noise().size


def uri_of(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def test_images_of_the_original_are_bare_base64(served):
    image = base64.b64encode(encoded(noise(), "JPEG")).decode()
    status, said = frames(served.url, legacy("USER: <image>\nWhat? ASSISTANT:", images=[image]))
    assert (status, said[-1]["error_code"]) == (200, 0)
    assert len(served.engine.seen[0].images) == 1


def test_the_status_is_the_originals(served):
    assert httpx.post(f"{served.url}/worker_get_status").json() == {
        "model_names": ["llava-fake"],
        "speed": 1.0,
        "queue_length": 0,
    }


# Errors


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "other"}, 404, "model_not_found", "model"),
        ({"n": 9}, 422, "invalid_request", "n"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
        ({"messages": []}, 422, "invalid_request", "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "invalid_conversation", None),
        ({"messages": about("http://127.0.0.1:1/cat.png")}, 403, "image_url_refused", None),
        ({"messages": about("file:///etc/passwd")}, 403, "image_url_refused", None),
        ({"messages": about("/etc/passwd")}, 415, "unsupported_image", None),
        ({"messages": about("data:image/png;base64,!!!")}, 400, "image_damaged", None),
        ({"messages": about(data_uri(noise(402, 2)))}, 400, "image_shape", None),
    ],
)
def test_each_wrong_request_has_its_own_error_before_the_engine_sees_it(served, fields, status, code, param):
    for stream in (False, True):
        response = httpx.post(f"{served.url}/v1/chat/completions", json=body(stream=stream, **fields))
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (status, code, param)
        assert "/etc" not in error["message"]
    assert served.engine.seen == []
    assert served.held == (0, 0, 0)


def test_too_long_a_prompt_is_a_bad_request_with_both_numbers():
    with serving(FakeEngine(context_length=100)) as served:
        with pytest.raises(openai.BadRequestError, match=r"have \d+ tokens, but the model's context is 100") as refusal:
            served.client.chat.completions.create(model="llava-fake", messages=asking("word " * 200), stream=True)
        assert refusal.value.code == "context_length_exceeded"


def test_out_of_memory_is_not_tried_again_by_the_client(served):
    served.engine.plan = lambda request: Plan(error=OutOfMemory("12 GiB are needed, 10 are there. Send less."))
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=2)
    with pytest.raises(openai.BadRequestError, match="12 GiB"):
        client.chat.completions.create(model="llava-fake", messages=asking())
    assert len(served.engine.seen) == 1
    served.engine.plan = lambda request: Plan()
    assert served.client.chat.completions.create(model="llava-fake", messages=asking()).choices


def test_a_failure_in_mid_stream_reaches_both_kinds_of_client(served):
    served.engine.plan = lambda request: Plan(error=EngineFailed("the model failed."), error_after=3, pace_s=0.01)
    stream = served.client.chat.completions.create(model="llava-fake", messages=asking(), stream=True)
    texts: list[str] = []
    with pytest.raises(openai.APIError, match=r"the model failed\.") as failure:
        texts.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert failure.value.code == "engine_failed"
    status, said = frames(served.url, legacy())
    assert status == 200
    assert said[-2]["text"].endswith("A cat sits")
    assert (said[-1]["text"], said[-1]["error_code"]) == ("the model failed.", 1)
    assert said[-1]["error"]["code"] == "engine_failed"
    assert said[-1]["error"]["request_id"]


def test_only_a_failure_without_a_name_is_told_in_the_originals_words(served):
    served.engine.plan = lambda request: Plan(error=AssertionError("secret"), error_after=2, pace_s=0.01)
    _, said = frames(served.url, legacy())
    assert (said[-1]["text"], said[-1]["error_code"]) == (UNKNOWN_FAILURE, 1)
    assert "secret" not in json.dumps(said)
    stream = httpx.post(f"{served.url}/v1/chat/completions", json=body(stream=True)).text
    assert '"code":"internal"' in stream
    assert "secret" not in stream


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "other"}, 404, "model_not_found"),
        ({"prompt": "USER: <image> ASSISTANT:"}, 400, "image_token_mismatch"),
        ({"images": ["AAAA"]}, 400, "image_token_mismatch"),
        ({"prompt": "<image>", "images": ["AAAA"]}, 415, "unsupported_image"),
        ({"temperature": 9}, 422, "invalid_request"),
        ({"max_new_tokens": 0}, 422, "invalid_request"),
    ],
)
def test_a_wrong_request_of_the_original_is_answered_with_one_frame(served, fields, status, code):
    found, said = frames(served.url, legacy(**fields))
    assert (found, len(said), said[0]["error"]["code"]) == (status, 1, code)
    assert said[0]["error_code"] != 0
    assert served.engine.seen == []


def test_no_stop_at_all_is_fine(served):
    assert frames(served.url, legacy(stop=None))[1][-1]["error_code"] == 0


def odd_images() -> list[tuple[str, bytes]]:
    whole = encoded(noise(64, 64))
    animated = encoded(
        Image.new("P", (8, 8)), "GIF", save_all=True, append_images=[Image.new("P", (8, 8), i) for i in range(1, 4)]
    )
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return [
        ("one pixel", encoded(Image.new("RGB", (1, 1)))),
        ("nothing", b""),
        ("truncated", whole[: len(whole) // 2]),
        ("header only", whole[:33]),
        ("CMYK", encoded(Image.new("CMYK", (8, 8)), "JPEG")),
        ("16 bits", encoded(Image.new("I;16", (8, 8)))),
        ("palette with alpha", encoded(Image.new("P", (8, 8)), transparency=0)),
        ("turned", encoded(noise(8, 4), "JPEG", exif=rotated)),
        ("animated", animated),
        ("image and archive", whole + b"PK\x03\x04" + bytes(100)),
        ("bomb", bomb()),
        ("not an image", b"<script>alert(1)</script>"),
    ]


def bomb() -> bytes:
    """A PNG whose header announces 13,000 x 13,000 pixels."""
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(13_000 * (1 + 13_000 // 8)))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "data"), odd_images(), ids=lambda value: value if isinstance(value, str) else "")
def test_no_image_makes_a_server_error(served, name, data):
    text = base64.b64encode(data).decode()
    for source in (f"data:;base64,{text}", text):
        response = httpx.post(f"{served.url}/v1/chat/completions", json=body(messages=about(source)))
        assert response.status_code == 200 or 400 <= response.status_code < 500
    assert (response.status_code == 200) == (
        name in ("one pixel", "CMYK", "16 bits", "palette with alpha", "turned", "animated", "image and archive")
    )


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(served):
    def endless():
        for _ in range(64):
            yield b"x" * (1 << 20)

    headers = {"content-type": "application/json"}
    response = httpx.post(f"{served.url}/v1/chat/completions", content=endless(), headers=headers, timeout=30)
    assert response.status_code == 413
    form = httpx.post(f"{served.url}/v1/chat/completions", data={"model": "x"})
    assert form.status_code == 415
    deep = httpx.post(f"{served.url}/v1/chat/completions", content=b"[" * 5000, headers=headers)
    assert 400 <= deep.status_code < 500


# Beside the answers


def test_a_long_silence_is_filled():
    engine = FakeEngine(plan=lambda request: Plan(silence_s=0.3) if "wait" in request.prompt else Plan())
    with serving(engine, keep_alive_s=0.05) as served:
        _, said = frames(served.url, legacy("wait"))
        assert [frame["text"] for frame in said[:2]] == ["wait", "wait"]
        stream = httpx.post(f"{served.url}/v1/chat/completions", json=body(stream=True, messages=asking("wait"))).text
        assert stream.startswith(": keep-alive\n\n")
        streamed = served.client.chat.completions.create(model="llava-fake", messages=asking("wait"), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == ANSWER


def test_request_ids_are_taken_over_and_reach_the_engine(served):
    headers = {"x-request-id": "trace.me-1"}
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body(), headers=headers)
    assert response.headers["x-request-id"] == "trace.me-1"
    assert served.engine.seen[0].request_id == "trace.me-1"


def test_figures_of_the_work_are_there_for_prometheus(served):
    served.client.chat.completions.create(model="llava-fake", messages=about(data_uri()))
    assert served.metric('llava:requests_total{model="llava-fake",outcome="ok"}') >= 1
    assert served.metric("llava:generation_tokens_total") >= 6
    assert served.metric("llava:image_tokens_total") >= 9
    assert served.metric("llava:ttft_seconds_count") >= 1
    assert served.metric("llava:permits_in_use") == 0
    assert served.metric("llava:queue_seconds_count") >= 1
    assert served.metric("llava:image_decode_seconds_count") >= 1
    assert served.metric("llava:feature_cache_queries_total") >= 1
    assert served.metric("llava:vision_encode_seconds_count") >= 1


def test_nothing_is_answered_before_the_model_is_there():
    engine = FakeEngine()
    app = create_worker_app(fake_backend(engine))
    with running(app) as server:
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert httpx.get(f"{server.url}/health/ready").status_code == 503
        response = httpx.post(f"{server.url}/v1/chat/completions", json=body())
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        asyncio.run_coroutine_threadsafe(app.state.worker.start(), server.loop).result(10)
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
        assert engine.seen[0].images, "the first question is about an image"
        assert httpx.post(f"{server.url}/v1/chat/completions", json=body()).status_code == 200


def test_a_text_model_warms_up_without_an_image():
    config = SimpleNamespace(model_type="llama", has_vision=False)
    engine = FakeEngine()
    app = create_worker_app(fake_backend(engine, config=config))
    with running(app, ready=app.state.worker.start):
        assert engine.seen[0].images == ()
