"""Trains the vision tower, a CLIPVisionModel, on generated scenes and Fashion-MNIST photographs.

LLaVA reads the patches of the second-to-last layer, so these are trained. Each patch of a scene predicts the kind,
colour, size and position of its object, the background and the number of objects; the patches of a photograph together
predict the class of clothing. Each patch also predicts all its answers as ones among zeros, with a squared error,
because the projector is initialised by least squares. The last layer's class token predicts which objects are present.
The prediction heads are linear because the projector is linear, and are thrown away after training.
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
from scripts.pocket.folders import add_fashion, add_work
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
"""Number of answers to all questions about a patch."""
READING_WEIGHT, KIND_WEIGHT = 2.0, 4.0
"""Weights of the squared error, and of the kinds in it: with so many kinds, always predicting 0 would cost little."""
PRESENCE = len(scenes.KINDS) + len(scenes.COLOURS) + len(fashion.CLASSES)
"""Number of kinds, colours and classes that can be present in an image."""
LAST_LAYER_EVERY = 4
"""Steps between training steps of the last layer, which is not part of LLaVA's features."""


def build_model() -> nn.ModuleDict:
    """Creates the tower and the heads that are thrown away after training."""
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
    """Returns the output of the second-to-last layer with its class token, [n, 1 + patches, width]."""
    states = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        states = layer(states, None)
    return states


def normalise(pictures: np.ndarray) -> Tensor:
    """Turns bytes, [n, h, w, 3], into the output of the image processor, [n, 3, h, w] float32."""
    import torch

    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    return pixels.mul_(1 / 255).sub_(MEAN).div_(STD).contiguous()


class Batches:
    """Draws scenes and photographs that depend only on the number of the step, so that a resumed run is exact."""

    def __init__(self, work: Path, photographs: Path, seed: int):
        self.seed = seed
        with np.load(work / "scenes.npz") as stored:
            self.scenes, self.targets = stored["pictures"], stored["targets"]
        pictures, labels = fashion.read(photographs, "train")
        self.photographs, self.labels = enlarged(pictures[: -fashion.WATCHED]), labels[: -fashion.WATCHED]

    def draw_scenes(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Returns pixels, [n, 3, side, side], and targets, [n, questions, patches]."""
        import torch

        rng = np.random.default_rng((self.seed, step, 0))
        chosen = np.sort(rng.choice(len(self.scenes), count, replace=False))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        pixels = _vary_scenes(normalise(self.scenes[chosen]), generator)
        return pixels, torch.from_numpy(self.targets[chosen].astype(np.int64))

    def draw_photographs(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Returns pixels, [n, 3, side, side], and classes, [n]."""
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
    """Enlarges grey photographs, [n, 28, 28], to [n, 66, 66] bytes, as the image processor does."""
    out = np.empty((len(pictures), scenes.SIDE, scenes.SIDE), dtype=np.uint8)
    for index, pixels in enumerate(pictures):
        out[index] = np.asarray(fashion.picture(pixels, scenes.SIDE))[..., 0]
    return out


def _vary_scenes(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Moves each image by up to 1.5 pixels, repeating the border, and slightly changes its brightness."""
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
    """Slightly moves and scales half of the images, and changes the brightness of all."""
    import torch
    from torch.nn import functional

    count = len(pixels)
    half = count // 2
    scale = 1 + 0.12 * (torch.rand(half, 2, generator=generator) * 2 - 1)
    move = 0.12 * (torch.rand(half, 2, generator=generator) * 2 - 1)
    theta = torch.zeros(half, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], move
    grid = functional.affine_grid(theta, [half, 3, scenes.SIDE, scenes.SIDE], align_corners=False)
    # The background of the photographs is black: -1 after normalisation, but 0 outside the grid.
    moved = functional.grid_sample(pixels[:half] + 1, grid, align_corners=False) - 1
    pixels = torch.cat([moved, pixels[half:]])
    light = 1 + 0.2 * (torch.rand(count, 1, 1, 1, generator=generator) * 2 - 1)
    return ((pixels + 1) * light).clamp_(0, 2) - 1


def scene_loss(model: nn.ModuleDict, states: Tensor, targets: Tensor) -> Tensor:
    """Returns the weighted loss over the questions about each patch."""
    import torch
    from torch.nn import functional

    answers = model["patch"](states[:, 1:]).split(list(patches.TARGETS.values()), dim=-1)
    total = torch.zeros(())
    for place, (name, logits) in enumerate(zip(patches.TARGETS, answers, strict=True)):
        asked = targets[:, place]
        chosen = asked != patches.IGNORED
        loss = functional.cross_entropy(logits[chosen], asked[chosen], reduction="none")
        if name == "kind":
            # Most patches are background, and should not outweigh the objects.
            weight = torch.where(asked[chosen] == patches.BACKGROUND_KIND, 0.15, 1.0)
            total = total + WEIGHTS[name] * (loss * weight).sum() / weight.sum()
        else:
            total = total + WEIGHTS[name] * loss.mean()
    return total


def photograph_loss(model: nn.ModuleDict, states: Tensor, labels: Tensor) -> Tensor:
    """Returns the loss of the class, predicted by all patches together and by each, and of being a photograph."""
    import torch
    from torch.nn import functional

    logits = model["photograph"](states[:, 1:])
    together = functional.cross_entropy(logits.mean(1), labels, label_smoothing=0.05)
    alone = functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))
    kinds = model["patch"](states[:, 1:])[..., : patches.TARGETS["kind"]].flatten(0, 1)
    photograph = functional.cross_entropy(kinds, torch.full((len(kinds),), patches.PHOTOGRAPH_KIND))
    return 1.5 * together + 0.3 * alone + 0.3 * photograph


def reading_loss(model: nn.ModuleDict, states: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Returns the squared error of all answers of each patch.

    Args:
        wanted: 1 for each correct answer and 0 for all others, [n, patches, ANSWERS + classes of clothing].
        weight: weight of each patch, [n, patches].
    """
    error = (model["reading"](states[:, 1:]) - wanted).square()
    each = error.sum(-1) + (KIND_WEIGHT - 1) * error[..., : patches.TARGETS["kind"]].sum(-1)
    return READING_WEIGHT * (each * weight).sum() / weight.sum()


def answers_of_scenes(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Turns targets, [n, questions, patches], into 0 and 1, [n, patches, ANSWERS + classes], and patch weights."""
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
    """Turns classes, [n], into the same tensors; each patch predicts that it is a photograph, and its class."""
    import torch

    num_patches = patches.GRID**2
    wanted = torch.zeros(len(labels), ANSWERS + len(fashion.CLASSES))
    wanted[:, patches.PHOTOGRAPH_KIND] = 1
    wanted[torch.arange(len(labels)), ANSWERS + labels] = 1
    return wanted[:, None].expand(-1, num_patches, -1), torch.full((len(labels), num_patches), 0.2)


def presence_loss(model: nn.ModuleDict, states: Tensor, present: Tensor) -> Tensor:
    """Returns the loss of the last layer's class token, which predicts what is present in the image."""
    from torch.nn import functional

    tower: Any = model["tower"]
    pooled = tower.post_layernorm(tower.encoder.layers[-1](states, None)[:, 0])
    return functional.binary_cross_entropy_with_logits(model["presence"](pooled), present)


def present_in_scenes(targets: Tensor) -> Tensor:
    """Turns targets, [n, questions, patches], into 0 and 1, [n, PRESENCE]."""
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
    """Turns classes, [n], into 0 and 1, [n, PRESENCE]."""
    import torch

    out = torch.zeros(len(labels), PRESENCE)
    out[torch.arange(len(labels)), PRESENCE - len(fashion.CLASSES) + labels] = 1
    return out


def learning_rate(progress: float, step: int, peak: float, warmup: int) -> float:
    """Returns the learning rate: linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def watch(model: nn.ModuleDict, work: Path, photographs: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Returns the accuracy on images that are never trained on: fractions of patches and of photographs."""
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
    """Writes the tower as a folder for `--vision_tower`."""
    tower: Any = model["tower"]
    tower.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def one_step(model: nn.ModuleDict, batches: Batches, step: int, args: argparse.Namespace) -> Tensor:
    """Returns the loss of one step."""
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
    add_work(parser)
    add_fashion(parser)
    parser.add_argument("--steps", type=int, default=1500, metavar="N", help="Training steps (default: 1500).")
    parser.add_argument(
        "--minutes", type=float, metavar="MINUTES", help="Time limit of the training schedule (default: none)."
    )
    parser.add_argument("--scene-batch", type=int, default=192, metavar="N", help="Scenes per step (default: 192).")
    parser.add_argument(
        "--photograph-batch", type=int, default=96, metavar="N", help="Photographs per step (default: 96)."
    )
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, metavar="X", help="Peak learning rate (default: 0.002)."
    )
    parser.add_argument("--warmup", type=int, default=100, metavar="N", help="Warm-up steps (default: 100).")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of weights and batches (default: 0).")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="Number of torch threads (default: torch's choice)."
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=120,
        metavar="SECONDS",
        help="Time between checkpoints in seconds (default: 120).",
    )


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
