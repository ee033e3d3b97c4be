"""Runs LLaVA as a model of lmms-eval: checkpoints of every form, on the engine, with many requests at once.

    lmms-eval eval --model llava_engine --model_args pretrained=FOLDER --tasks pope

Only lmms-eval imports this module; the package does not depend on lmms-eval.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from lmms_eval.api.instance import GenerationResult  # type: ignore[import-not-found]
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from loguru import logger  # type: ignore[import-not-found]  # lmms-eval's log
from tqdm import tqdm

from llava.engine import Answer, BatchSettings, Engine, EngineSettings, Request
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
"""Default token limit, that of lmms-eval's own LLaVA classes."""
FAILED = "[LMMS_EVAL_REQUEST_FAILED] "
"""Prefix of the response to a request that could not be served; lmms-eval's API models use the same prefix."""

Images: TypeAlias = "tuple[Image.Image, ...]"


class LlavaEngine(lmms):
    """A model of lmms-eval's simple interface: each request has text and images."""

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
            model_base: the language model, if `pretrained` holds only a projector or a LoRA adapter.
            conv_template: prompt template; None takes the checkpoint's own.
            device: cuda, cuda:N, mps or cpu; None takes the best available, and in a run of several processes the GPU
                of this process.
            dtype: float32, float16 or bfloat16; None chooses by device.
            batch_size: number of requests at once if it is above 1, otherwise the engine's default (lmms-eval passes 1
                by default). Greedy answers do not depend on it.
            max_batch_size: ignored; lmms-eval passes it.
            load_8bit: quantise the language model to 8 bits.
            load_4bit: quantise the language model to 4 bits.
            attn_implementation: attention implementation of transformers; None takes its default.
            one_by_one: answer one request at a time.

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
        """The device for tensors that lmms-eval exchanges between processes."""
        return self._loaded[1].device

    @cached_property
    def _engine(self) -> Engine:
        tokenizer, model, image_processor, context_length = self._loaded
        return Engine(model, tokenizer, image_processor, context_length, self._settings)

    def clean(self) -> None:
        """Stops the engine; lmms-eval calls this after the last request."""
        self._close_engine()
        super().clean()

    def _close_engine(self) -> None:
        """Stops the engine, which releases the model; the next request starts a new engine."""
        if "_engine" in self.__dict__:
            self.__dict__.pop("_engine").close()

    # Generation

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Returns one text per request; a request that cannot be served gets a text that begins with `FAILED`.

        Raises:
            EngineFailed: the engine itself failed; responses that lmms-eval has cached are not lost.
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
        """Returns the answers in order. A request is made and its images are loaded only when the engine has room."""
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
        """Returns the answers of all rounds of each request; a task's `doc_to_text` makes each round from the last."""
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
        visuals, answers, info = doc_to_visual(document), [], None
        while True:
            answers += self._texts([partial(self._request, context, _images(visuals), settings)], lambda: None)
            visuals, context, ends, answers, info = doc_to_text(
                document, previous_output=list(answers), round_idx=len(answers), previous_round_info=info
            )
            answers = list(answers)
            if ends:
                return answers

    # Likelihoods

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """Returns the loss of each continuation, and whether greedy decoding would produce it.

        The loss is the mean negative log probability of the tokens. In spite of the method's name, this is what
        lmms-eval's own models return and what its tasks compare (the smallest wins). Each request is one forward pass;
        the engine is stopped meanwhile.
        """
        self._close_engine()
        results = []
        for request in tqdm(requests, desc="Model Responding", disable=self.rank != 0):
            scored = self._scored(*request.args)
            self.cache_hook.add_partial("loglikelihood", request.args[:2], scored)
            # lmms-eval 0.7.3 turns a bare pair into text, on which its own tasks fail; it leaves this as it is.
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
            raise InvalidRequest(f"the continuation {continuation!r} adds no tokens to score.")
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
        """Returns the prompt up to the assistant's answer; v0's template leaves the role to the model."""
        prompt = self._prompt(context, num_images)
        role = prompt.roles[1]
        if release_of(self._loaded[1].config) != "v0" or prompt.text.rstrip().endswith(role):
            return prompt.text
        return f"{prompt.text}{role}"


def _images(visuals: Any) -> Images:
    """Returns the images of a document.

    Raises:
        InvalidRequest: the document has video or audio, which LLaVA does not accept.
        ImageError: an image cannot be used.
    """
    from PIL import Image

    if visuals is None:
        return ()
    listed = list(visuals) if isinstance(visuals, (list, tuple)) else [visuals]
    for one in listed:
        if not isinstance(one, Image.Image):
            raise InvalidRequest(f"the task provides a {type(one).__name__}; this model accepts images only.")
    return tuple(load_image(one) for one in listed)


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """Returns a task's settings as sampling settings; greedy unless the task sets a temperature."""
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
    """Returns how many tokens two prompts share; the last one of a context may merge with the text after it."""
    length = min(len(one), len(other))
    differing = (one[:length] != other[:length]).nonzero()
    return int(differing[0]) if len(differing) else length


def _positive(batch_size: int | str | None) -> int | None:
    """Returns the number of requests at once, or None for lmms-eval's default 1 and for `auto`."""
    number = int(batch_size) if batch_size is not None and str(batch_size).isdigit() else 1
    return number if number > 1 else None


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _own_device(device: str | None) -> str | None:
    """Returns the GPU of this process in a run of several."""
    import torch

    if device in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device
