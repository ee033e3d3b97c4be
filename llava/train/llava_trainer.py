"""Extends transformers' Trainer with LLaVA's checkpoints: the projector (stage 1), a LoRA adapter or the model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerState
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback

from llava.errors import CheckpointError
from llava.train.checkpoints.folders import (
    PARTIAL,
    checkpoints,
    move_into,
    remove,
    remove_oldest,
    whole_folder,
)
from llava.train.checkpoints.identity import Identity, write_identity
from llava.train.checkpoints.resume import SCHEDULER_FILE, STATE_FILE
from llava.train.checkpoints.sharded_state import (
    is_sharded,
    load_sharded_optimizer,
    load_sharded_weights,
    save_sharded,
)
from llava.train.checkpoints.start_checks import ResumedSteps, SpaceCheck
from llava.train.checkpoints.writers import AdapterWriter, ModelWriter, ResultWriter, num_bytes
from llava.train.data.collator import REPORT_KEY
from llava.train.data.sampler import (
    EpochSampler,
    EpochSelection,
    ModalityLengthSampler,
    SequentialSampler,
    ShuffledSampler,
)
from llava.train.monitoring.bad_samples import BadSamples
from llava.train.monitoring.guard import FiniteGuard
from llava.train.monitoring.metrics import LossRestorer, MetricsFile, UnloggedLoss
from llava.train.monitoring.progress import ProgressDisplay, say
from llava.train.monitoring.sample_counts import SampleCounts
from llava.train.monitoring.speed import Speed, largest, peak_memory
from llava.train.monitoring.validation import Share, validate
from llava.train.parallel.deepspeed import PartitionReport, load_trained_only, save_engine
from llava.train.parallel.fsdp import ShardingCheck, enable_on_cpu
from llava.train.parallel.gather import gathered, named_tensors
from llava.train.setup.muon import MuonWithAdamW, parameter_groups
from llava.train.setup.optimizer import groups_of_parts, options_of_parts
from llava.train.setup.trainable import TokenRows
from llava.train.setup.training_arguments import TrainingArguments


class LLaVATrainer(Trainer):
    """Saves and resumes the adapter or the model, counts useless samples, and groups batches by modality."""

    args: TrainingArguments

    def __init__(
        self,
        *args: Any,
        adapter_only: bool = False,
        token_rows: TokenRows | None = None,
        writer: ResultWriter | None = None,
        identity: Identity | None = None,
        max_useless_fraction: float = 1.0,
        bad_samples: BadSamples | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            args: arguments of `transformers.Trainer`; its own `args` must be a `TrainingArguments` of this package.
            adapter_only: saves `mm_projector.bin` and the config instead of the whole model.
            token_rows: embedding rows that train together with the projector.
            writer: writes and reads what trains; None takes that of `adapter_only`.
            identity: identity of this run, which its checkpoints record.
            max_useless_fraction: fraction of samples without an answer to learn, 0 to 1, above which training stops.
            bad_samples: what to do with records that cannot be made into samples; None stops.
        """
        super().__init__(*args, **kwargs)
        if self.args.sharding is not None:
            self.add_callback(ShardingCheck())
        if self.args.zero is not None:
            self.add_callback(PartitionReport(self.args.zero.stage))
        self.adapter_only = adapter_only
        self.token_rows = token_rows
        self.identity = identity
        self.writer: ResultWriter = writer or (AdapterWriter(token_rows) if adapter_only else ModelWriter())
        self.add_callback(ResumedSteps())
        self.add_callback(SpaceCheck(self.bytes_of_checkpoint))
        self.result_files: list[str] = []
        self._saved_steps: set[int] = set()
        self.max_useless_fraction = max_useless_fraction
        self.sample_counts = SampleCounts()
        self.bad_samples = BadSamples(Path(str(self.args.output_dir))) if bad_samples is None else bad_samples
        self.guard = FiniteGuard(self._joined)
        self.speed = Speed(self.sample_counts)
        self.progress = ProgressDisplay(self.speed)
        self._watch()

    @property
    def _parts(self) -> Any:
        """This trainer, whose model, optimizer and schedule exist by the time that they are used."""
        return self

    def _watch(self) -> None:
        """Puts this package's callbacks in place of the Trainer's own printing, before the trackers."""
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)
        for callback in (self.guard, LossRestorer(self._restore_loss), MetricsFile(self.speed), self.progress):
            self.add_callback(callback)

    def create_accelerator_and_postprocess(self) -> None:
        """Creates the accelerator; on CPUs too, it then shards the model."""
        super().create_accelerator_and_postprocess()
        if self.args.sharding is not None:
            enable_on_cpu(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    # ---- data --------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler: EpochSampler
        if self.args.group_by_modality_length:
            step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
            sampler = ModalityLengthSampler(dataset.modality_lengths, batch_size=step, seed=seed)
        elif self.args.train_sampling_strategy == "sequential":
            sampler = SequentialSampler(len(dataset), seed=seed)
        else:
            sampler = ShuffledSampler(len(dataset), seed=seed)
        self.add_callback(EpochSelection(sampler))
        return sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Fetches the batches of a step, takes their reports out of them, and acts on bad and useless samples."""
        if self.state.global_step >= self.state.max_steps:
            return [], None  # resumed after the last step: only the result is left to write
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        reports = [report for batch in batches if (report := batch.pop(REPORT_KEY, None)) is not None]
        self.guard.begin_step([report.names for report in reports])
        supervised = 0 if num_items is None else int(num_items)
        num_bad = self.sample_counts.add(
            reports, supervised, processes=self.args.world_size, device=self.args.device, join=self._joined
        )
        if num_bad:
            bad = self._joined([sample for report in reports for sample in report.bad])
            self.bad_samples.add(sorted(bad, key=lambda sample: sample.index), step=self.state.global_step + 1)
        self.sample_counts.check(self.max_useless_fraction, len(self.train_dataset))  # type: ignore[arg-type]
        if num_items is not None:
            # Without an answer in the step, the loss must be 0, not 0 / 0, which would turn every weight into NaN.
            num_items = num_items.clamp(min=1) if isinstance(num_items, Tensor) else max(1, num_items)
        return batches, num_items

    def _joined(self, items: list[Any]) -> list[Any]:
        """Joins the lists of all processes."""
        return gather_object(items) if self.args.world_size > 1 else items

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the loss of a batch, as transformers' Trainer does, and lets the guard see it."""
        computed = super().compute_loss(*args, **kwargs)
        self.guard.watch_loss(computed[0] if isinstance(computed, tuple) else computed)
        if self.is_deepspeed_enabled:  # its backward pass ends with the optimizer's step
            self.guard.check_step(self.args, self.state)
        return computed

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.guard.watch_gradient(norm)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds speed and memory to what is logged of the steps, for the file, the terminal and all trackers."""
        if "loss" in logs:
            memory = peak_memory(self.args.device)
            logs |= self.speed.rates()
            logs |= largest(memory, processes=self.args.world_size, device=self.args.device)
            logs["seconds"] = round(self.speed.seconds, 3)
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step > self._initial_global_step:  # a run that had done its last step has done this too
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def _restore_loss(self, state: TrainerState) -> None:
        """Takes up the losses that a checkpoint's run had not logged yet."""
        unlogged = UnloggedLoss.read(state)
        logged_after_saving = self.args.logging_strategy == "epoch" and float(state.epoch or 0).is_integer()
        if unlogged is None or not state.global_step or logged_after_saving:
            return
        self._tr_loss += unlogged.of_process(self.args.process_index, self.args.world_size)
        self._globalstep_last_logged = unlogged.last_logged_step
        self._total_loss_scalar -= sum(unlogged.sums) / len(unlogged.sums)  # the summary is of the steps from here

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures the loss on the held-out records: exact over processes, and independent of the batch size."""
        dataset: Any = eval_dataset if eval_dataset is not None else self.eval_dataset
        started = self.speed.seconds
        if self.args.process_index == 0:
            say(f"validating on {len(dataset):,} records ...")
        share = Share(
            self.args.per_device_eval_batch_size,
            process=self.args.process_index,
            processes=self.args.world_size,
            workers=self.args.dataloader_num_workers,
        )
        with self.speed.paused(), self.compute_loss_context_manager():
            batches = share.batches(dataset, self._parts.data_collator)
            loss = validate(self._parts.model, batches, self._prepare_inputs, share=share, device=self.args.device)
        measured = loss.metrics(skips_bad=self.bad_samples.skips)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        metrics[f"{metric_key_prefix}_runtime"] = round(self.speed.seconds - started, 3)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- optimizer ---------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Creates the optimizer that `--optim` and the learning rates of the parts select."""
        parts, decay = options_of_parts(self.args), self.args.weight_decay
        if self.optimizer is not None or not (self.args.muon or parts):
            return super().create_optimizer(model)
        trained: Any = self.model if model is None else model
        if self.args.muon:
            groups = parameter_groups(trained, weight_decay=decay, options=parts)
            self.optimizer = MuonWithAdamW(groups, lr=self.args.learning_rate)
            return self.optimizer
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
        decaying = set(self.get_decay_parameter_names(trained))
        self.optimizer = optimizer_class(groups_of_parts(trained, parts, decaying, weight_decay=decay), **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Creates the learning-rate schedule. DeepSpeed's engine exists by now, and has not read a checkpoint yet."""
        if self.args.zero is not None and self.accelerator.deepspeed_engine_wrapped is not None:
            load_trained_only(self.accelerator.deepspeed_engine_wrapped.engine)
        return super().create_scheduler(num_training_steps, optimizer)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes everything that the run needs to go on from here, to `checkpoint-N`, whole or not at all.

        Raises:
            NotFiniteError: a weight is not finite.
        """
        with self.speed.paused():
            self.guard.check_weights(model, self.args, self.state)
            self._save_whole_checkpoint()

    def _save_whole_checkpoint(self) -> None:
        self.store_flos()
        unlogged = UnloggedLoss(self._globalstep_last_logged, tuple(self._joined([float(self._tr_loss)])))
        output_dir = Path(str(self.args.output_dir))
        folder = output_dir / f"checkpoint-{self.state.global_step}"
        first, leads = self.args.process_index == 0, self.args.local_process_index == 0
        if first:
            say(f"saving {folder} ...")
        with whole_folder(folder, first=first, leads=leads, wait=self._wait) as partial:
            if self._shards:
                self._save_sharded(partial)
            elif self.args.zero is not None:
                save_engine(self._parts.model_wrapped, partial)
                if self.args.should_save:
                    torch.save(self._parts.lr_scheduler.state_dict(), partial / SCHEDULER_FILE)
            else:
                self._write_result(partial)
                self._save_optimizer_and_scheduler(str(partial))
            self._save_scaler(str(partial))
            self._save_rng_state(str(partial))
            self._note_best(folder)
            if self.args.should_save:
                unlogged.write(self.state)
                self._write_state(partial)
        self._saved_steps.add(self.state.global_step)
        if self.args.should_save:
            self._remove_abandoned(output_dir)
            remove_oldest(output_dir, self.args.save_total_limit, self._best_checkpoint)

    @property
    def _best_checkpoint(self) -> Path | None:
        best = self.state.best_model_checkpoint
        return None if best is None else Path(best)

    def _remove_abandoned(self, output_dir: Path) -> None:
        """Removes checkpoints that a run left behind which was started over, or resumed from an earlier step.

        The next start would take them for later ones of this run, and `--save_total_limit` would keep them instead.
        """
        for step, folder in checkpoints(output_dir):
            if step > self._initial_global_step and step not in self._saved_steps:
                say(f"removing {folder}, which this run has left behind")
                remove(folder)

    @property
    def _shards(self) -> bool:
        return self.args.sharding is not None

    def _save_sharded(self, partial: Path) -> None:
        save_sharded(self._parts.model, self._parts.optimizer, partial)
        if self.args.should_save:
            torch.save(self._parts.lr_scheduler.state_dict(), partial / SCHEDULER_FILE)

    def _note_best(self, folder: Path) -> None:
        best = self.state.best_global_step
        if best:
            path = folder.with_name(f"checkpoint-{best}")
            if path.exists() or path == folder:
                self.state.best_model_checkpoint = str(path)

    def _write_state(self, partial: Path) -> None:
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                name, saved = type(callback).__name__, callback.state()
                states: Any = self.state.stateful_callbacks
                if isinstance(states.get(name), list):
                    states[name].append(saved)
                else:
                    states[name] = saved
        self.state.save_to_json(str(partial / STATE_FILE))
        if self.identity is not None:
            write_identity(partial, self.identity)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the result of the run. Every process must call this, because each holds a part of a sharded model.

        The files of an earlier result in the folder stay as they are until all new ones are on the disk.

        Raises:
            NotFiniteError: a weight is not finite.
        """
        self.guard.check_weights(self._parts.model, self.args, self.state)
        folder = Path(str(output_dir if output_dir is not None else self.args.output_dir))
        partial = folder / f"result{PARTIAL}"
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._write_result(partial)
        if self.args.should_save:
            if self.identity is not None:
                write_identity(partial, self.identity)
            self.result_files = move_into(partial, folder)
        self._wait()

    def _write_result(self, folder: Path) -> None:
        """Gathers what was trained, and writes it with config and tokenizer in one process."""
        tensors = self._whole_tensors()
        if not self.args.should_save:
            return
        model = self._parts.model
        config = model.config
        used_cache, padding = config.use_cache, config.pad_token_id
        config.use_cache = True  # Only training runs without a cache.
        if self.adapter_only:
            config.pad_token_id = self._padding_of_base()
        try:
            self.writer.write(folder, tensors, model)
        finally:
            config.use_cache, config.pad_token_id = used_cache, padding
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _whole_tensors(self) -> dict[str, Tensor]:
        return gathered(self._parts.model, self.writer.wants, keep=self.args.should_save)

    def _padding_of_base(self) -> int | None:
        """Returns the base model's padding id, because the base model has no row for a token that was added here."""
        model = self._parts.model
        padding: int | None = model.config.pad_token_id
        added: Any = getattr(self.processing_class, "get_added_vocab", dict)()
        return None if padding in added.values() and padding not in (0, 1, 2) else padding

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the weights of a checkpoint.

        Raises:
            CheckpointError: the weights are missing, damaged, or from another model.
        """
        folder = Path(resume_from_checkpoint)
        target: Any = model if model is not None else self.model
        if is_sharded(folder):
            load_sharded_weights(target, folder)
        elif self._shards:
            raise CheckpointError(
                f"{folder} was written without --fsdp, so its state cannot be distributed over processes. "
                "Remove --fsdp, or start over with --resume_from_checkpoint False."
            )
        else:
            self.writer.read(folder, target)

    def _load_best_model(self) -> None:
        """Takes the weights of the checkpoint with the lowest validation loss for the result."""
        best = str(self.state.best_model_checkpoint)
        if self.args.process_index == 0:
            say(f"loading the best checkpoint, {best} (validation loss {self.state.best_metric:.4f}) ...")
        if self.args.zero is not None:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(best)
        if self.args.should_save and self.args.save_total_limit == 1:
            # The Trainer would do so next, and leave half of one behind if it were killed.
            for _, folder in checkpoints(Path(str(self.args.output_dir))):
                if folder.name != Path(best).name:
                    remove(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_sharded_optimizer(self._parts.model, self._parts.optimizer, Path(checkpoint))
        self._parts.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_FILE, weights_only=True))

    def bytes_of_checkpoint(self) -> tuple[int, int]:
        """Estimates the bytes of a checkpoint and of the result, for AdamW's state, the largest of all optimizers."""
        tensors = dict(named_tensors(self._parts.model))
        trained = num_bytes({name: tensor for name, tensor in tensors.items() if tensor.requires_grad})
        result = num_bytes({name: tensor for name, tensor in tensors.items() if self.writer.wants(name)})
        return (trained if self._shards or self.args.zero else result) + 2 * trained, result
