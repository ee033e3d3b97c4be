"""What the two tasks of this folder ask of a document. lmms-eval imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[3]


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    with Image.open(REPOSITORY / doc["image"]) as image:
        return [image.convert("RGB")]


def doc_to_target(doc: dict[str, Any]) -> int:
    return doc["choices"].index(doc["answer"])


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """An answer is right if it holds the word."""
    return {"accuracy": float(doc["answer"] in results[0].lower())}
