"""Trains a LLaVA model.

Stage 1 (--tune_mm_mlp_adapter) trains the projector alone; stage 2 trains the projector and the language model. The
flags of every original release and all flags of transformers' TrainingArguments are accepted.
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import WRONG_USAGE, guarded
from llava.errors import InvalidRequest
from llava.train.checkpoints.folders import remove_partial
from llava.train.checkpoints.resume import Start, describe_finished, unmark_finished
from llava.train.parallel.deepspeed_settings import deepspeed_of_words
from llava.train.parallel.first_process import rank, reported_once
from llava.train.parallel.sharding import sharding_of_words
from llava.train.setup.arguments import DataArguments, ModelArguments, help_parser, without_refused

if TYPE_CHECKING:
    from llava.train.data.records import Record
    from llava.train.llava_trainer import LLaVATrainer
    from llava.train.setup.model_and_data import Prepared
    from llava.train.setup.run import Run
    from llava.train.setup.training_arguments import TrainingArguments

REQUIRED = ("model_name_or_path", "data_path", "output_dir")


def main(
    argv: Sequence[str] | None = None, *, prog: str | None = None, choose_attention: Callable[[], str] | None = None
) -> int:
    """Parses flags and trains; returns the exit code (0 done, 1 failed, 2 wrong usage).

    Args:
        argv: arguments of the command; None uses those of the process.
        prog: name of the command in `--help`.
        choose_attention: returns the attention implementation by its name in transformers, once the flags are checked;
            None lets transformers choose.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "-h" in words or "--help" in words:
        help_parser(prog, __doc__).print_help()
        return 0
    debug = "--debug" in words and _is_flag_alone(words, "--debug")
    if debug:
        words.remove("--debug")
    # These errors can be reported at once, without loading anything.
    missing = [name for name in REQUIRED if not any(word.partition("=")[0] == f"--{name}" for word in words)]
    if missing:
        return _usage_error(f"missing flags: {', '.join(f'--{name}' for name in missing)}. See --help.")

    def body() -> int:
        try:
            with reported_once():
                # These refuse what cannot be sharded, before anything is loaded.
                sharding_of_words(words)
                deepspeed_of_words(words)
                arguments = parse(words)
        except UsageError as error:
            return _usage_error(str(error))
        train(*arguments, attn_implementation=choose_attention() if choose_attention else None)
        return 0

    return guarded(body, debug=debug)


class UsageError(InvalidRequest):
    """A flag that does not exist, or a value that cannot be parsed."""


def parse(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Parses the flags of a training command.

    Raises:
        UsageError: a flag is unknown (the message suggests similar ones), or a value has the wrong type.
        InvalidRequest: a flag is not supported on this machine or in this version.
    """
    from transformers import HfArgumentParser

    from llava.train.setup.training_arguments import TrainingArguments

    words = without_refused(argv)
    groups: Any = (ModelArguments, DataArguments, TrainingArguments)
    parser: Any = HfArgumentParser(groups, allow_abbrev=False)
    _, unknown = parser.parse_known_args(words)  # argparse exits with 2 if a value does not parse
    if unknown:
        raise UsageError(_unknown_flags(unknown, list(parser._option_string_actions)))
    try:
        return parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error).strip().splitlines()[0]) from error


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    *,
    attn_implementation: str | None = None,
) -> None:
    """Runs one training stage and saves the result in `output_dir`.

    Args:
        model_args: what the model consists of and what trains.
        data_args: records and images.
        training_args: all other settings.
        attn_implementation: attention implementation by its name in transformers; None lets transformers choose.

    Raises:
        LlavaError: arguments, data or weights cannot be used; the message says what to do.
    """
    from llava.train.parallel.deepspeed import check_checkpoint
    from llava.train.setup.run import read_run

    started = time.monotonic()
    with reported_once():
        run = read_run(model_args, data_args, training_args)
        start = _start(run, training_args)
        if start.finished_at_step is not None:
            training_args.say(describe_finished(start, str(training_args.output_dir)))
            return
        for note in start.notes:
            training_args.say(note)
        if start.checkpoint is not None:
            check_checkpoint(start.checkpoint, training_args.zero, training_args.world_size)
        if training_args.process_index == 0:
            _clear(Path(str(training_args.output_dir)), start)
        trainer = make_trainer(model_args, data_args, training_args, run=run, attn_implementation=attn_implementation)
        if start.checkpoint is not None:
            training_args.say(f"resuming from {start.checkpoint}")
            training_args.eval_on_start = False  # it was done when the run started
        try:
            trainer.train(resume_from_checkpoint=None if start.checkpoint is None else str(start.checkpoint))
        finally:
            trainer.progress.close()
        training_args.say("saving the result ...")
        with trainer.speed.paused():
            trainer.save_state()
            trainer.save_model()
    _finish(run, trainer, str(model_args.model_name_or_path))
    _report(trainer, time.monotonic() - started)


def _report(trainer: LLaVATrainer, seconds: float) -> None:
    """Says how a run went."""
    from llava.train.monitoring.progress import duration

    counts, rates, say = trainer.sample_counts, trainer.speed.total(), trainer.args.say
    if counts.truncated:
        say(counts.describe_truncated())
    if len(trainer.bad_samples):
        say(trainer.bad_samples.describe())
    first = trainer.progress.first_step
    since = f" since step {first}" if first else ""
    speed = f"{rates['samples_per_second']:,.1f} samples/s, {rates['supervised_tokens_per_second']:,.0f} supervised"
    done = f"done in {duration(seconds)}: {counts.describe()}{since} ({speed} tokens/s)"
    say(f"{done}. Saved in {trainer.args.output_dir}")


def make_trainer(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    *,
    run: Run | None = None,
    attn_implementation: str | None = None,
) -> LLaVATrainer:
    """Loads the model and selects what trains: everything before the first step.

    Args and errors are those of `train`; `run` is read if it is not given.
    """
    from transformers import set_seed

    from llava.train.checkpoints.lora_writer import LoraWriter
    from llava.train.data.collator import Collator
    from llava.train.llava_trainer import LLaVATrainer
    from llava.train.monitoring.bad_samples import BadSamples, known_bad_samples
    from llava.train.parallel.deepspeed import models_built_whole
    from llava.train.parallel.first_process import decided_by_first
    from llava.train.setup.lora import add_lora, start_from_adapter
    from llava.train.setup.model_and_data import eval_image_folder, image_folder, prepare_data, prepare_model
    from llava.train.setup.run import read_run
    from llava.train.setup.trainable import Stage, describe_trainable, select_trainable

    run = run or read_run(model_args, data_args, training_args)
    set_seed(training_args.seed)
    training_args.say(f"loading {model_args.model_name_or_path} ...")
    lora = training_args.lora
    stage = Stage(
        adapter_only=model_args.tune_mm_mlp_adapter,
        freeze_backbone=model_args.freeze_backbone,
        freeze_projector=training_args.freeze_mm_mlp_adapter,
        lora=lora is not None,
        lora_bias=lora.bias if lora is not None else "none",
        tower=model_args.unfreeze_mm_vision_tower,
    )
    with models_built_whole(training_args.hf_deepspeed_config if training_args.zero else None):
        prepared = prepare_model(model_args, data_args, training_args, stage, attn_implementation=attn_implementation)
        if prepared.model.config.has_vision and not stage.tower:
            prepared.model.set_vision_tower_apart()
            prepared.model.get_vision_tower().to(training_args.device)
        if lora is not None:
            add_lora(prepared.model, lora, base=str(model_args.model_name_or_path))
        rows = select_trainable(
            prepared.model, stage, start_end_ids=prepared.start_end_ids, frozen_dtype=training_args.compute_dtype
        )
        writer = None
        if lora is not None:
            also = start_from_adapter(prepared.model, rows, lora.start_from)
            writer = LoraWriter(prepared.model, rows, base_num_tokens=prepared.base_num_tokens, also=also)
    training_args.shard_layers_of(prepared.model)
    training_args.say(describe_trainable(prepared.model))
    training_args.say(_describe_data(run.records, prepared))
    folder = image_folder(data_args)
    held_out = None
    if run.held_out is not None:
        folder_of_held_out = eval_image_folder(data_args)
        held_out = prepare_data(prepared, run.held_out, model_args, training_args, folder=folder_of_held_out)
    output_dir = Path(str(training_args.output_dir))
    return LLaVATrainer(
        model=prepared.model,
        args=training_args,
        train_dataset=prepare_data(prepared, run.records, model_args, training_args, folder=folder),
        eval_dataset=held_out,
        data_collator=Collator(int(prepared.tokenizer.pad_token_id or 0), with_report=True),
        processing_class=prepared.tokenizer,
        adapter_only=stage.adapter_only,
        token_rows=rows,
        writer=writer,
        identity=run.identity,
        max_useless_fraction=data_args.max_useless_fraction,
        bad_samples=BadSamples(
            output_dir,
            policy=data_args.on_bad_sample,
            maximum=data_args.max_bad_samples,
            writes=training_args.process_index == 0,
            known=decided_by_first(lambda: known_bad_samples(output_dir)),
        ),
    )


def _start(run: Run, training_args: TrainingArguments) -> Start:
    """Decides where the run starts. The first process decides for all, since only its disk may hold the checkpoints."""
    from llava.train.checkpoints.resume import find_start
    from llava.train.parallel.first_process import decided_by_first

    wanted = training_args.resume_from_checkpoint
    return decided_by_first(
        lambda: find_start(
            str(training_args.output_dir),
            run.identity,
            wanted=None if wanted is None else str(wanted),
            start_over=training_args.overwrite_output_dir,
        )
    )


def _clear(output_dir: Path, start: Start) -> None:
    """Removes what an interrupted run was writing, and what an earlier run recorded that is now started anew."""
    from llava.train.monitoring.bad_samples import forget_after
    from llava.train.monitoring.metrics import METRICS_FILE

    remove_partial(output_dir)
    unmark_finished(output_dir)
    forget_after(output_dir, start.step)
    if start.checkpoint is None:
        (output_dir / METRICS_FILE).unlink(missing_ok=True)


def _finish(run: Run, trainer: LLaVATrainer, base: str) -> None:
    """Completes the result and, last of all, marks the run as finished."""
    from llava.train.checkpoints.identity import RUN_FILE, write_identity

    if trainer.args.process_index == 0:
        output_dir = Path(str(trainer.args.output_dir))
        _copy_tokenizer_model(base, output_dir)
        write_identity(
            output_dir,
            run.identity,
            finished_at_step=trainer.state.global_step,
            result_files=[name for name in trainer.result_files if name != RUN_FILE],
        )


def _describe_data(records: list[Record], prepared: Prepared) -> str:
    with_images = sum(1 for record in records if record.images)
    form = "<im_patch> runs" if prepared.image_tokens.as_patches else "one marker each"
    return f"data: {len(records):,} records, {with_images:,} with images ({form}); template: {prepared.template.name}"


def _copy_tokenizer_model(base: str, output_dir: Path) -> None:
    """Copies the SentencePiece file, which older readers need and today's tokenizers no longer save."""
    import shutil

    from llava.model.weights.reader import resolve_folder

    source = resolve_folder(base) / "tokenizer.model"
    if source.is_file():
        shutil.copyfile(source, output_dir / "tokenizer.model")


def _is_flag_alone(words: list[str], flag: str) -> bool:
    """Tells whether a flag has no value; transformers' own `--debug` takes values."""
    position = words.index(flag)
    return position + 1 == len(words) or words[position + 1].startswith("--")


def _unknown_flags(unknown: Sequence[str], known: Sequence[str]) -> str:
    flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    if not flags:
        return f"unexpected arguments: {' '.join(unknown)}. Put values that contain spaces in quotes."
    hints = []
    for flag in flags:
        close = difflib.get_close_matches(flag, known, n=3)
        hints.append(f"{flag} (did you mean {' or '.join(close)}?)" if close else flag)
    return f"unknown flags: {', '.join(hints)}. See --help."


def _usage_error(message: str) -> int:
    if rank() == 0:
        print(f"error: {message}", file=sys.stderr)
    return WRONG_USAGE


if __name__ == "__main__":
    sys.exit(main())
