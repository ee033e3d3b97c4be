"""Extends transformers' Trainer with LLaVA's checkpoints: the adapter alone (stage 1) or the model (stage 2)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
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
from llava.train.parallel.fsdp import ShardingCheck, enable_on_cpu
from llava.train.setup.muon import MuonWithAdamW, parameter_groups
from llava.train.setup.trainable import PROJECTOR, TOWER, TokenRows
from llava.train.setup.training_arguments import TrainingArguments

_ENOUGH_SAMPLES = 64
"""Number of samples to see before the fraction of useless ones is checked."""


@dataclass(slots=True)
class SampleCounts:
    """Counts of the samples that this process has trained on."""

    seen: int = 0
    """All samples."""
    truncated: int = 0
    """Samples that were cut to fit."""
    useless: int = 0
    """Samples without any answer token left to learn."""

    def add(self, counts: Tensor) -> None:
        """Adds the counts of a batch, [rows, 2], as the collator makes them."""
        self.seen += len(counts)
        self.truncated += int(counts[:, 0].sum())
        self.useless += len(counts) - int(counts[:, 1].sum())

    def describe(self) -> str:
        """Describes the counts in one line."""
        return f"{self.seen} samples, {self.truncated} of them truncated, {self.useless} without an answer to learn"


class LLaVATrainer(Trainer):
    """Saves and resumes the adapter or the model, counts useless samples, and groups batches by modality."""

    args: TrainingArguments

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
            args: arguments of `transformers.Trainer`; its own `args` must be a `TrainingArguments` of this package.
            adapter_only: saves `mm_projector.bin` and the config instead of the whole model.
            token_rows: embedding rows that train together with the projector.
            identity: identity of this run, which its checkpoints record.
            max_useless_fraction: fraction of samples without an answer to learn, 0 to 1, above which training stops.
        """
        super().__init__(*args, **kwargs)
        if self.args.sharding is not None:
            self.add_callback(ShardingCheck())
        self.adapter_only = adapter_only
        self.token_rows = token_rows
        self.identity = identity
        self.max_useless_fraction = max_useless_fraction
        self.sample_counts = SampleCounts()

    def create_accelerator_and_postprocess(self) -> None:
        """Creates the accelerator; on CPUs too, it then shards the model."""
        super().create_accelerator_and_postprocess()
        if self.args.sharding is not None:
            enable_on_cpu(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    # ---- data --------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if not self.args.group_by_modality_length:
            return super()._get_train_sampler(train_dataset)
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ModalityLengthSampler(dataset.modality_lengths, batch_size=step, seed=seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Fetches the batches of a step, and takes the sample counts out of them."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            counts = batch.pop(COUNTS_KEY, None)
            if counts is not None:
                self.sample_counts.add(counts)
        self._check_usefulness()
        if num_items is not None:
            # Without an answer in the step, the loss must be 0, not 0 / 0, which would turn every weight into NaN.
            num_items = num_items.clamp(min=1) if isinstance(num_items, Tensor) else max(1, num_items)
        return batches, num_items

    def _check_usefulness(self) -> None:
        counts = self.sample_counts
        enough = min(_ENOUGH_SAMPLES, len(self.train_dataset))  # type: ignore[arg-type]
        if counts.seen >= enough and counts.useless > self.max_useless_fraction * counts.seen:
            raise DataError(
                f"{counts.useless} of the first {counts.seen} samples have no answer left to learn "
                f"({counts.truncated} were truncated). Raise --model_max_length, check --version and the data, "
                "or raise --max_useless_fraction."
            )

    # ---- optimizer ---------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Creates the optimizer that `--optim` and `--mm_projector_lr` select."""
        projector_lr = self.args.mm_projector_lr
        if self.args.muon and self.optimizer is None:
            groups = parameter_groups(
                model if model is not None else self.model,  # type: ignore[arg-type]
                weight_decay=self.args.weight_decay,
                options={PROJECTOR: {"lr": projector_lr}} if projector_lr is not None else None,
            )
            self.optimizer = MuonWithAdamW(groups, lr=self.args.learning_rate)
            return self.optimizer
        if projector_lr is None or self.optimizer is not None:
            return super().create_optimizer(model)
        trained: Any = model if model is not None else self.model
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
        self.optimizer = optimizer_class(self._parameter_groups(trained, projector_lr), **options)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module, projector_lr: float) -> list[dict[str, Any]]:
        """Groups the projector and all other parameters, each with and without weight decay."""
        decaying = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[bool, bool], dict[str, Any]] = {}
        for is_projector, decays in product((False, True), (True, False)):
            group: dict[str, Any] = {"params": [], "weight_decay": self.args.weight_decay if decays else 0.0}
            groups[is_projector, decays] = group | ({"lr": projector_lr} if is_projector else {})
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_projector = name.removeprefix("module.").startswith(PROJECTOR)
                groups[is_projector, name in decaying]["params"].append(parameter)
        return [group for group in groups.values() if group["params"]]

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(str(output_dir if output_dir is not None else self.args.output_dir))
        config = self._config
        used_cache, padding = config.use_cache, config.pad_token_id
        config.use_cache = True  # Only training runs without a cache.
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
        """Returns the base model's padding id, because the base model has no row for a token that was added here."""
        padding: int | None = self._config.pad_token_id
        added: Any = getattr(self.processing_class, "get_added_vocab", dict)()
        return None if padding in added.values() and padding not in (0, 1, 2) else padding

    def _save_model(self, folder: Path, state_dict: dict[str, Any] | None) -> None:
        """Writes all files to a temporary folder first, so that a killed run leaves the old files intact."""
        if not self.args.should_save:
            return  # All processes call this; two of them would remove each other's folder.
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
        """Loads the weights of a checkpoint.

        Raises:
            CheckpointError: the weights are missing, damaged, or from another model.
        """
        folder = Path(resume_from_checkpoint)
        target: Any = model if model is not None else self.model
        if self.adapter_only:
            if not (folder / ADAPTER_FILE).is_file():
                raise CheckpointError(f"{folder}: {ADAPTER_FILE} is missing; this is not a stage 1 checkpoint.")
            load_adapter(target, self.token_rows, folder / ADAPTER_FILE)
            return
        checkpoint = open_checkpoint(folder)
        result = target.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint}, strict=False)
        # transformers would only warn, and continue with an optimizer state that belongs to other weights.
        missing = [name for name in result.missing_keys if not name.startswith(TOWER)]
        if _is_tied(target):
            missing = [name for name in missing if name != "lm_head.weight"]
        if missing or result.unexpected_keys:
            wrong = ", ".join([*missing, *result.unexpected_keys][:5])
            raise CheckpointError(f"{folder}: the weights do not fit this model: {wrong}. Use another --output_dir.")


def _is_tied(model: Any) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))
