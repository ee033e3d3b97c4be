"""base + delta, as the original adds them; wrong inputs are named before a byte is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.command_line import run
from llava.errors import BaseMismatch, BrokenShard, CheckpointError, InvalidRequest, MissingShard, ShapeMismatch
from llava.model import apply_delta, consolidate, make_delta
from llava.model.weights.folder import check_distinct, open_source, size_in_bytes
from llava.model.weights.reader import open_checkpoint, read_model_json
from tests.support.checkpoints import DATA

BASE, DELTA, TARGET = DATA / "llama-vicuna-tiny", DATA / "llava-v0-tiny-delta", DATA / "llava-v0-tiny"
SHARD = 10**9


def command(module, *arguments: object) -> int:
    """A tool as a user calls it, without the traceback that pytest would show."""
    argv = [str(argument) for argument in arguments]
    return run(module.add_arguments, module.main, description=module.__doc__, argv=[*argv, "--quiet"])


def apply(base: Path, delta: Path, target: Path, *more: str) -> int:
    return command(apply_delta, "--base", base, "--delta", delta, "--target", target, *more)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.tensor(name).clone() for name in checkpoint}


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, copy_function=shutil.copyfile))


def rewritten(source: Path, target: Path, change=lambda weights: weights, *, files: int = 1) -> Path:
    """A copy with changed weights, as safetensors in one file or several."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("pytorch_model.bin"), copy_function=shutil.copyfile)
    weights = change(tensors(source))
    if files == 1:
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
        return target
    names = [f"model-{index + 1:05d}-of-{files:05d}.safetensors" for index in range(files)]
    where = {name: names[index % files] for index, name in enumerate(weights)}
    for file in names:
        save_file({name: weights[name] for name in weights if where[name] == file}, target / file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return target


def assert_is_golden_target(folder: Path) -> None:
    ours, golden = tensors(folder), tensors(TARGET)
    golden = {name: value for name, value in golden.items() if "inv_freq" not in name}
    assert set(ours) == set(golden)
    for name, value in golden.items():
        assert torch.equal(ours[name], value), name


def test_the_golden_delta_gives_the_original_model_bit_for_bit(tmp_path):
    assert apply(BASE, DELTA, tmp_path / "made", "--verify") == 0
    assert_is_golden_target(tmp_path / "made")


@pytest.mark.parametrize("files", [1, 3])
def test_file_formats_and_shards_make_no_difference(tmp_path, files):
    base = rewritten(BASE, tmp_path / "base", files=files)
    delta = rewritten(DELTA, tmp_path / "delta", files=files)
    assert apply(base, delta, tmp_path / "made") == 0
    assert apply(BASE, DELTA, tmp_path / "from_bin") == 0
    one, other = (tmp_path / name / "model.safetensors" for name in ("made", "from_bin"))
    assert set(tensors(one.parent)) == set(tensors(other.parent))
    assert_is_golden_target(tmp_path / "made")


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        assert apply(BASE, DELTA, tmp_path / name, "--max-shard-size", "200KB") == 0
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert sum(name.endswith(".safetensors") for name in files) > 2
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_small_blocks_change_nothing(tmp_path, monkeypatch):
    """The new rows of the embedding begin inside a block, at its edge, and after it."""
    from llava.model.weights.reader import Checkpoint

    whole = Checkpoint.row_ranges
    for limit in (128, 4096, 100_000):
        monkeypatch.setattr(
            Checkpoint, "row_ranges", lambda self, name, limit=limit: whole(self, name, limit_bytes=limit)
        )
        assert apply(BASE, DELTA, tmp_path / str(limit), "--verify") == 0
        assert_is_golden_target(tmp_path / str(limit))


def test_the_made_folder_is_complete_and_says_that_it_is_a_llava(tmp_path):
    delta = copied(DELTA, tmp_path / "delta")
    settings = read_model_json(delta / "config.json") | {"model_type": "llama", "use_cache": False}
    (delta / "config.json").write_text(json.dumps(settings))
    assert apply(BASE, delta, tmp_path / "made") == 0
    made = read_model_json(tmp_path / "made" / "config.json")
    assert made["model_type"] == "llava_llama"
    assert made["architectures"] == ["LlavaLlamaForCausalLM"]
    assert made["use_cache"] is True
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json", "generation_config.json"):
        assert (tmp_path / "made" / name).read_bytes() == (delta / name).read_bytes()


def test_the_made_model_loads_and_gives_the_original_s_logits(tmp_path):
    from llava.model.builder import load_pretrained_model
    from tests.support.checkpoints import TOWER

    assert apply(BASE, DELTA, tmp_path / "made") == 0
    ids = torch.tensor([[1, 20, 2050, *[2049] * 256, 2051, 30]])
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    logits = []
    for folder in (tmp_path / "made", TARGET):
        _, model, _, _ = load_pretrained_model(folder, device="cpu", dtype="float32", vision_tower=TOWER)
        with torch.no_grad():
            logits.append(model(input_ids=ids, images=image).logits)
    assert torch.equal(*logits)


def test_other_precisions_are_written_on_request(tmp_path):
    assert apply(BASE, DELTA, tmp_path / "made", "--dtype", "float32", "--verify") == 0
    made, golden = tensors(tmp_path / "made"), tensors(TARGET)
    assert {value.dtype for value in made.values()} == {torch.float32}
    assert read_model_json(tmp_path / "made" / "config.json")["torch_dtype"] == "float32"
    for name, value in made.items():
        # The golden sum was rounded to float16; this one is not.
        torch.testing.assert_close(value, golden[name].float(), atol=1e-3, rtol=1e-3)


# Making deltas


def test_apply_undoes_make_exactly_in_full_precision(tmp_path):
    assert command(make_delta, "--base", BASE, "--target", TARGET, "--delta", tmp_path / "d", "--dtype", "float32") == 0
    assert apply(BASE, tmp_path / "d", tmp_path / "made", "--dtype", "float32") == 0
    assert command(consolidate, "--src", tmp_path / "made", "--dst", tmp_path / "half") == 0
    assert_is_golden_target(tmp_path / "half")


def test_a_half_precision_delta_says_what_it_cannot_give_back(tmp_path, capsys):
    def spread(weights):
        generator = torch.Generator().manual_seed(1)
        return {
            name: (value + 10 * torch.randn(value.shape, generator=generator)).half() if value.dim() > 1 else value
            for name, value in weights.items()
        }

    target = rewritten(TARGET, tmp_path / "target", spread)
    assert command(make_delta, "--base", BASE, "--target", target, "--delta", tmp_path / "d") == 0
    assert "% of the values exactly" in capsys.readouterr().out
    assert apply(BASE, tmp_path / "d", tmp_path / "made") == 0
    made, wanted = tensors(tmp_path / "made"), tensors(target)
    for name, value in made.items():
        torch.testing.assert_close(value.float(), wanted[name].float(), atol=0.05, rtol=0)  # of values up to 50


def test_a_made_delta_is_the_golden_one(tmp_path):
    assert command(make_delta, "--base", BASE, "--target", TARGET, "--delta", tmp_path / "d") == 0
    made, golden = tensors(tmp_path / "d"), tensors(DELTA)
    for name, value in made.items():
        assert torch.equal(value, golden[name]), name


def test_a_made_delta_knows_its_base(tmp_path, capsys):
    assert command(make_delta, "--base", BASE, "--target", TARGET, "--delta", tmp_path / "d") == 0
    other = rewritten(
        BASE, tmp_path / "other", lambda weights: weights | {"model.norm.weight": weights["model.norm.weight"] * 2}
    )
    assert apply(other, tmp_path / "d", tmp_path / "made") == 1
    assert "is not the base that this delta was made from" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert apply(other, tmp_path / "d", tmp_path / "made", "--force") == 0
    # The same base in another file format has the same fingerprint.
    same = rewritten(BASE, tmp_path / "same", files=2)
    assert apply(same, tmp_path / "d", tmp_path / "made_again") == 0


# Wrong inputs: what is wrong is named, and nothing is written


def no_layers(weights):
    return {name: value for name, value in weights.items() if "layers.1." not in name}


def wider(weights):
    return {name: torch.cat([value] * 2, dim=-1) for name, value in weights.items()}


def extra_rows(weights):
    grown = dict(weights)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        grown[name] = torch.cat([weights[name], weights[name][:1]])
    return grown


def without_projector(weights):
    return {name: value for name, value in weights.items() if "mm_projector" not in name}


def other_shape(weights):
    name = "model.layers.0.mlp.up_proj.weight"
    return weights | {name: weights[name][:-1].clone()}


def other_name(weights):
    return weights | {"model.layers.0.mlp.extra.weight": torch.ones(3)}


@pytest.mark.parametrize(
    ("side", "source", "change", "error", "message"),
    [
        ("base", BASE, no_layers, BaseMismatch, "of different sizes.*7B with 7B"),
        ("base", BASE, wider, BaseMismatch, "2 layers of width 128"),
        ("base", TARGET, None, BaseMismatch, "is already a LLaVA"),
        ("base", BASE, extra_rows, BaseMismatch, "added tokens such as Vicuna"),
        ("base", BASE, other_shape, ShapeMismatch, r"up_proj\.weight has shape \[127, 64\]"),
        ("delta", DELTA, without_projector, CheckpointError, "has no projector"),
        ("delta", TARGET, None, BaseMismatch, "does not look like a delta"),
        ("delta", DELTA, other_name, BaseMismatch, r"has no model\.layers\.0\.mlp\.extra\.weight"),
        (
            "delta",
            DELTA,
            lambda weights: {name: value for name, value in weights.items() if "layers.1.mlp" not in name},
            BaseMismatch,
            "3 tensors of the base are missing",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, capsys, side, source, change, error, message):
    wrong = rewritten(source, tmp_path / side, change) if change else source
    inputs = {"base": BASE, "delta": DELTA} | {side: wrong}
    with pytest.raises(error, match=message):
        apply_delta._check(open_source(inputs["base"], "base"), open_source(inputs["delta"], "delta"), force=False)
    assert apply(inputs["base"], inputs["delta"], tmp_path / "made") == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ([side] if change else [])


def test_tokens_without_rows_are_refused(tmp_path):
    delta = copied(DELTA, tmp_path / "delta")
    (delta / "added_tokens.json").write_text(json.dumps({"<im_end>": 2052}))
    with pytest.raises(CheckpointError, match=r"'<im_end>' has id 2052.*only 2052 rows"):
        apply_delta._check(open_source(BASE, "base"), open_source(delta, "delta"), force=False)


def test_values_beyond_half_precision_are_refused(tmp_path, capsys):
    base = rewritten(BASE, tmp_path / "base", lambda w: {name: value.float() * 1e6 for name, value in w.items()})
    assert apply(base, DELTA, tmp_path / "made") == 1
    assert "NaN or infinite in float16" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_a_cut_shard_is_named(tmp_path):
    base = rewritten(BASE, tmp_path / "base", files=2)
    cut = base / "model-00002-of-00002.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(BrokenShard, match="model-00002-of-00002"):
        open_source(base, "base")


def test_a_missing_shard_is_named(tmp_path):
    base = rewritten(BASE, tmp_path / "base", files=2)
    (base / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingShard, match="1 of 2 weight files are missing: model-00002-of-00002"):
        open_source(base, "base")


def test_a_pickle_that_is_no_weights_is_refused(tmp_path):
    base = copied(BASE, tmp_path / "base")
    torch.save({"weights": [1, 2, 3]}, base / "pytorch_model.bin")
    with pytest.raises(BrokenShard, match="flat table of tensors"):
        open_source(base, "base")


def test_one_folder_cannot_be_two_things(tmp_path):
    with pytest.raises(InvalidRequest, match="--base and --target are the same folder"):
        check_distinct({"--base": tmp_path, "--target": tmp_path / "x" / ".."})
    with pytest.raises(InvalidRequest, match="one lies inside the other"):
        check_distinct({"--delta": tmp_path, "--target": tmp_path / "made"})


def test_a_target_that_exists_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "notes.txt").write_text("mine")
    assert apply(BASE, DELTA, tmp_path / "made") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert [entry.name for entry in (tmp_path / "made").iterdir()] == ["notes.txt"]
    assert apply(BASE, DELTA, tmp_path / "made", "--overwrite") == 0
    assert_is_golden_target(tmp_path / "made")


def test_verify_finds_a_flipped_bit(tmp_path):
    assert apply(BASE, DELTA, tmp_path / "made") == 0
    file = tmp_path / "made" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not base \\+ delta"):
        apply_delta.verify(open_source(BASE, "base"), open_source(DELTA, "delta"), open_source(tmp_path / "made", "t"))


@pytest.mark.parametrize(("text", "value"), [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("2GiB", 2 << 30), ("77", 77)])
def test_sizes_are_read_as_people_write_them(text, value):
    assert size_in_bytes(text) == value


@pytest.mark.parametrize("text", ["", "5 apples", "-3GB", "0"])
def test_what_is_no_size_is_refused(text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        size_in_bytes(text)


# consolidate


def test_consolidate_leaves_the_values_and_drops_leftovers(tmp_path):
    assert command(consolidate, "--src", TARGET, "--dst", tmp_path / "clean") == 0
    assert_is_golden_target(tmp_path / "clean")
    assert not any("inv_freq" in name for name in open_checkpoint(tmp_path / "clean"))


def test_consolidate_keeps_a_tower_that_lies_in_the_folder(tmp_path):
    from llava import pocket
    from llava.model.builder import load_pretrained_model

    assert command(consolidate, "--src", pocket.find("tiny"), "--dst", tmp_path / "wide", "--dtype", "float32") == 0
    _, model, image_processor, _ = load_pretrained_model(tmp_path / "wide", device="cpu")
    assert image_processor is not None
    assert model.config.mm_vision_tower.startswith(str(tmp_path))
