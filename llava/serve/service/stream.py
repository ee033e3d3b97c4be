"""Streams a response whose generator is always closed when the response ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Stream(StreamingResponse):
    """A streaming response that closes its generator as soon as the client disconnects.

    Starlette only stops iterating. The generator's `finally` blocks, which return permits and stop the model, would
    then run whenever the garbage collector gets to them.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        *,
        on_close: Callable[[], Awaitable[None]] | None = None,
        **arguments: Any,
    ):
        """
        Args:
            content: the body, piece by piece.
            on_close: is awaited at the end in any case. The generator's own `finally` blocks do not run if the client
                disconnects before the generator has started.
            arguments: passed to `StreamingResponse`.
        """
        super().__init__(content, **arguments)
        self._generator = content
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.stream_response(send))
        disconnect = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A cancel scope would cancel again and again; the generator's clean-up may have to await something.
            sending.cancel()
            disconnect.cancel()
            await asyncio.wait({sending, disconnect})
            await self._generator.aclose()
            if self._on_close is not None:
                await self._on_close()
        if not sending.cancelled():
            sending.result()
