"""Continuous batching: transformers' manager, set up for virtual image tokens and settings a request.

The manager keeps a paged cache of keys and values, cuts long prompts into pieces, shares prefixes between prompts and
cancels; its thread ends with the first exception and takes all requests with it. `Batcher` is one life of a manager:
after a death the engine makes another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import BackgroundThreadStatus, OutputRouter
from transformers.utils import is_flash_attn_2_available

from llava.engine.ragged_attention import RAGGED
from llava.engine.token_sampler import Sampler

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import GenerationOutput

    from llava.text_generation.settings import Sampling


@dataclass(frozen=True)
class BatchSettings:
    """How much a batcher holds and does at once. None leaves a number to the device's free memory."""

    max_running: int = 32
    """Requests in one step."""
    cache_tokens: int | None = None
    """Keys and values kept, of prompts, images and answers of all running requests, and of prefixes to share."""
    step_tokens: int | None = None
    """Tokens computed in one step: a long prompt is spread over several, so that running answers go on."""
    page_tokens: int | None = None
    """Tokens a page of the cache; prefixes are shared by whole pages. Flash attention needs 256."""


@dataclass(frozen=True)
class Progress:
    """What the manager says about one request after a step."""

    request_id: str
    tokens: list[int]
    """All tokens generated since the request was submitted."""
    finished: bool
    error: str | None
    """Why the request, or the whole manager, failed."""


class _Router(OutputRouter):
    """Hands the manager's outputs to the engine instead of to queues that nobody reads."""

    def __init__(self, on_progress: Callable[[list[Progress]], None]):
        super().__init__()
        self._on_progress = on_progress

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._on_progress(
            [
                Progress(output.request_id, output.generated_tokens, output.is_finished(), output.error)
                for output in outputs
            ]
        )


class _WatchedSampler(Sampler):
    """Says which requests a step is about to compute: the one place where the manager tells, also of prompts."""

    def __init__(self, device: torch.device, on_step: Callable[[list[str]], None]):
        super().__init__(device)
        self._on_step = on_step

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        self._on_step([request.state.request_id for request in requests_in_batch])
        return super().prepare_tensor_args(requests_in_batch, arg_storage)


class Batcher:
    """One manager, from its start to its stop or death."""

    def __init__(
        self,
        model: Any,
        settings: BatchSettings,
        on_progress: Callable[[list[Progress]], None],
        on_step: Callable[[list[str]], None],
    ):
        """
        Args:
            model: on one device; its input embedding knows virtual ids (`llava.engine.image_table`).
            on_progress: called from the manager's thread after each step.
            on_step: called from the manager's thread before each step, with the requests that are in it.
        """
        flash = "flash" in (model.config._attn_implementation or "")
        if not flash and model.device.type == "cuda" and is_flash_attn_2_available():
            model.set_attn_implementation("flash_attention_2")
            flash = True
        if not flash:
            # The manager accepts only names that it knows when it is made, and reads the name again when it starts.
            model.set_attn_implementation("sdpa")
        on_gpu = model.device.type == "cuda"
        page = settings.page_tokens or (256 if flash else 32)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=page,
                num_blocks=-(-settings.cache_tokens // page) if settings.cache_tokens else None,
                max_batch_tokens=settings.step_tokens or (8192 if on_gpu else 512),
                max_requests_per_batch=settings.max_running,
                auto_switch_to_flash=False,
            ),
        )
        if not flash:
            model.set_attn_implementation(RAGGED)
        self._manager.output_router = _Router(on_progress)
        self._manager.logit_processor = _WatchedSampler(model.device, on_step)
        self._manager.start()

    @property
    def cache_tokens(self) -> int | None:
        """Tokens that the cache holds; None until the manager has made it."""
        processor = self._manager.batch_processor
        if processor is None or not hasattr(processor, "cache"):
            return None
        return int(processor.cache.num_blocks * self._manager.continuous_batching_config.page_size)

    def submit(
        self, request_id: str, ids: Sequence[int], max_new_tokens: int, end_ids: Sequence[int], sampling: Sampling
    ) -> bool:
        """Begins a request; False if the manager is dead."""
        accepted = self._manager.add_request(
            list(ids),
            request_id=request_id,
            max_new_tokens=max_new_tokens,
            streaming=True,
            eos_token_id=list(end_ids),
            sampling=sampling,
        )
        return accepted is not None

    def cancel(self, request_id: str) -> None:
        """Ends a request with the step now running, from any thread. No progress is reported for it any more."""
        self._manager.cancel_request(request_id)

    @property
    def death(self) -> Exception | None:
        """The exception that ended the manager, or None while it lives. Set before the requests are reported failed."""
        status = self._manager.background_thread_status
        if status.local_status < BackgroundThreadStatus.HARD_STOP:
            return None
        return status.fatal_error or RuntimeError("the batching manager stopped")

    def wait_for_end(self, timeout_s: float) -> bool:
        """Waits for the manager's thread; False if it is still there."""
        thread: threading.Thread | None = self._manager._generation_thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def stop(self) -> None:
        """Ends the manager; whatever still runs is dropped."""
        self._manager.stop(block=True, timeout=30, hard_stop=True)
        self._manager.destroy()
        if self._manager.model.device.type == "cuda":
            torch.cuda.empty_cache()
