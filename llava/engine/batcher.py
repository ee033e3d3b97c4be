"""Runs transformers' continuous-batching manager with virtual image tokens and per-request sampling settings.

The manager has a paged key-value cache, splits long prompts over several steps, shares prefixes between prompts and
cancels requests. Its thread ends at the first exception and loses all its requests. A `Batcher` owns one manager; after
a crash the supervisor creates another one.
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

    from llava.engine.settings import BatchSettings
    from llava.text_generation.settings import Sampling


@dataclass(frozen=True)
class Progress:
    """The manager's report about one request after a step."""

    request_id: str
    """The id given to `Batcher.submit`."""
    tokens: list[int]
    """All tokens generated since the request was submitted."""
    finished: bool
    """True if the request has all its tokens."""
    error: str | None
    """The reason why the request, or the whole manager, failed."""


class _Router(OutputRouter):
    """Passes the manager's outputs to the engine instead of to queues that nobody reads."""

    def __init__(self, batcher: Batcher, on_progress: Callable[[Batcher, list[Progress]], None]):
        super().__init__()
        self._batcher = batcher
        self._on_progress = on_progress

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        progress = [
            Progress(output.request_id, output.generated_tokens, output.is_finished(), output.error)
            for output in outputs
        ]
        self._on_progress(self._batcher, progress)


class _WatchedSampler(Sampler):
    """Reports which requests a step is about to compute. Only here does the manager list them all, prompts included."""

    def __init__(self, device: torch.device, end_id: int, on_step: Callable[[list[str]], None]):
        super().__init__(device, end_id)
        self._on_step = on_step

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        self._on_step([request.state.request_id for request in requests_in_batch])
        return super().prepare_tensor_args(requests_in_batch, arg_storage)


class Batcher:
    """Owns one manager, from its start until it stops or crashes."""

    def __init__(
        self,
        model: Any,
        settings: BatchSettings,
        on_progress: Callable[[Batcher, list[Progress]], None],
        on_step: Callable[[list[str]], None],
        *,
        end_id: int = 0,
    ):
        """
        Args:
            model: a model on one device whose input embedding knows virtual ids (`llava.engine.image_table`).
            on_progress: called on the manager's thread after each step.
            on_step: called on the manager's thread before each step, with the ids of its requests.
            end_id: the token that ends a request whose logits are NaN or infinite.
        """
        flash = "flash" in (model.config._attn_implementation or "")
        if not flash and model.device.type == "cuda" and is_flash_attn_2_available():
            model.set_attn_implementation("flash_attention_2")
            flash = True
        if not flash:
            # The manager accepts only known names when it is created, and reads the name again when it starts.
            model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
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
        self._manager.output_router = _Router(self, on_progress)
        self._sampler = _WatchedSampler(model.device, end_id, on_step)
        self._manager.logit_processor = self._sampler
        self._manager.start()

    @property
    def cache_tokens(self) -> int | None:
        """Size of the cache in tokens; None until the manager has created it."""
        processor = self._manager.batch_processor
        if processor is None or not hasattr(processor, "cache"):
            return None
        return int(processor.cache.num_blocks * self._manager.continuous_batching_config.page_size)

    def submit(
        self, request_id: str, ids: Sequence[int], max_new_tokens: int, end_ids: Sequence[int], sampling: Sampling
    ) -> bool:
        """Starts a request; returns False if the manager has crashed."""
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
        """Ends a request after the current step, from any thread. No further progress is reported for it."""
        self._manager.cancel_request(request_id)

    @property
    def num_broken(self) -> int:
        """Number of tokens so far whose logits were NaN or infinite; each ended its request."""
        return self._sampler.num_broken

    @property
    def crash(self) -> Exception | None:
        """The exception that ended the manager; None while it runs. Set before its requests are reported failed."""
        status = self._manager.background_thread_status
        if status.local_status < BackgroundThreadStatus.HARD_STOP:
            return None
        return status.fatal_error or RuntimeError("the batching manager stopped")

    def wait_for_end(self, timeout_s: float) -> bool:
        """Waits for the end of the manager's thread; returns False if it is still running."""
        thread: threading.Thread | None = self._manager._generation_thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def stop(self) -> None:
        """Ends the manager and drops the running requests."""
        self._manager.stop(block=True, timeout=30, hard_stop=True)
        self._manager.destroy()
        if self._manager.model.device.type == "cuda":
            torch.cuda.empty_cache()
