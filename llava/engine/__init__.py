"""The one way to generate: batched, streamed, cancelled. See `llava.engine.engine.Engine`."""

from llava.engine.batcher import BatchSettings
from llava.engine.engine import Engine, EngineSettings, EngineStats
from llava.engine.request import Request
from llava.text_generation.settings import Answer, Piece, Sampling

__all__ = ["Answer", "BatchSettings", "Engine", "EngineSettings", "EngineStats", "Piece", "Request", "Sampling"]
