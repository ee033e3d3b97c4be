"""Asks OpenAI's moderation about a message before it is answered (`--moderate`)."""

from __future__ import annotations

from llava.errors import InvalidRequest, LlavaError


class MessageFlagged(LlavaError):
    """A message that moderation does not let through."""

    code, status = "message_flagged", 400


class Moderator:
    """Reads OPENAI_API_KEY, and OPENAI_BASE_URL for a service of one's own."""

    def __init__(self) -> None:
        """
        Raises:
            InvalidRequest: there is no key.
        """
        import openai

        try:
            self._client = openai.AsyncOpenAI(timeout=20.0)
        except openai.OpenAIError as error:
            raise InvalidRequest("--moderate asks OpenAI's moderation: set OPENAI_API_KEY, or leave it out.") from error

    async def check(self, text: str) -> None:
        """
        Raises:
            MessageFlagged: it was flagged, or could not be asked about: nothing passes unseen.
        """
        import openai

        if not text.strip():
            return
        try:
            reply = await self._client.moderations.create(input=text)
        except openai.OpenAIError as error:
            raise MessageFlagged("the message could not be checked now, and was not sent. Try again later.") from error
        if any(result.flagged for result in reply.results):
            raise MessageFlagged("this message breaks the rules of this page, and was not sent. Write another one.")
