"""LLaVA as a model of lmms-eval: every checkpoint form, answered by the engine, many requests at once.

    lmms-eval eval --model llava_engine --model_args pretrained=FOLDER --tasks pope

Imported by lmms-eval alone, which this package does not depend on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from lmms_eval.api.instance import GenerationResult  # type: ignore[import-not-found]
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from loguru import logger  # type: ignore[import-not-found]  # where lmms-eval's users look
from tqdm import tqdm

from llava.engine import Answer, Engine, Request
from llava.engine.batcher import BatchSettings
from llava.engine.engine import EngineSettings
from llava.errors import EngineFailed, InvalidRequest, LlavaError
from llava.eval.data.records import some
from llava.mm_utils import get_model_name_from_path, load_image
from llava.model.builder import load_pretrained_model
from llava.pocket import resolve
from llava.prompting import Prompt, build_prompt, encode_prompt
from llava.template_choice import release_of
from llava.text_generation.settings import Sampling

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_MAX_NEW_TOKENS = 1024
"""Where a task names no limit, as lmms-eval's own LLaVA classes have it."""
FAILED = "[LMMS_EVAL_REQUEST_FAILED] "
"""Begins the response to a request that could not be served; lmms-eval's API models use the same mark."""

Images: TypeAlias = "tuple[Image.Image, ...]"


class LlavaEngine(lmms):
    """Simple model interface: text, and the images that belong to it."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        model_base: str | None = None,
        conv_template: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        load_8bit: bool = False,
        load_4bit: bool = False,
        attn_implementation: str | None = None,
        one_by_one: bool = False,
    ):
        """
        Args:
            pretrained: model folder, hub id, or the name of an embedded model.
            model_base: the language model, where `pretrained` holds a projector or LoRA only.
            conv_template: prompt template; None takes the checkpoint's own.
            device: cuda, cuda:N, mps or cpu; None takes the best there is, and in a run of several processes the GPU
                of this process.
            batch_size: requests at once, if above 1 (lmms-eval passes 1 where nothing was said); otherwise the
                engine's own number. Greedy answers do not depend on it.
            max_batch_size: accepted from lmms-eval, unused.
            one_by_one: never batch.

        Raises:
            LlavaError: the model cannot be loaded.
        """
        super().__init__()
        path, _ = resolve(str(pretrained))
        self._name = get_model_name_from_path(path)
        self._template = conv_template
        self._loaded = load_pretrained_model(
            path,
            model_base,
            load_8bit=load_8bit,
            load_4bit=load_4bit,
            device_map="auto" if device is None and _num_processes() == 1 else None,
            device=device if _num_processes() == 1 else _own_device(device),
            dtype=dtype,
            attn_implementation=attn_implementation,
        )
        running = _positive(batch_size)
        batch = BatchSettings() if running is None else replace(BatchSettings(), max_running=running)
        self._settings = EngineSettings(batch=batch, one_by_one=one_by_one)

    @property
    def device(self) -> Any:
        """Where lmms-eval puts the tensors that it exchanges between processes."""
        return self._loaded[1].device

    @cached_property
    def _engine(self) -> Engine:
        tokenizer, model, image_processor, context_length = self._loaded
        return Engine(model, tokenizer, image_processor, context_length, self._settings)

    def clean(self) -> None:
        """Ends the engine; lmms-eval calls it after the last request."""
        self._close_engine()
        super().clean()

    def _close_engine(self) -> None:
        """Gives the model back; the next generation starts another engine."""
        if "_engine" in self.__dict__:
            self.__dict__.pop("_engine").close()

    # Generation

    def generate_until(self, requests: list[Any]) -> list[str]:
        """One text a request; for one that cannot be served, a text that begins with `FAILED`.

        Raises:
            EngineFailed: the engine itself broke down; what lmms-eval has cached until then is not lost.
        """
        asks = (partial(self._asked, *request.args) for request in requests)
        with tqdm(total=len(requests), desc="Model Responding", disable=self.rank != 0) as bar:
            texts = self._texts(asks, bar.update)
        for request, text in zip(requests, texts, strict=True):
            if not text.startswith(FAILED):
                self.cache_hook.add_partial("generate_until", (request.args[0], request.args[1]), text)
        failed = [
            str(request.args[3]) for request, text in zip(requests, texts, strict=True) if text.startswith(FAILED)
        ]
        if failed:
            logger.error(f"{len(failed)} of {len(requests)} requests could not be served: documents {some(failed)}")
        return texts

    def _asked(
        self, context: str, settings: Mapping[str, Any], doc_to_visual: Any, doc_id: int, task: str, split: str
    ) -> Request:
        return self._request(context, _images(doc_to_visual(self.task_dict[task][split][doc_id])), settings)

    def _texts(self, asks: Iterable[Callable[[], Request]], progress: Callable[[], object]) -> list[str]:
        """The answers, in order. Requests are made, and their images loaded, only as the engine has room for them."""
        texts: dict[int, str] = {}

        def servable() -> Iterator[Request]:
            for number, ask in enumerate(asks):
                try:
                    request = ask()
                except LlavaError as error:
                    texts[number] = f"{FAILED}{error}"
                    progress()
                    continue
                order.append(number)
                yield request

        def answered(*_: object) -> None:
            progress()

        order: list[int] = []
        answers = self._engine.generate(servable(), on_answer=answered, return_errors=True)
        for number, answer in zip(order, answers, strict=True):
            if isinstance(answer, EngineFailed):
                raise answer
            texts[number] = answer.text if isinstance(answer, Answer) else f"{FAILED}{answer}"
        return [texts[number] for number in range(len(texts))]

    def _request(self, context: str, images: Images, settings: Mapping[str, Any]) -> Request:
        prompt = self._prompt(context, len(images))
        stop = (prompt.stop, *_until(settings))
        return Request(prompt.text, images, _sampling(settings), stop=stop, prefixes=prompt.roles)

    def _prompt(self, context: str, num_images: int) -> Prompt:
        config = self._loaded[1].config
        return build_prompt(config, context, num_images, conv_mode=self._template, name=self._name)

    def generate_until_multi_round(self, requests: list[Any]) -> list[list[str]]:
        """The answers of all rounds of each request. A task's `doc_to_text` makes each round of the one before."""
        rounds: list[list[str]] = []
        for request in tqdm(requests, desc="Model Responding", disable=self.rank != 0):
            rounds.append(self._rounds(*request.args))
            self.cache_hook.add_partial("generate_until_multi_round", request.args[:2], rounds[-1])
        return rounds

    def _rounds(
        self,
        context: str,
        settings: Mapping[str, Any],
        doc_to_visual: Any,
        doc_to_text: Any,
        doc_id: int,
        task: str,
        split: str,
    ) -> list[str]:
        document = self.task_dict[task][split][doc_id]
        visuals, said, info = doc_to_visual(document), [], None
        while True:
            said += self._texts([partial(self._request, context, _images(visuals), settings)], lambda: None)
            visuals, context, ends, said, info = doc_to_text(
                document, previous_output=list(said), round_idx=len(said), previous_round_info=info
            )
            said = list(said)
            if ends:
                return said

    # Likelihoods

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """Of each continuation, its loss, and whether greedy decoding would write it.

        The loss is the mean of its tokens' negative log probabilities. That is what lmms-eval's own models return here
        and what its tasks compare (the smallest wins), whatever the name of this method says. One forward pass a
        request; the model is taken from the engine for it.
        """
        self._close_engine()
        results = []
        for request in tqdm(requests, desc="Model Responding", disable=self.rank != 0):
            scored = self._scored(*request.args)
            self.cache_hook.add_partial("loglikelihood", request.args[:2], scored)
            # lmms-eval 0.7.3 makes text of a bare pair, on which its own tasks then fail; this it leaves as it is.
            results.append(GenerationResult(text=scored))
        return results

    def _scored(
        self, context: str, target: Any, doc_to_visual: Any = None, doc_id: int = 0, task: str = "", split: str = ""
    ) -> tuple[float, bool]:
        import torch

        tokenizer, model, image_processor, _ = self._loaded
        document = self.task_dict[task][split][doc_id] if doc_to_visual is not None else None
        images = _images(doc_to_visual(document)) if doc_to_visual is not None else ()
        continuation = target if isinstance(target, str) else target(document)
        start = self._opened(context, len(images))
        before = encode_prompt(start, images, model, tokenizer, image_processor).input_ids
        inputs = encode_prompt(start + continuation, images, model, tokenizer, image_processor)
        written = inputs.input_ids[0, _common_length(before[0], inputs.input_ids[0]) :]
        if not len(written):
            raise InvalidRequest(f"the continuation {continuation!r} has no tokens of its own to score.")
        with torch.inference_mode():
            logits = model(
                input_ids=inputs.input_ids,
                images=inputs.images or None,
                image_sizes=inputs.image_sizes,
                logits_to_keep=len(written) + 1,
            ).logits[0, :-1]
        chances = logits.float().log_softmax(-1).gather(1, written[:, None])
        return -float(chances.mean()), bool((logits.argmax(-1) == written).all())

    def _opened(self, context: str, num_images: int) -> str:
        """The prompt up to where the assistant's words begin; v0 leaves its role to the model."""
        prompt = self._prompt(context, num_images)
        role = prompt.roles[1]
        if release_of(self._loaded[1].config) != "v0" or prompt.text.rstrip().endswith(role):
            return prompt.text
        return f"{prompt.text}{role}"


def _images(visuals: Any) -> Images:
    """The images of a document.

    Raises:
        InvalidRequest: it has videos or sound, which LLaVA does not take.
        ImageError: an image cannot be used.
    """
    from PIL import Image

    if visuals is None:
        return ()
    listed = list(visuals) if isinstance(visuals, (list, tuple)) else [visuals]
    for one in listed:
        if not isinstance(one, Image.Image):
            raise InvalidRequest(f"the task gives a {type(one).__name__}; this model takes images, nothing else.")
    return tuple(load_image(one) for one in listed)


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """A task's settings as the engine's; greedy unless the task says otherwise."""
    temperature = float(settings.get("temperature") or 0.0)
    if settings.get("do_sample") is False:
        temperature = 0.0
    return Sampling(
        temperature=temperature,
        top_p=settings.get("top_p") or None,
        top_k=settings.get("top_k") or None,
        num_beams=int(settings.get("num_beams") or 1),
        max_new_tokens=int(settings.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS),
        seed=settings.get("seed"),
    )


def _until(settings: Mapping[str, Any]) -> Sequence[str]:
    until = settings.get("until") or ()
    return [until] if isinstance(until, str) else list(until)


def _common_length(one: Any, other: Any) -> int:
    """Tokens that two prompts begin with; the last of a context may merge with the first letters behind it."""
    length = min(len(one), len(other))
    differing = (one[:length] != other[:length]).nonzero()
    return int(differing[0]) if len(differing) else length


def _positive(batch_size: int | str | None) -> int | None:
    """A number of requests at once that was asked for: anything but lmms-eval's own 1, or `auto`."""
    number = int(batch_size) if batch_size is not None and str(batch_size).isdigit() else 1
    return number if number > 1 else None


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _own_device(device: str | None) -> str | None:
    """In a run of several processes, each has a GPU of its own."""
    import torch

    if device in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device
