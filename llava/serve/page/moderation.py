"""Asks OpenAI's moderation about a message before it is answered (`--moderate`)."""

from __future__ import annotations

from llava.errors import LlavaError
from llava.serve.client.openai_client import openai_service

_TIMEOUT_S = 20.0
_MAX_RETRIES = 2


class MessageFlagged(LlavaError):
    """A message that moderation flagged, or could not check."""

    code, status = "message_flagged", 400


class Moderator:
    """Asks OpenAI with the key in OPENAI_API_KEY, or the compatible service in OPENAI_BASE_URL."""

    def __init__(self) -> None:
        """
        Raises:
            InvalidRequest: there is no key.
        """
        missing_key = "--moderate asks OpenAI's moderation: set OPENAI_API_KEY, or leave it out."
        self._client = openai_service(timeout_s=_TIMEOUT_S, max_retries=_MAX_RETRIES, missing_key=missing_key)

    async def check(self, text: str) -> None:
        """Checks a message.

        Raises:
            MessageFlagged: the message was flagged, or could not be checked; no message passes unchecked.
        """
        if not text.strip():
            return
        try:
            reply = await self._client.post("/moderations", json={"input": text})
            is_flagged = any(result["flagged"] for result in reply["results"])
        except (LlavaError, KeyError, TypeError) as error:
            raise MessageFlagged("the message could not be checked and was not sent. Try again later.") from error
        if is_flagged:
            raise MessageFlagged("the message breaks the rules of this page and was not sent. Write a different one.")
