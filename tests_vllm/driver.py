"""Drives a real vLLM engine and a reference: what was sent, and the rows that Lockgate's own engine gives."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.exchanges import Message

MODEL = "embedded"


@dataclass
class Request:
    """A request, and everything that came back for it."""

    name: str
    prompt: list[int]
    limit: int
    regions: dict[str, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    ended: str | None = None
    stop: Any = None
    counts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def start(self) -> int:
        return self.regions["start"] if self.regions else 0


def asked(backbone: Backbone, name: str, text: str, limit: int, **options: Any) -> Request:
    """A request for an answer to one user turn."""
    chat = backbone.render([Message("user", text)], add_generation_prompt=True)
    regions = {
        "start": chat.prefix_length,
        "prompt_start": chat.prompt_start,
        "answer_start": chat.answer_start,
    }
    return Request(name, chat.token_ids, limit, regions, options)


def submit(engine: Any, request: Request) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    extra = {} if request.regions is None else {"lockgate": request.regions}
    params = SamplingParams(
        max_tokens=request.limit,
        output_kind=RequestOutputKind.DELTA,
        detokenize=False,
        extra_args=extra,
        **{"temperature": 0.0, **request.options},
    )
    engine.add_request(request.name, {"prompt_token_ids": request.prompt}, params)


def take(request: Request, output: Any) -> None:
    """Take one output. Its rows must follow those before, one for each token."""
    part = output.outputs[0]
    request.tokens += part.token_ids
    note = (output.kv_transfer_params or {}).get("lockgate")
    if note is not None:
        rows = np.frombuffer(note["rows"], np.float32).reshape(note["n"], -1)
        assert note["first"] == request.start + len(request.rows), "a gap or a repeat"
        request.rows += list(rows)
        scored = request.start + len(request.rows) - len(request.prompt)
        assert len(request.tokens) == max(0, scored)
        request.counts.append((len(part.token_ids), note["n"]))
    if output.finished:
        request.ended, request.stop = part.finish_reason, part.stop_reason


def run(
    engine: Any,
    requests: Iterable[Request],
    after: Callable[[int, dict[str, Request]], None] = lambda *_: None,
) -> dict[str, Request]:
    """Run requests side by side until all have ended. `after` is called after each step."""
    known = {request.name: request for request in requests}
    for request in known.values():
        submit(engine, request)
    steps = 0
    while engine.has_unfinished_requests():
        for output in engine.step():
            take(known[output.request_id], output)
        steps += 1
        after(steps, known)
        assert steps < 3000
    return known


def reference(backbone: Backbone, head: ProbeHead, token_ids: list[int]) -> np.ndarray:
    """The rows `[tokens, outputs]` of a text, by Lockgate's own engine."""
    tap = ProbeTap([head], backbone.hidden_size)
    with SessionPool(backbone, len(token_ids) + 1) as pool:
        pool.read([Feed(pool.open(len(token_ids)), token_ids)], tap)
    found: np.ndarray = tap.logits.numpy().copy()
    return found
