"""Generates text: batched, streamed and cancellable. See `llava.engine.engine.Engine`."""

from llava.engine.engine import Engine
from llava.engine.request import Request
from llava.engine.settings import BatchSettings, EngineSettings, EngineStats
from llava.text_generation.answer_events import Answer, Piece
from llava.text_generation.settings import Sampling

__all__ = ["Answer", "BatchSettings", "Engine", "EngineSettings", "EngineStats", "Piece", "Request", "Sampling"]
