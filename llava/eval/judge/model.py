"""One model of an OpenAI-compatible service, asked through the `openai` client.

The client itself repeats a call after HTTP 408, 409, 429 and 5xx and after lost connections, and waits as long as
Retry-After says, up to two minutes. What is left is sorted here: what stops a whole run, and what concerns one call.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llava.errors import InvalidRequest, LlavaError, TryAgain
from llava.eval.judge.settings import JudgeSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Messages = list[dict[str, str]]


class ServiceRefuses(LlavaError):
    """The service will refuse every call: a wrong key, no access, no such model or address."""

    code, status = "judge_refuses", 502


class ServiceBusy(TryAgain):
    """The service takes no more calls for longer than it makes sense to wait."""

    code, status = "judge_busy", 503


class CallFailed(LlavaError):
    """One call without a reply, after all repeats; another one may succeed."""

    code, status = "judge_call_failed", 502


class NoConnection(CallFailed):
    """The service cannot be reached."""

    code, status = "judge_unreachable", 502


class CallRefused(CallFailed):
    """The service answers, but refuses this request; `field` is the part of the request that it names, if any."""

    code, status = "judge_call_refused", 502

    def __init__(self, message: str, *, field: str | None = None):
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the service counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote, and who it was."""

    text: str
    """Empty where the model refused or wrote nothing."""
    snapshot: str | None
    """The model's full name, if the service gives it."""
    fingerprint: str | None
    finish_reason: str | None
    refusal: str | None
    usage: Usage | None
    """None where the service does not say."""


class ChatModel:
    """A model; an async context manager."""

    def __init__(self, settings: JudgeSettings, response_format: dict[str, Any] | None = None):
        """`response_format` is asked for unless `settings.reply_format` is `text`.

        Raises:
            InvalidRequest: there is no key for OpenAI's own service.
        """
        self.settings = settings
        self._schema = None if settings.reply_format == "text" else response_format
        self._limit_field = "max_completion_tokens"
        self.client = _client(settings)

    async def __aenter__(self) -> ChatModel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    @property
    def endpoint(self) -> str:
        """The service's address, without any name or password in it."""
        parts = urlsplit(str(self.client.base_url))
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}"

    def body(self, messages: Messages) -> dict[str, Any]:
        """The request, as JSON."""
        body: dict[str, Any] = {"model": self.settings.judge_model, "messages": messages}
        body[self._limit_field] = self.settings.max_tokens
        if self.settings.temperature is not None:
            body["temperature"] = self.settings.temperature
        if self._schema is not None:
            body["response_format"] = self._schema
        return body

    async def ask(self, messages: Messages) -> Reply:
        """Asks once, and again where the service has said that it does not know a part of the request.

        Raises:
            ServiceRefuses, ServiceBusy: asking anything else would end in the same way.
            CallFailed: there is no reply to this.
        """
        while True:
            body = self.body(messages)
            try:
                return await self._call(body)
            except CallRefused as error:
                if not self._can_do_without(error, body):
                    raise

    async def _call(self, body: dict[str, Any]) -> Reply:
        import openai

        try:
            return as_reply(await self.client.chat.completions.create(**body))
        except openai.OpenAIError as error:
            raise sorted_error(error, self.settings) from error
        except ValueError as error:  # JSON that is none
            raise CallFailed(f"a reply that is not of the protocol ({error})") from error

    def _can_do_without(self, error: CallRefused, body: dict[str, Any]) -> bool:
        """Whether the request has changed since, by this or by another call that was refused."""
        if "response_format" in body and error.field == "response_format" and self.settings.reply_format == "auto":
            self._schema = None
            return True
        if "max_completion_tokens" in body and error.field == "max_completion_tokens":
            self._limit_field = "max_tokens"
            return True
        return False


def as_reply(completion: Any) -> Reply:
    """The first choice of a completion; the client does not check what services send.

    Raises:
        CallFailed: it is none, or has no choice.
    """
    from openai.types.chat import ChatCompletion

    if not isinstance(completion, ChatCompletion):
        raise CallFailed(f"a reply that is not of the protocol: {str(completion)[:80]!r}")
    message = completion.choices[0].message if completion.choices else None
    if message is None:
        raise CallFailed("a completion without choices")
    return Reply(
        text=message.content or "",
        snapshot=completion.model or None,
        fingerprint=completion.system_fingerprint,
        finish_reason=completion.choices[0].finish_reason,
        refusal=message.refusal,
        usage=_usage(completion.usage),
    )


def _usage(usage: Any) -> Usage | None:
    read, written = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(read, written) if isinstance(read, int) and isinstance(written, int) else None


def sorted_error(error: Exception, settings: JudgeSettings) -> LlavaError:
    """What an error of the client means for a run."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _status_error(error, settings)
    if isinstance(error, openai.APITimeoutError):
        return CallFailed(f"no reply within {settings.timeout_s:g} s (--timeout)")
    if isinstance(error, openai.APIConnectionError):
        return NoConnection(f"no connection to the service ({error.__cause__ or error})")
    return CallFailed(f"a reply that is not of the protocol ({error})")


def _status_error(error: Any, settings: JudgeSettings) -> LlavaError:
    said = f"HTTP {error.status_code}: {_message(error)}"
    remedies = {
        401: "Set OPENAI_API_KEY to a valid key.",
        403: "The key has no access to this.",
        404: f"Check --judge-model {settings.judge_model} and --base-url.",
    }
    if error.status_code in remedies:
        return ServiceRefuses(f"the service refuses every call ({said}). {remedies[error.status_code]}")
    if error.code == "insufficient_quota":
        return ServiceRefuses(f"the service refuses every call ({said}). The account has nothing left to spend.")
    if error.status_code == 429:
        wait = error.response.headers.get("retry-after")
        when = f" for {wait} s" if wait and wait.isdigit() else ""
        return ServiceBusy(f"the service takes no more calls{when} ({said}).")
    if 400 <= error.status_code < 500 and error.status_code not in (408, 409):
        return CallRefused(said, field=_field(error))
    return CallFailed(said)


def _message(error: Any) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error.message).split())[:300]


def _field(error: Any) -> str | None:
    """The part of the request that an error is about; services that do not name it in `param` do so in words."""
    said = f"{error.param or ''} {_message(error)}"
    names = {"response_format": ("response_format", "json_schema"), "max_completion_tokens": ("max_completion_tokens",)}
    return next((name for name, words in names.items() if any(word in said for word in words)), None)


def _client(settings: JudgeSettings) -> AsyncOpenAI:
    import openai

    base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or None
    key = os.environ.get("OPENAI_API_KEY") or None
    if key is None and base_url is None:
        raise InvalidRequest("OPENAI_API_KEY is not set: it holds the key for OpenAI, or give --base-url.")
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise InvalidRequest(
            f"--base-url {base_url}: must begin with http:// or https://, such as http://host:8000/v1."
        )
    return openai.AsyncOpenAI(
        base_url=base_url, api_key=key or "none", max_retries=settings.max_retries, timeout=settings.timeout_s
    )
