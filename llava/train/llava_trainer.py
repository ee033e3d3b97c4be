"""transformers' Trainer with LLaVA's two kinds of checkpoints: the adapter alone (stage 1), or the model (stage 2)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer

from llava.errors import CheckpointError, DataError
from llava.model.weights.adapter import ADAPTER_FILE, adapter_tensors, load_adapter, save_adapter
from llava.model.weights.reader import open_checkpoint
from llava.train.checkpoints.resume import Identity, write_identity
from llava.train.data.collator import COUNTS_KEY
from llava.train.data.length_sampler import ModalityLengthSampler
from llava.train.setup.muon import Muon, parameter_groups
from llava.train.setup.trainable import PROJECTOR, TOWER, TokenRows

_ENOUGH_SAMPLES = 64
"""Samples to see before their quality is judged."""


@dataclass(slots=True)
class SampleCounts:
    """What this process has trained on so far."""

    seen: int = 0
    truncated: int = 0
    useless: int = 0
    """No answer token left to learn."""

    def add(self, counts: Tensor) -> None:
        self.seen += len(counts)
        self.truncated += int(counts[:, 0].sum())
        self.useless += len(counts) - int(counts[:, 1].sum())

    def describe(self) -> str:
        return f"{self.seen} samples, {self.truncated} of them truncated, {self.useless} without an answer to learn"


class LLaVATrainer(Trainer):
    """Saves and resumes adapter or model, counts useless samples, groups batches by modality."""

    def __init__(
        self,
        *args: Any,
        adapter_only: bool = False,
        token_rows: TokenRows | None = None,
        identity: Identity | None = None,
        max_useless_fraction: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            adapter_only: save `mm_projector.bin` and the config, not the language model.
            token_rows: the embedding rows that train along with the projector.
            identity: what to recognise this run's checkpoints by.
            max_useless_fraction: stop when more than this share of samples has no answer left to learn.
        """
        super().__init__(*args, **kwargs)
        self.adapter_only = adapter_only
        self.token_rows = token_rows
        self.identity = identity
        self.max_useless_fraction = max_useless_fraction
        self.sample_counts = SampleCounts()

    # ---- data --------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if not getattr(self.args, "group_by_modality_length", False):
            return super()._get_train_sampler(train_dataset)
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ModalityLengthSampler(dataset.modality_lengths, batch_size=step, seed=seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            counts = batch.pop(COUNTS_KEY, None)
            if counts is not None:
                self.sample_counts.add(counts)
        self._check_usefulness()
        if num_items is not None:
            # A step without any answer has a loss of 0, not of 0 / 0, which would spoil every weight.
            num_items = num_items.clamp(min=1) if isinstance(num_items, Tensor) else max(1, num_items)
        return batches, num_items

    def _check_usefulness(self) -> None:
        counts = self.sample_counts
        enough = min(_ENOUGH_SAMPLES, len(self.train_dataset))  # type: ignore[arg-type]
        if counts.seen >= enough and counts.useless > self.max_useless_fraction * counts.seen:
            raise DataError(
                f"{counts.useless} of the first {counts.seen} samples have no answer left to learn "
                f"({counts.truncated} were truncated). Raise --model_max_length, check --version and the data, "
                "or allow more with --max_useless_fraction."
            )

    # ---- optimizer ---------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        projector_lr = getattr(self.args, "mm_projector_lr", None)
        if getattr(self.args, "muon", False) and self.optimizer is None:
            groups = parameter_groups(
                model if model is not None else self.model,  # type: ignore[arg-type]
                weight_decay=self.args.weight_decay,
                options={PROJECTOR: {"lr": projector_lr}} if projector_lr is not None else None,
            )
            self.optimizer = Muon(groups, lr=self.args.learning_rate)
            return self.optimizer
        if projector_lr is None or self.optimizer is not None:
            return super().create_optimizer(model)
        trained: Any = model if model is not None else self.model
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
        self.optimizer = optimizer_class(self._parameter_groups(trained, projector_lr), **options)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module, projector_lr: float) -> list[dict[str, Any]]:
        """Four groups: projector and the rest, each with and without weight decay."""
        decaying = set(self.get_decay_parameter_names(model))
        groups: list[dict[str, Any]] = []
        for is_projector in (False, True):
            for decays in (True, False):
                members = [
                    parameter
                    for name, parameter in model.named_parameters()
                    if parameter.requires_grad
                    and name.removeprefix("module.").startswith(PROJECTOR) == is_projector
                    and (name in decaying) == decays
                ]
                group: dict[str, Any] = {"params": members, "weight_decay": self.args.weight_decay if decays else 0.0}
                if is_projector:
                    group["lr"] = projector_lr
                if members:
                    groups.append(group)
        return groups

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(str(output_dir if output_dir is not None else self.args.output_dir))
        config = self._config
        used_cache, padding = config.use_cache, config.pad_token_id
        config.use_cache = True  # training runs without a cache; whoever loads the result wants one
        try:
            if self.adapter_only:
                config.pad_token_id = self._padding_of_base()
                self._save_adapter(folder)
            else:
                self._save_model(folder, state_dict)
        finally:
            config.use_cache, config.pad_token_id = used_cache, padding
        if self.identity is not None and self.args.should_save:
            write_identity(folder, self.identity)

    @property
    def _config(self) -> Any:
        model: Any = self.model
        return model.config

    def _padding_of_base(self) -> int | None:
        """An adapter is loaded onto the base model, which has no row for a padding token that was added here."""
        padding: int | None = self._config.pad_token_id
        added: Any = getattr(self.processing_class, "get_added_vocab", dict)()
        return None if padding in added.values() and padding not in (0, 1, 2) else padding

    def _save_model(self, folder: Path, state_dict: dict[str, Any] | None) -> None:
        """Writes everything beside the old files first: a run that is killed here leaves those whole."""
        if not self.args.should_save:
            return  # every process comes here; two of them would remove each other's folder
        partial = folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        super()._save(str(partial), state_dict=state_dict)
        for file in sorted(partial.iterdir()):
            os.replace(file, folder / file.name)
        partial.rmdir()

    def _save_adapter(self, folder: Path) -> None:
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(adapter_tensors(self.model, self.token_rows), folder / ADAPTER_FILE)
        self._config.save_pretrained(folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """
        Raises:
            CheckpointError: weights that are missing, damaged, or not this model's.
        """
        folder = Path(resume_from_checkpoint)
        target: Any = model if model is not None else self.model
        if self.adapter_only:
            if not (folder / ADAPTER_FILE).is_file():
                raise CheckpointError(f"{folder}: has no {ADAPTER_FILE}; it was not written by a stage 1 run.")
            load_adapter(target, self.token_rows, folder / ADAPTER_FILE)
            return
        checkpoint = open_checkpoint(folder)
        result = target.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint}, strict=False)
        # Transformers would only warn, and go on with an optimizer state that belongs to other weights.
        missing = [name for name in result.missing_keys if not name.startswith(TOWER)]
        if _is_tied(target):
            missing = [name for name in missing if name != "lm_head.weight"]
        if missing or result.unexpected_keys:
            wrong = ", ".join([*missing, *result.unexpected_keys][:5])
            raise CheckpointError(f"{folder}: its weights are not this model's: {wrong}. Start anew in another folder.")


def _is_tied(model: Any) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))
