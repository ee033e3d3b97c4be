"""Asks one model of an OpenAI-compatible service, and sorts its failures by what they mean for a run.

The client itself repeats a call after HTTP 408, 409, 429 and 5xx and after lost connections, and waits as long as
Retry-After says, up to two minutes. What fails in spite of that either stops the whole run or concerns one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from llava.errors import InvalidRequest, LlavaError, RemoteError, TryAgain, WorkerTimeout
from llava.eval.judge.settings import JudgeSettings
from llava.serve.client.openai_client import OpenAIClient, ProtocolError, TokenUsage, openai_service

Messages = list[dict[str, str]]


class ServiceRefuses(LlavaError):
    """The service would refuse every call: a wrong key, no access, no such model or address."""

    code, status = "judge_refuses", 502


class ServiceBusy(TryAgain):
    """The service accepts no more calls for longer than it makes sense to wait."""

    code, status = "judge_busy", 503


class CallFailed(LlavaError):
    """One call got no reply after all retries; another call may succeed."""

    code, status = "judge_call_failed", 502


class NoConnection(CallFailed):
    """The service cannot be reached."""

    code, status = "judge_unreachable", 502


class CallRefused(CallFailed):
    """The service answers, but refuses this request; `field` is the part of the request at fault, if it is known."""

    code, status = "judge_call_refused", 502

    def __init__(self, message: str, *, field: str | None = None):
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """What the model wrote, and which model it was."""

    text: str
    """Empty if the model refused or wrote nothing."""
    snapshot: str | None
    """The model's full name, if the service reports it."""
    fingerprint: str | None
    """The service's `system_fingerprint`, if it reports one."""
    finish_reason: str | None
    refusal: str | None
    usage: TokenUsage | None
    """None if the service does not report it."""


class ChatModel:
    """A model of a service; an async context manager."""

    def __init__(self, settings: JudgeSettings, response_format: dict[str, Any] | None = None):
        """
        Args:
            response_format: requested from the service unless `settings.reply_format` is `text`.

        Raises:
            InvalidRequest: the address is not a URL, or there is no key for OpenAI's own service.
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
        """The service's address, without any user name or password in it."""
        parts = urlsplit(self.client.base_url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"

    def body(self, messages: Messages) -> dict[str, Any]:
        """Returns the request, as JSON."""
        body: dict[str, Any] = {"model": self.settings.judge_model, "messages": messages}
        body[self._limit_field] = self.settings.max_tokens
        if self.settings.temperature is not None:
            body["temperature"] = self.settings.temperature
        if self._schema is not None:
            body["response_format"] = self._schema
        return body

    async def ask(self, messages: Messages) -> JudgeReply:
        """Asks once; asks again without a part of the request that the service does not know.

        Raises:
            ServiceRefuses, ServiceBusy: every other call would end in the same way.
            CallFailed: there is no reply to this call.
        """
        while True:
            body = self.body(messages)
            try:
                return as_reply(await self.client.post("/chat/completions", json=body))
            except CallFailed:
                raise
            except LlavaError as error:
                failure = judge_error(error, self.settings)
                if not (isinstance(failure, CallRefused) and self._can_do_without(failure, body)):
                    raise failure from error

    def _can_do_without(self, error: CallRefused, body: dict[str, Any]) -> bool:
        """Whether the request was changed after this refusal, or after that of another call."""
        if "response_format" in body and error.field == "response_format" and self.settings.reply_format == "auto":
            self._schema = None
            return True
        if "max_completion_tokens" in body and error.field == "max_completion_tokens":
            self._limit_field = "max_tokens"
            return True
        return False


def as_reply(completion: Any) -> JudgeReply:
    """Reads the first choice of a completion.

    Raises:
        CallFailed: `completion` is not a completion, or has no choice.
    """
    if not isinstance(completion, dict):
        raise CallFailed(f"the reply does not follow the protocol: {str(completion)[:80]!r}")
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise CallFailed("the completion has no choices")
    return JudgeReply(
        text=_text(message, "content") or "",
        snapshot=_text(completion, "model"),
        fingerprint=_text(completion, "system_fingerprint"),
        finish_reason=_text(choice, "finish_reason"),
        refusal=_text(message, "refusal"),
        usage=TokenUsage.read(completion.get("usage")),
    )


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value else None


def judge_error(error: LlavaError, settings: JudgeSettings) -> LlavaError:
    """Returns what an error of the client means for a run."""
    if isinstance(error, RemoteError):
        return _refusal(error, settings)
    if isinstance(error, WorkerTimeout):
        return CallFailed(f"no reply within {settings.timeout_s:g} s (--timeout)")
    if isinstance(error, ProtocolError):
        return CallFailed(f"the reply does not follow the protocol: {error.excerpt!r}")
    return NoConnection(f"no connection to the service ({str(error).rstrip('.')})")


def _refusal(error: RemoteError, settings: JudgeSettings) -> LlavaError:
    message = " ".join(str(error).split())[:300]
    reported = f"HTTP {error.status}: {message}"
    remedies = {
        401: "Set OPENAI_API_KEY to a valid key.",
        403: "The key has no access to this.",
        404: f"Check --judge-model {settings.judge_model} and --base-url.",
    }
    if error.status in remedies:
        return ServiceRefuses(f"the service refuses every call ({reported}). {remedies[error.status]}")
    if error.code == "insufficient_quota":
        return ServiceRefuses(f"the service refuses every call ({reported}). The account has nothing left to spend.")
    if error.status == 429:
        when = f" for {error.retry_after_s:g} s" if error.retry_after_s else ""
        return ServiceBusy(f"the service accepts no more calls{when} ({reported}).")
    if 400 <= error.status < 500 and error.status not in (408, 409):
        return CallRefused(reported, field=_field(f"{error.param or ''} {message}"))
    return CallFailed(reported)


def _field(report: str) -> str | None:
    """The part of the request that an error is about; not every service names it in `param`."""
    names = {"response_format": ("response_format", "json_schema"), "max_completion_tokens": ("max_completion_tokens",)}
    return next((name for name, words in names.items() if any(word in report for word in words)), None)


def _client(settings: JudgeSettings) -> OpenAIClient:
    if settings.base_url is not None and not settings.base_url.startswith(("http://", "https://")):
        raise InvalidRequest(
            f"--base-url {settings.base_url}: must begin with http:// or https://, such as http://host:8000/v1."
        )
    return openai_service(
        settings.base_url,
        timeout_s=settings.timeout_s,
        max_retries=settings.max_retries,
        missing_key="OPENAI_API_KEY is not set. Set it to a key for OpenAI, or name another service with --base-url.",
    )
