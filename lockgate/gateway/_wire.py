"""Response bodies in OpenAI's shapes: chunks, completions, usage."""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from lockgate.gateway._events import Finished, ReleasedToken

_encoder = msgspec.json.Encoder()
DONE = b"data: [DONE]\n\n"


def completion_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


def sse(event: object) -> bytes:
    """Encode one server-sent event."""
    return b"data: " + _encoder.encode(event) + b"\n\n"


def chunk(
    base: dict[str, Any],
    index: int,
    delta: dict[str, Any],
    *,
    finish_reason: str | None = None,
    tokens: Sequence[ReleasedToken] | None = None,
) -> dict[str, Any]:
    """Build a `chat.completion.chunk` with one choice. `tokens` adds their log-probabilities."""
    logprobs = (
        None if tokens is None else {"content": [logprob_entry(token) for token in tokens], "refusal": None}
    )
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return {**base, "object": "chat.completion.chunk", "choices": [choice]}


def usage_chunk(base: dict[str, Any], prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        **base,
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": usage(prompt_tokens, completion_tokens),
    }


def completion(base: dict[str, Any], choices: list[dict[str, Any]], use: dict[str, int]) -> dict[str, Any]:
    return {**base, "object": "chat.completion", "choices": choices, "usage": use}


def completion_choice(
    finished: Finished, text: str, tokens: Sequence[ReleasedToken] | None
) -> dict[str, Any]:
    """Build a choice of a non-streamed answer. A halted one has no content, not even cleared text."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if finished.refusal is not None:
        message.update(content=None, refusal=finished.refusal)
        tokens = None if tokens is None else ()
    logprobs = (
        None if tokens is None else {"content": [logprob_entry(token) for token in tokens], "refusal": None}
    )
    return {
        "index": finished.choice,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finished.reason,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def logprob_entry(token: ReleasedToken) -> dict[str, Any]:
    # OpenAI sends -9999 for a token without a number.
    logprob = -9999.0 if token.logprob is None else token.logprob
    return {"token": token.text, "logprob": logprob, "bytes": list(token.text.encode()), "top_logprobs": []}


def risk_tokens(
    tokens: Sequence[ReleasedToken], threshold: float | None, *, escalates: bool
) -> dict[str, Any]:
    """Build the playground's private extension of a chunk. Other clients never get it.

    `escalates` says that a score above the threshold asks the second stage instead of flagging.
    """
    return {
        "tokens": [{"text": token.text, "score": token.score} for token in tokens],
        "threshold": threshold,
        "line": "escalation" if escalates else "flag",
    }


def risk_outcome(finished: Finished) -> dict[str, Any]:
    """Describe the end of a choice for the playground."""
    return {
        "decision": finished.decision,
        "enforced": finished.enforced,
        "category": finished.category,
        "max_prompt": finished.max_prompt,
        "max_answer": finished.max_answer,
        "threshold": finished.threshold,
    }
