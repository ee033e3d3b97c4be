"""Trains the vision tower, a CLIPVisionModel, on generated scenes and on Fashion-MNIST photographs.

LLaVA reads the patches of the last layer but one. So that is where they learn to say what they show: each patch of a
scene its object's kind, colour, size and place, the background and the number of objects; the patches of a photograph
together the kind of clothing. Each patch also learns to give all its answers as ones among zeros, by squared error,
because least squares is what the projector starts from. The last layer's class token learns which things are present.
The linear heads that ask are thrown away; they are linear because the projector is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava.command_line import run
from scripts.pocket import fashion, patches, scenes
from scripts.pocket.training_state import load_state, save_state

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": scenes.SIDE,
    "patch_size": patches.PATCH,
    "hidden_act": "gelu",
    "projection_dim": 192,
}
MEAN = STD = 0.5
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": scenes.SIDE},
    "do_center_crop": True,
    "crop_size": {"height": scenes.SIDE, "width": scenes.SIDE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
    "do_convert_rgb": True,
}
WEIGHTS = {"kind": 1.0, "colour": 0.5, "size": 0.3, "cell": 0.1, "background": 0.1, "count": 0.3}
ANSWERS = sum(patches.TARGETS.values())
"""Of all questions about a patch."""
READING_WEIGHT, KIND_WEIGHT = 2.0, 4.0
"""Of the squared error, and in it of the kinds: each of so many is seldom right, so that little is lost without it."""
PRESENCE = len(scenes.KINDS) + len(scenes.COLOURS) + len(fashion.CLASSES)
LAST_LAYER_EVERY = 4
"""The last layer is no part of LLaVA's features; it learns on every fourth step only."""


def build_model() -> nn.ModuleDict:
    """The tower and the heads that are thrown away afterwards."""
    from torch import nn
    from transformers import CLIPVisionConfig, CLIPVisionModel

    width = CONFIG["hidden_size"]
    return nn.ModuleDict(
        {
            "tower": CLIPVisionModel(CLIPVisionConfig(**CONFIG)),
            "patch": nn.Linear(width, ANSWERS),
            "reading": nn.Linear(width, ANSWERS + len(fashion.CLASSES)),
            "photograph": nn.Linear(width, len(fashion.CLASSES)),
            "presence": nn.Linear(width, PRESENCE),
        }
    )


def features(tower: Any, pixels: Tensor) -> Tensor:
    """The output of the last layer but one with its class token, [n, 1 + patches, width]."""
    states = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        states = layer(states, None)
    return states


def normalise(pictures: np.ndarray) -> Tensor:
    """Bytes [n, h, w, 3] to what the image processor gives, [n, 3, h, w] float32."""
    import torch

    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    return pixels.mul_(1 / 255).sub_(MEAN).div_(STD).contiguous()


class Batches:
    """Draws a step's scenes and photographs from the step's number alone, so that a resumed run continues exactly."""

    def __init__(self, work: Path, photographs: Path, seed: int):
        self.seed = seed
        with np.load(work / "scenes.npz") as stored:
            self.scenes, self.targets = stored["pictures"], stored["targets"]
        pictures, labels = fashion.read(photographs, "train")
        self.photographs, self.labels = enlarged(pictures[: -fashion.WATCHED]), labels[: -fashion.WATCHED]

    def draw_scenes(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, side, side] and targets [n, questions, patches]."""
        import torch

        rng = np.random.default_rng((self.seed, step, 0))
        chosen = np.sort(rng.choice(len(self.scenes), count, replace=False))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        pixels = _vary_scenes(normalise(self.scenes[chosen]), generator)
        return pixels, torch.from_numpy(self.targets[chosen].astype(np.int64))

    def draw_photographs(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, side, side] and class numbers [n]."""
        import torch

        rng = np.random.default_rng((self.seed, step, 1))
        chosen = rng.choice(len(self.photographs), count, replace=False)
        pictures = self.photographs[chosen].copy()
        flipped = rng.random(count) < 0.5
        pictures[flipped] = pictures[flipped, :, ::-1]
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        pixels = _vary_photographs(normalise(np.repeat(pictures[..., None], 3, axis=-1)), generator)
        return pixels, torch.from_numpy(self.labels[chosen].astype(np.int64))


def enlarged(pictures: np.ndarray) -> np.ndarray:
    """Grey photographs [n, 28, 28] to [n, 66, 66], bytes, as the image processor enlarges them."""
    out = np.empty((len(pictures), scenes.SIDE, scenes.SIDE), dtype=np.uint8)
    for index, pixels in enumerate(pictures):
        out[index] = np.asarray(fashion.picture(pixels, scenes.SIDE))[..., 0]
    return out


def _vary_scenes(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Moves each by up to a pixel and a half, the edge repeated, and changes the light a little."""
    import torch
    from torch.nn import functional

    count, side = len(pixels), pixels.shape[-1]
    move = (torch.rand(count, 2, generator=generator) * 2 - 1) * 2 * 1.5 / side
    theta = torch.eye(2).expand(count, 2, 2)
    grid = functional.affine_grid(torch.cat([theta, move[..., None]], dim=2), list(pixels.shape), align_corners=False)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    light = 1 + 0.08 * (torch.rand(count, 1, 1, 1, generator=generator) * 2 - 1)
    return ((moved + 1) * light).clamp_(0, 2) - 1


def _vary_photographs(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Moves and scales half of them a little, and makes all lighter or darker."""
    import torch
    from torch.nn import functional

    count = len(pixels)
    half = count // 2
    scale = 1 + 0.12 * (torch.rand(half, 2, generator=generator) * 2 - 1)
    move = 0.12 * (torch.rand(half, 2, generator=generator) * 2 - 1)
    theta = torch.zeros(half, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], move
    grid = functional.affine_grid(theta, [half, 3, scenes.SIDE, scenes.SIDE], align_corners=False)
    # The photographs' own background is black: -1 after normalisation, 0 outside the grid.
    moved = functional.grid_sample(pixels[:half] + 1, grid, align_corners=False) - 1
    pixels = torch.cat([moved, pixels[half:]])
    light = 1 + 0.2 * (torch.rand(count, 1, 1, 1, generator=generator) * 2 - 1)
    return ((pixels + 1) * light).clamp_(0, 2) - 1


def scene_loss(model: nn.ModuleDict, states: Tensor, targets: Tensor) -> Tensor:
    """Mean over the questions that each patch is asked."""
    import torch
    from torch.nn import functional

    answers = model["patch"](states[:, 1:]).split(list(patches.TARGETS.values()), dim=-1)
    total = torch.zeros(())
    for place, (name, logits) in enumerate(zip(patches.TARGETS, answers, strict=True)):
        asked = targets[:, place]
        chosen = asked != patches.IGNORED
        loss = functional.cross_entropy(logits[chosen], asked[chosen], reduction="none")
        if name == "kind":
            # Most patches are background; each object's patches together should weigh as much.
            weight = torch.where(asked[chosen] == patches.BACKGROUND_KIND, 0.15, 1.0)
            total = total + WEIGHTS[name] * (loss * weight).sum() / weight.sum()
        else:
            total = total + WEIGHTS[name] * loss.mean()
    return total


def photograph_loss(model: nn.ModuleDict, states: Tensor, labels: Tensor) -> Tensor:
    """All patches together name the class; each alone tries to, and says that this is a photograph."""
    import torch
    from torch.nn import functional

    logits = model["photograph"](states[:, 1:])
    together = functional.cross_entropy(logits.mean(1), labels, label_smoothing=0.05)
    alone = functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))
    kinds = model["patch"](states[:, 1:])[..., : patches.TARGETS["kind"]].flatten(0, 1)
    photograph = functional.cross_entropy(kinds, torch.full((len(kinds),), patches.PHOTOGRAPH_KIND))
    return 1.5 * together + 0.3 * alone + 0.3 * photograph


def reading_loss(model: nn.ModuleDict, states: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Squared error of all answers of each patch.

    Args:
        wanted: ones where an answer is right, [n, patches, ANSWERS + classes of clothing].
        weight: of each patch, [n, patches].
    """
    error = (model["reading"](states[:, 1:]) - wanted).square()
    each = error.sum(-1) + (KIND_WEIGHT - 1) * error[..., : patches.TARGETS["kind"]].sum(-1)
    return READING_WEIGHT * (each * weight).sum() / weight.sum()


def answers_of_scenes(targets: Tensor) -> tuple[Tensor, Tensor]:
    """[n, questions, patches] to ones and zeros [n, patches, ANSWERS + classes], and the patches' weights."""
    import torch
    from torch.nn import functional

    parts = [
        functional.one_hot(targets[:, place].clamp_min(0), count) * (targets[:, place] >= 0)[..., None]
        for place, count in enumerate(patches.TARGETS.values())
    ]
    none = torch.zeros(*parts[0].shape[:2], len(fashion.CLASSES))
    is_empty = targets[:, list(patches.TARGETS).index("kind")] == patches.BACKGROUND_KIND
    return torch.cat([*parts, none], dim=-1).float(), torch.where(is_empty, 0.3, 1.0)


def answers_of_photographs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Class numbers [n] to the same: each patch says that this is a photograph, and of what."""
    import torch

    num_patches = patches.GRID**2
    wanted = torch.zeros(len(labels), ANSWERS + len(fashion.CLASSES))
    wanted[:, patches.PHOTOGRAPH_KIND] = 1
    wanted[torch.arange(len(labels)), ANSWERS + labels] = 1
    return wanted[:, None].expand(-1, num_patches, -1), torch.full((len(labels), num_patches), 0.2)


def presence_loss(model: nn.ModuleDict, states: Tensor, present: Tensor) -> Tensor:
    """The last layer's class token says which kinds, colours and clothes are in the picture."""
    from torch.nn import functional

    tower: Any = model["tower"]
    pooled = tower.post_layernorm(tower.encoder.layers[-1](states, None)[:, 0])
    return functional.binary_cross_entropy_with_logits(model["presence"](pooled), present)


def present_in_scenes(targets: Tensor) -> Tensor:
    """[n, questions, patches] to [n, PRESENCE] of 0 and 1."""
    import torch

    names = list(patches.TARGETS)
    out = torch.zeros(len(targets), PRESENCE)
    for name, first, count in (
        ("kind", 0, len(scenes.KINDS)),
        ("colour", len(scenes.KINDS), len(scenes.COLOURS)),
    ):
        asked = targets[:, names.index(name)]
        row, column = torch.where((asked >= 0) & (asked < count))
        out[row, first + asked[row, column]] = 1
    return out


def present_in_photographs(labels: Tensor) -> Tensor:
    """Class numbers [n] to [n, PRESENCE]."""
    import torch

    out = torch.zeros(len(labels), PRESENCE)
    out[torch.arange(len(labels)), PRESENCE - len(fashion.CLASSES) + labels] = 1
    return out


def learning_rate(progress: float, step: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def watch(model: nn.ModuleDict, work: Path, photographs: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Accuracy of the heads on pictures that are never trained on: share of patches, and of photographs."""
    import torch

    result = {}
    with np.load(work / "scenes_watch.npz") as stored, torch.no_grad():
        states = _in_parts(model["tower"], stored["pictures"])
        answers = model["patch"](states[:, 1:]).split(list(patches.TARGETS.values()), dim=-1)
        for place, (name, logits) in enumerate(zip(patches.TARGETS, answers, strict=True)):
            asked = torch.from_numpy(stored["targets"][:, place].astype(np.int64))
            chosen = asked != patches.IGNORED
            if name == "kind":
                chosen &= asked != patches.BACKGROUND_KIND
            result[name] = (logits.argmax(-1) == asked)[chosen].float().mean().item()
        states = _in_parts(model["tower"], np.repeat(photographs[0][..., None], 3, axis=-1))
        guess = model["photograph"](states[:, 1:].mean(1)).argmax(-1)
        result["photograph"] = (guess == torch.from_numpy(photographs[1].astype(np.int64))).float().mean().item()
    return {name: round(value, 4) for name, value in result.items()}


def _in_parts(tower: nn.Module, pictures: np.ndarray) -> Tensor:
    import torch

    return torch.cat([features(tower, normalise(pictures[i : i + 250])) for i in range(0, len(pictures), 250)])


def export(model: nn.ModuleDict, folder: Path) -> None:
    """Writes the tower as a folder that `--vision_tower` takes."""
    tower: Any = model["tower"]
    tower.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def one_step(model: nn.ModuleDict, batches: Batches, step: int, args: argparse.Namespace) -> Tensor:
    """Loss of one step."""
    import torch

    pixels, targets = batches.draw_scenes(step, args.scene_batch)
    seen = features(model["tower"], pixels)
    loss = scene_loss(model, seen, targets)
    pixels, labels = batches.draw_photographs(step, args.photograph_batch)
    photographed = features(model["tower"], pixels)
    loss = loss + photograph_loss(model, photographed, labels)
    read = zip(answers_of_scenes(targets), answers_of_photographs(labels), strict=True)
    wanted, weight = (torch.cat(part) for part in read)
    loss = loss + reading_loss(model, torch.cat([seen, photographed]), wanted, weight)
    if step % LAST_LAYER_EVERY == 0:
        last = presence_loss(model, seen, present_in_scenes(targets))
        loss = loss + last + presence_loss(model, photographed, present_in_photographs(labels))
    return loss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, default=Path("work/pocket"), help="folder of the parts (work/pocket)")
    parser.add_argument("--fashion", type=Path, metavar="DIR", help="Fashion-MNIST files (the installed package)")
    parser.add_argument("--steps", type=int, default=1500, help="training steps (1500)")
    parser.add_argument("--minutes", type=float, help="end the schedule after this time at the latest (no limit)")
    parser.add_argument("--scene-batch", type=int, default=192, help="scenes a step (192)")
    parser.add_argument("--photograph-batch", type=int, default=96, help="photographs a step (96)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak (0.002)")
    parser.add_argument("--warmup", type=int, default=100, help="steps (100)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (torch's choice)")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints (120)")


def main(args: argparse.Namespace) -> int:
    import torch

    from llava.train.setup.muon import MuonWithAdamW, parameter_groups

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    photographs = fashion.locate(args.work, args.fashion)
    batches = Batches(args.work, photographs, args.seed)
    pictures, labels = fashion.read(photographs, "train")
    watched = enlarged(pictures[-fashion.WATCHED :]), labels[-fashion.WATCHED :]

    model = build_model()
    optimizer = MuonWithAdamW(parameter_groups(model, weight_decay=0.03), lr=args.learning_rate)
    step, spent = load_state(args.work / "tower.pt", model, optimizer)
    if step:
        print(f"resumed at step {step}", flush=True)
    _train(model, optimizer, batches, watched, args, step, spent)
    export(model, args.work / "tower")
    print(f"wrote {args.work / 'tower'}")
    return 0


def _train(
    model: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    watched: tuple[np.ndarray, np.ndarray],
    args: argparse.Namespace,
    step: int,
    spent: float,
) -> None:
    import torch

    start, saved, mean = time.monotonic() - spent, time.monotonic(), 0.0
    while True:
        spent = time.monotonic() - start
        progress = max(step / args.steps, spent / (60 * args.minutes) if args.minutes else 0.0)
        done = progress >= 1
        if done or time.monotonic() - saved > args.save_every:
            saved = time.monotonic()
            save_state(args.work / "tower.pt", model, optimizer, step, spent)
            print(
                json.dumps({"step": step, "minutes": round(spent / 60, 1), **watch(model, args.work, watched)}),
                flush=True,
            )
        if done:
            return
        loss = one_step(model, batches, step, args)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, step, args.learning_rate, args.warmup)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        step += 1
        if step % 50 == 0:
            left = spent * (1 / max(progress, 1e-6) - 1) / 60
            rate = step * (args.scene_batch + args.photograph_batch) / max(spent, 1e-6)
            print(f"step {step}, loss {mean:.3f}, {rate:.0f} pictures/s, {left:.0f} min left", flush=True)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
