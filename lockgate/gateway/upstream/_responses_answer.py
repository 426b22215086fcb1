"""One answer of `/v1/responses` as it passes.

Its events repeat texts: a `done` event holds what the deltas before it have said, and the last event holds
the whole answer. Text that was said before needs no second reading, because events leave in order. Any other
text is scored.
"""

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lockgate.gateway import _wire as wire
from lockgate.gateway._errors import ApiError
from lockgate.gateway.upstream._dialect import Piece, Stopped
from lockgate.gateway.upstream._script import LONGEST_NAME, AnswerScript, repeats, text_of
from lockgate.gateway.upstream._wrong import decoded, malformed, upstream_fault

_ENDS = {"response.completed": "stop", "response.incomplete": "length"}
_DELTAS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
# Fields that hold no text: names, and what is sealed.
_PLAIN = frozenset(
    {
        *("type", "id", "object", "status", "role", "model", "call_id", "item_id", "detail"),
        *("obfuscation", "encrypted_content"),
    }
)
# Fields of a response that repeat what the request has said. Elsewhere they may hold the answer's text.
_REQUESTED = frozenset(
    {
        *("instructions", "metadata", "tools", "tool_choice", "truncation", "previous_response_id", "usage"),
        *("safety_identifier", "prompt_cache_key", "incomplete_details", "service_tier", "user", "reasoning"),
        *("prompt_cache_retention", "input", "conversation", "prompt"),
    }
)
# Where an event holds a response. A body that is not streamed is one.
_RESPONSE, _BODY = ".response", ""


class ResponsesTranscript:
    """A response as it passes. A halt ends it as incomplete, with a refusal as its only new part."""

    def __init__(self, model: str) -> None:
        self._script = AnswerScript()
        self._said: dict[str, str] = {}  # the text of each part so far
        self._sequence = -1  # number of the newest event that has left
        self._items = 0  # items whose head has left
        self._started = False
        self._base: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
        }
        self.over = False

    def read(self, event: str, data: str) -> Sequence[Piece]:
        """See `Transcript.read`."""
        if data.strip() == "[DONE]":
            self.over = True
            return ()
        body = decoded(data)
        kind = body.get("type")
        if not isinstance(kind, str) or kind in ("error", "response.failed"):
            raise upstream_fault()
        if isinstance(response := body.get("response"), dict):
            self._base.update({key: response[key] for key in self._base if response.get(key) is not None})
        text = self._begun_call(body) if kind == "response.output_item.added" else ""
        text += self._delta(kind, body) if kind.endswith(".delta") else self._rest(body)
        self.over = kind in _ENDS
        mark = json.dumps([kind, body.get("sequence_number"), body.get("output_index")])
        return (Piece(0, text, _sse(kind, body), _ENDS.get(kind), mark),)

    def left(self, piece: Piece) -> None:
        """See `Transcript.left`."""
        kind, sequence, output = json.loads(piece.mark)
        self._started = True
        if isinstance(sequence, int):
            self._sequence = sequence
        if kind == "response.output_item.added" and isinstance(output, int):
            self._items = max(self._items, output + 1)

    def leave(self, choice: int) -> str:
        """See `Transcript.leave`."""
        return self._script.end()

    def halt(self, choice: int, stopped: Stopped) -> bytes:
        """See `Transcript.halt`."""
        return b"".join(self._halting(stopped))

    def close(self, stopped: Stopped | None) -> bytes:
        """See `Transcript.close`."""
        return b""

    def fail(self, error: ApiError) -> bytes:
        """See `Transcript.fail`."""
        return self._event("error", code=error.code, message=error.message, param=None)

    def read_whole(self, body: dict[str, Any]) -> Sequence[tuple[int, str]]:
        """See `Transcript.read_whole`."""
        if body.get("error") is not None or body.get("status") == "failed":
            raise upstream_fault()
        if not isinstance(body.get("output"), list):
            raise malformed()
        calls = [{"item": item, "output_index": place} for place, item in enumerate(body["output"])]
        return [(0, "".join(map(self._begun_call, calls)) + self._rest(body, _BODY))]

    def stop_whole(self, body: dict[str, Any] | None, stopped: dict[int, Stopped]) -> dict[str, Any]:
        """See `Transcript.stop_whole`."""
        whole = self._stopped(stopped[0], _refusal(stopped[0].refusal))
        if body is None:
            return whole
        kept = {key: body[key] for key in body if not any(_texts({key: body[key]}, "", _BODY))}
        return {**kept, **{key: whole[key] for key in ("status", "incomplete_details", "output")}}

    def _begun_call(self, body: Mapping[str, Any]) -> str:
        """Return the head of a tool call, in the form in which files hold it."""
        item = body.get("item")
        if not isinstance(item, dict) or item.get("type") not in ("function_call", "custom_tool_call"):
            return ""
        name, given = text_of(item.get("name")), text_of(item.get("arguments") or item.get("input"))
        self._said[f"name {len(self._said)}"] = name
        self._said[f"given {len(self._said)}"] = given
        return self._script.call(body.get("output_index"), text_of(item.get("call_id")), name, given)

    def _delta(self, kind: str, body: Mapping[str, Any]) -> str:
        delta = body.get("delta")
        if not isinstance(delta, str):
            return self._rest(body)
        place = [str(body.get(key)) for key in ("output_index", "content_index", "summary_index")]
        name = " ".join([kind, *place])
        self._said[name] = self._said.get(name, "") + delta
        told = ("delta", "logprobs") if repeats(body.get("logprobs"), delta) else ("delta",)
        rest = self._rest({key: value for key, value in body.items() if key not in told})
        if kind in _DELTAS:
            return self._script.call(body.get("output_index"), arguments=delta) + rest
        channel = "content" if kind == "response.output_text.delta" else kind
        return self._script.text(channel, delta) + rest

    def _rest(self, body: Mapping[str, Any], response: str = _RESPONSE) -> str:
        """Return the text of an event or body that was not said before.

        Args:
            response: the path of the response in it.
        """
        known = set(self._said.values())
        made = ""
        for place, text in _texts(body, "", response):
            if text not in known:
                known.add(text)
                self._said[f"said {place} {len(self._said)}"] = text
                made += self._script.text(place.rpartition(".")[2], text)
        return made

    def _halting(self, stopped: Stopped) -> Iterator[bytes]:
        output = self._items
        item = _refusal(stopped.refusal)
        if not self._started:
            yield self._event(
                "response.created", response={**self._base, "status": "in_progress", "output": []}
            )
        at = {"output_index": output}
        part = {**at, "item_id": item["id"], "content_index": 0}
        empty = {"type": "refusal", "refusal": ""}
        yield self._event(
            "response.output_item.added", item={**item, "status": "in_progress", "content": []}, **at
        )
        yield self._event("response.content_part.added", part=empty, **part)
        yield self._event("response.refusal.delta", delta=stopped.refusal, **part)
        yield self._event("response.refusal.done", refusal=stopped.refusal, **part)
        yield self._event("response.content_part.done", part=item["content"][0], **part)
        yield self._event("response.output_item.done", item=item, **at)
        yield self._event("response.incomplete", response=self._stopped(stopped, item))

    def _stopped(self, stopped: Stopped, item: dict[str, Any]) -> dict[str, Any]:
        given, made = stopped.prompt_tokens, stopped.completion_tokens
        use = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
        details = {
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        return {
            **self._base,
            "status": "incomplete",
            "incomplete_details": {"reason": "content_filter"},
            "error": None,
            "output": [item],
            "usage": {**use, **details},
        }

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON values
        self._sequence += 1
        return _sse(kind, {"type": kind, "sequence_number": self._sequence, **fields})


def _refusal(text: str) -> dict[str, Any]:
    part = {"type": "refusal", "refusal": text}
    name = f"msg_{secrets.token_hex(16)}"
    return {"id": name, "type": "message", "role": "assistant", "status": "incomplete", "content": [part]}


def _texts(value: Any, place: str, response: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    """Yield each text of an event that may be part of the answer, and the path of its field.

    Args:
        response: the path of the response.
    """
    if isinstance(value, str):
        if value:
            yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if len(key) > LONGEST_NAME:
                yield place, key
            # `response.text` holds the request's settings, `part.text` holds the answer's words.
            requested = key in _REQUESTED or (key == "text" and isinstance(item, dict))
            repeated = key == "logprobs" and repeats(item, value.get("text"))
            if key not in _PLAIN and not repeated and not (requested and place == response):
                yield from _texts(item, f"{place}.{key}", response)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, f"{place}[]", response)


def _sse(name: str, body: Mapping[str, Any]) -> bytes:
    if not name.replace(".", "_").isidentifier():
        raise malformed()
    return f"event: {name}\n".encode() + wire.sse(body)
