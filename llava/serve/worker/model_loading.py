"""Loads a model to serve or to chat with, and starts its engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava.model.loading.arguments import ModelSettings
    from llava.serve.worker.engine_backend import LoadedModel


def load_model(settings: ModelSettings, folder: Path) -> LoadedModel:
    """Loads the model in `folder` and starts an engine for it, which takes minutes for a large model.

    Raises:
        LlavaError: the folder, the device or the settings do not allow it.
    """
    from llava.engine import Engine, Request
    from llava.serve.worker.engine_backend import LoadedModel

    tokenizer, model, image_processor, context_length = settings.load(folder)
    engine = Engine(model, tokenizer, image_processor, context_length)
    return LoadedModel(engine, model.config, Request)
