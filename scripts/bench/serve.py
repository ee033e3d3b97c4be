"""Speed of the engine and of serving, against one request after another and against static batches of transformers.

    python -m scripts.bench.serve --work /path/with/3GB [--layers 8] [--parts batch,stream,http]

Makes a random LLaVA of a Llama's shape (8 layers and 576 wide unless told otherwise, 256 patches an image) and answers
16 requests of 16 to 128 new tokens with it, greedy, each way in a process of its own on one thread. All ways must
give the same tokens. Prints tokens a second of CPU and of wall-clock time, and their ratios; figures of different runs
should not be compared, ratios may.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_REQUESTS = 16
WORDS = (
    *("what", "is", "the", "colour", "of", "this", "thing", "and", "why", "does", "it", "stand", "there"),
    *("near", "by", "on", "a", "table", "in", "some", "small", "old", "room"),
)


# The model


def make_model(folder: Path, num_layers: int) -> None:
    """A random checkpoint of v1.5's form whose tower is small: its own speed is not what is measured."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

    source = REPOSITORY / "tests" / "data"
    tower = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=224, patch_size=14
    )
    torch.manual_seed(0)
    CLIPVisionModel(tower).save_pretrained(folder / "vision_tower")
    for name in ("preprocessor_config.json",):
        (folder / "vision_tower" / name).write_bytes((source / "clip-tiny" / name).read_bytes())
    config = LlavaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=num_layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        mm_vision_tower="vision_tower",
        mm_hidden_size=64,
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=-2,
        mm_vision_select_feature="patch",
        mm_use_im_start_end=False,
        mm_use_im_patch_token=False,
        conv_mode="llava_v1",
        bos_token_id=1,
        eos_token_id=49151,  # of no meaning: answers end at their limit
        pad_token_id=0,
    )
    model = LlavaLlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.mul_(2.5)  # so that answers differ from request to request
        model.lm_head.weight[2048:] = 0  # never chosen: of these ids the tokenizer has no text that could be compared
    model.save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((source / "llava-v1.5-tiny" / name).read_bytes())


def made_model(work: Path, num_layers: int) -> Path:
    """The model's folder, made where it is not there yet, and its export beside it for `Static`."""
    folder = work / f"layers-{num_layers}"
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        in_a_process("make", str(folder), num_layers)
    exported = folder.with_name(folder.name + "-exported")
    if not exported.exists():
        command = [sys.executable, "-m", "llava.model.convert", "--model-path", str(folder), "--to", "transformers"]
        subprocess.run([*command, "--output", str(exported)], check=True)
    return folder


# The requests


@dataclass(frozen=True)
class Asked:
    question: str
    image: int
    max_new_tokens: int


def requests(num_images: int) -> list[Asked]:
    """The same for every way and every run."""
    rng = random.Random(3)
    return [
        Asked(" ".join(rng.choices(WORDS, k=rng.randint(8, 40))) + "?", i % num_images, rng.randint(16, 128))
        for i in range(NUM_REQUESTS)
    ]


def image(number: int) -> Any:
    from PIL import Image

    rng = random.Random(number)
    small = Image.frombytes("RGB", (8, 8), rng.randbytes(192))
    return small.resize((224, 224))


# The ways. Each returns, for each request, its tokens' text, and how long it took to the answer.


class OneByOne:
    """The original's way: `generate`, a request at a time."""

    batch = 1

    def __init__(self, folder: Path):
        from llava.model.builder import load_pretrained_model

        self.tokenizer, self.model, self.image_processor, self.context = load_pretrained_model(
            folder, device="cpu", dtype="float32"
        )

    def answer(self, batch: list[Asked]) -> list[str]:
        from llava.engine.sequential import answer
        from llava.prompting import build_prompt, encode_prompt
        from llava.text_generation.settings import Sampling

        texts = []
        for one in batch:
            prompt = build_prompt(self.model.config, one.question, 1)
            inputs = encode_prompt(prompt.text, [image(one.image)], self.model, self.tokenizer, self.image_processor)
            sampling = Sampling(temperature=0, max_new_tokens=one.max_new_tokens)
            texts.append(answer(self.model, self.tokenizer, inputs, sampling, context_length=self.context).text)
        return texts


class Static:
    """transformers' own LLaVA, on our export: all requests of a batch to the length of the longest answer."""

    batch = NUM_REQUESTS

    def __init__(self, folder: Path):
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        from llava.model.loading.model_folder import read_model_folder

        export = folder.with_name(folder.name + "-exported")
        self.config = read_model_folder(folder).config()
        self.processor = AutoProcessor.from_pretrained(export)
        self.processor.tokenizer.padding_side = "left"
        self.model = LlavaForConditionalGeneration.from_pretrained(export).eval()

    def answer(self, batch: list[Asked]) -> list[str]:
        import torch

        from llava.prompting import build_prompt

        prompts = [build_prompt(self.config, one.question, 1).text for one in batch]
        images = [image(one.image) for one in batch]
        inputs = self.processor(text=prompts, images=images, return_tensors="pt", padding=True)
        longest = max(one.max_new_tokens for one in batch)
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        tokenizer = self.processor.tokenizer
        return [
            tokenizer.decode(ids[: one.max_new_tokens], skip_special_tokens=True).strip()
            for ids, one in zip(new, batch, strict=True)
        ]


class Batched:
    """The engine."""

    batch = NUM_REQUESTS

    def __init__(self, folder: Path, **settings: Any):
        from llava.engine import Engine, EngineSettings

        self.loaded = OneByOne(folder)
        one = self.loaded
        self.engine = Engine(one.model, one.tokenizer, one.image_processor, one.context, EngineSettings(**settings))

    def request(self, one: Asked) -> Any:
        from llava.engine import Request, Sampling
        from llava.prompting import build_prompt

        prompt = build_prompt(self.loaded.model.config, one.question, 1)
        sampling = Sampling(temperature=0, max_new_tokens=one.max_new_tokens)
        return Request(prompt.text, (image(one.image),), sampling)

    def answer(self, batch: list[Asked]) -> list[str]:
        return [answer.text for answer in self.engine.generate([self.request(one) for one in batch])]


WAYS: dict[str, Callable[[Path], Any]] = {"one by one": OneByOne, "static batches": Static, "engine": Batched}


def all_at_once(way: Any, asked: list[Asked]) -> list[str]:
    texts = []
    for start in range(0, len(asked), way.batch):
        texts += way.answer(asked[start : start + way.batch])
    return texts


def over_time(way: Any, asked: list[Asked], span_s: float) -> list[str]:
    """Requests come evenly over `span_s`; a batch is made of those that wait when the one before it ends."""
    start = time.monotonic()
    due = [span_s * i / len(asked) for i in range(len(asked))]
    texts: dict[int, str] = {}

    def one(index: int) -> None:
        time.sleep(max(0.0, start + due[index] - time.monotonic()))
        [texts[index]] = way.answer([asked[index]])

    if isinstance(way, Batched):
        threads = [threading.Thread(target=one, args=[i]) for i in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [texts[i] for i in range(len(asked))]
    answered: list[str] = []
    while len(answered) < len(asked):
        time.sleep(max(0.0, start + due[len(answered)] - time.monotonic()))
        arrived = sum(moment <= time.monotonic() - start for moment in due)
        answered += way.answer(asked[len(answered) : min(arrived, len(answered) + way.batch)])
    return answered


# One measurement, in a process of its own


@dataclass(frozen=True)
class Measured:
    cpu_s: float
    wall_s: float
    texts: list[str]


def measure(folder: Path, way: str, num_images: int, span_s: float) -> Measured:
    import torch

    torch.set_num_threads(1)
    made = WAYS[way](folder)
    made.answer([Asked("warm up?", 99, 4)])
    asked = requests(num_images)
    cpu, wall = time.process_time(), time.monotonic()
    texts = over_time(made, asked, span_s) if span_s else all_at_once(made, asked)
    result = Measured(time.process_time() - cpu, time.monotonic() - wall, texts)
    if isinstance(made, Batched):
        made.engine.close()
    return result


def first_token_times(folder: Path) -> tuple[float, float]:
    """Median seconds to the first token of the first and of further questions about an image."""
    import torch

    torch.set_num_threads(1)
    batched = Batched(folder)
    first: list[float] = []
    later: list[float] = []
    for number in range(8):
        for times in (first, later, later):
            question = " ".join(random.Random(number + len(later) * 100).choices(WORDS, k=12)) + "?"
            [answer] = batched.engine.generate([batched.request(Asked(question, number + 200, 2))])
            times.append(answer.timings.first_token_s)
    encoded = batched.engine.stats.images_encoded
    batched.engine.close()
    if encoded != 8:
        raise SystemExit(f"8 images were encoded {encoded} times")
    return statistics.median(first[1:]), statistics.median(later[1:])


def many_streams(folder: Path, num_streams: int, num_images: int, *, one_by_one: bool) -> tuple[float, float]:
    """(tokens a second of wall-clock time, 95th percentile of seconds to the first token) of concurrent streams."""
    import torch

    torch.set_num_threads(1)
    batched = Batched(folder, one_by_one=one_by_one)

    async def run() -> list[Any]:
        async def listen(number: int) -> Any:
            asked = Asked(" ".join(WORDS[number % 8 : number % 8 + 10]), number % num_images, 48)
            return [event async for event in batched.engine.stream(batched.request(asked))][-1]

        return await asyncio.gather(*(listen(number) for number in range(num_streams)))

    batched.answer([Asked("warm up?", 300, 4)])
    start = time.monotonic()
    answers = asyncio.run(run())
    wall = time.monotonic() - start
    batched.engine.close()
    waits = sorted(answer.timings.first_token_s for answer in answers)
    tokens = sum(answer.num_new_tokens for answer in answers)
    return tokens / wall, waits[int(0.95 * (len(waits) - 1))]


async def many_clients(url: str, num_streams: int) -> float:
    """Tokens a second of wall-clock time of concurrent streams of the `openai` client."""
    import openai

    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
    model = (await client.models.list()).data[0].id

    async def listen(number: int) -> int:
        content: Any = [
            {"type": "image_url", "image_url": {"url": data_uri(image(number))}},
            {"type": "text", "text": " ".join(WORDS[number % 8 : number % 8 + 10])},
        ]
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=48,
            stream=True,
            stream_options={"include_usage": True},
        )
        usage = [chunk.usage async for chunk in stream][-1]
        return usage.completion_tokens if usage else 0

    await listen(300)
    start = time.monotonic()
    tokens = sum(await asyncio.gather(*(listen(number) for number in range(num_streams))))
    return tokens / (time.monotonic() - start)


def data_uri(image: Any) -> str:
    import base64
    import io

    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def over_http(folder: Path, num_streams: int) -> float:
    """The same through controller and worker, each in its process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LLAVA_API_KEY": "", "LLAVA_CLUSTER_TOKEN": ""}
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    controller = f"http://localhost:{ports[0]}"
    commands = [
        ["llava.serve.controller", "--port", str(ports[0])],
        ["llava.serve.model_worker", "--port", str(ports[1]), "--controller", controller, "--model-path", str(folder)],
    ]
    services = []
    try:
        for command in commands:
            service = subprocess.Popen(
                [sys.executable, "-m", *command], env=environment, stderr=subprocess.PIPE, cwd=REPOSITORY, text=True
            )
            services.append(service)
            assert service.stderr is not None
            while "Uvicorn running" not in (line := service.stderr.readline()):
                if not line:
                    raise SystemExit(f"{command[0]} ended with {service.wait()}")
        return asyncio.run(many_clients(controller, num_streams))
    finally:
        for service in services:
            service.kill()
            service.wait()


def in_a_process(task: str, *arguments: Any, module: str = "scripts.bench.serve") -> Any:
    """Calls a task of a benchmark in a fresh process and returns what it returned."""
    command = [sys.executable, "-m", module, "--task", task, "--arguments", json.dumps(arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


TASKS: dict[str, Callable[..., Any]] = {
    "make": lambda folder, layers: make_model(Path(folder), layers),
    "measure": lambda folder, *rest: vars(measure(Path(folder), *rest)),
    "first token": lambda folder: first_token_times(Path(folder)),
    "http": lambda folder, count: over_http(Path(folder), count),
    "streams": lambda folder, count, images, alone: many_streams(Path(folder), count, images, one_by_one=alone),
}


# The report


def report_batches(folder: Path) -> None:
    tokens = sum(one.max_new_tokens for one in requests(1))
    print(f"\n{NUM_REQUESTS} requests, {tokens} new tokens; tokens a second of CPU, of wall-clock time")
    for title, num_images, ways in (
        ("all images different", NUM_REQUESTS, ("one by one", "static batches", "engine")),
        ("three requests an image", 5, ("one by one", "static batches", "engine")),
    ):
        results = {way: Measured(**in_a_process("measure", str(folder), way, num_images, 0)) for way in ways}
        _print_ways(title, results, tokens)
        if num_images == NUM_REQUESTS:
            span_s = 0.75 * results["static batches"].wall_s
            late = {
                way: Measured(**in_a_process("measure", str(folder), way, num_images, span_s))
                for way in ("static batches", "engine")
            }
            _print_ways(f"all different, coming over {span_s:.0f} s", late, tokens)


def _print_ways(title: str, results: dict[str, Measured], tokens: int) -> None:
    print(f"\n{title}")
    engine = results["engine"]
    for way, one in results.items():
        same = sum(a == b for a, b in zip(one.texts, engine.texts, strict=True))
        print(
            f"  {way:16} {tokens / one.cpu_s:7.1f} {tokens / one.wall_s:7.1f}   the engine is "
            f"{one.cpu_s / engine.cpu_s:.2f} (CPU), {one.wall_s / engine.wall_s:.2f} (wall) times as fast; "
            f"{same} of {len(one.texts)} answers the same"
        )


def report_streams(folder: Path) -> None:
    first, later = in_a_process("first token", str(folder))
    print(f"\nto the first token: first question {first:.3f} s, later ones about the image {later:.3f} s ", end="")
    print(f"({later / first:.2f} of it), images encoded once")
    alone = in_a_process("streams", str(folder), 32, 8, True)
    engine = in_a_process("streams", str(folder), 32, 8, False)
    print("32 streams at once: tokens a second, 95th percentile of the time to the first token")
    print(f"  one by one {alone[0]:7.1f}  {alone[1]:6.2f} s")
    print(
        f"  engine     {engine[0]:7.1f}  {engine[1]:6.2f} s   "
        f"({engine[0] / alone[0]:.2f} times, {engine[1] / alone[1]:.2f} of it)"
    )


def report_http(folder: Path) -> None:
    alone, _ = in_a_process("streams", str(folder), 16, 16, False)
    served = in_a_process("http", str(folder), 16)
    print(
        f"\n16 streams: the engine alone {alone:.1f} tokens a second, through controller and worker {served:.1f} ",
        end="",
    )
    print(f"({alone / served - 1:+.0%})")


def arguments(doc: str | None, parts: str, tasks: Mapping[str, Callable[..., Any]]) -> argparse.Namespace | None:
    """What the command line says; None where this is the process of one task, which has then been done."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the models")
    parser.add_argument("--layers", type=int, default=8, help="of the Llama; SmolLM2-135M has 30 (8)")
    parser.add_argument("--parts", default=parts, help=f"what to measure ({parts})")
    parser.add_argument("--task", choices=tasks, help=argparse.SUPPRESS)
    parser.add_argument("--arguments", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(tasks[args.task](*args.arguments)))
        return None
    if args.work is None:
        parser.error("--work is needed")
    return args


def main() -> int:
    args = arguments(__doc__, "batch,stream,http", TASKS)
    if args is None:
        return 0
    folder = made_model(args.work, args.layers)
    if "batch" in args.parts:
        report_batches(folder)
    if "stream" in args.parts:
        report_streams(folder)
    if "http" in args.parts:
        report_http(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
