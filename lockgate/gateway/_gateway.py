"""The gateway: a backbone, a guard and an engine behind one door, and the limits that a request meets."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import torch

from lockgate.backbones import Backbone, Feed, RenderedChat
from lockgate.classifiers import ProbeTap
from lockgate.errors import BackboneError, ConfigError
from lockgate.exchanges import Message
from lockgate.gateway._decisions import DecisionLog
from lockgate.gateway._engine import Engine
from lockgate.gateway._errors import ApiError, invalid
from lockgate.gateway._events import Event
from lockgate.gateway._hosts import check_host_names
from lockgate.gateway._jobs import Job
from lockgate.gateway._options import EngineOptions
from lockgate.gateway._requests import ChatRequest
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._wire import completion_id
from lockgate.guards import Guard, regions_of

MAX_BODY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How the server behaves towards clients.

    Attributes:
        decisions: file of the decision log.
        default_max_tokens: length of an answer where the request doesn't say.
        block_input_status: 200 answers a flagged prompt in the halting shape, 400 with an error body.
        api_key: what clients must send as a bearer token; None asks for none.
        loopback: the server is reachable from this machine alone; other host names are refused.
        allowed_hosts: further host names that are answered to; elsewhere than on loopback they are the only
            ones, beside this machine's own.
        risk_events: per-token scores for a page on this machine; only together with `loopback`.
    """

    decisions: Path
    engine: EngineOptions = field(default_factory=EngineOptions)
    default_max_tokens: int = 1024
    block_input_status: int = 200
    api_key: str | None = None
    loopback: bool = True
    allowed_hosts: tuple[str, ...] = ()
    risk_events: bool = False

    def __post_init__(self) -> None:
        if self.block_input_status not in (200, 400):
            raise ConfigError("block_input_status: expected 200 or 400")
        if self.default_max_tokens < 1:
            raise ConfigError("default_max_tokens: expected at least 1")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("api_key: is empty; leave it out or give a key")
        object.__setattr__(self, "allowed_hosts", check_host_names(self.allowed_hosts))


class Gateway:
    """Everything the HTTP routes share.

    Args:
        scoring: the guard at work, None in mode `off`.
        about_guard: what `/v1/models` says of the guard.
    """

    def __init__(
        self,
        backbone: Backbone,
        scoring: Scoring | None,
        options: GatewayOptions,
        about_guard: dict[str, Any] | None = None,
    ) -> None:
        self.backbone = backbone
        self.options = options
        self.about_guard = about_guard
        self.model_id = backbone.name
        self.created = int(time.time())
        self.decisions = DecisionLog(options.decisions)
        self.engine = Engine(backbone, scoring, self.decisions, options.engine)
        self.vocabulary_size = backbone.vocab_size
        self._longest_token = max(len(piece) for piece in backbone.tokenizer.get_vocab())
        self._tokenising = anyio.CapacityLimiter(1)

    @classmethod
    def from_guard(cls, guard: Guard, options: GatewayOptions, *, name: str | None = None) -> "Gateway":
        """A gateway that serves the guard's own backbone under the guard.

        Args:
            name: what clients are told the guard is called; by default its own name.
        """
        if options.engine.mode == "off":
            return cls(guard.backbone, None, options)
        return cls(guard.backbone, scoring_of(guard), options, describe_guard(guard, name))

    @property
    def mode(self) -> str:
        return self.options.engine.mode

    def start(self) -> None:
        """Open the decision log and start the engine. Raises ConfigError if the log can't be written."""
        try:
            self.decisions.open()
        except OSError as error:
            raise ConfigError(
                f"decision log {self.decisions.path}: {error.strerror}; choose another file with --decisions"
            ) from error
        self.engine.start()

    def warm(self) -> None:
        """Take one step of each stage before the engine starts, so that no request pays for the first one."""
        with torch.inference_mode():
            chat = self.backbone.render([Message("user", "Hello")], add_generation_prompt=True)
            session = self.engine.pool.open(len(chat.token_ids), chat.token_ids[: chat.prefix_length])
            feed = Feed(session, chat.token_ids[chat.prefix_length :], want_logits=True)
            self.engine.pool.step([feed], self.engine.scoring.tap if self.engine.scoring else None)
            session.close()
        self.engine.verdicts.warm(chat)

    def close(self, timeout: float = 10.0) -> None:
        """End what is open, write every decision, stop the engine."""
        self.engine.close(timeout)
        self.decisions.close()

    async def prepare(self, request: ChatRequest, deliver: Callable[[Event], None]) -> Job:
        """Tokenise a request and check it against the context. Raises ApiError (400)."""
        # A token is at most so many characters long, so text beyond this can't fit; and tokenising a
        # megabyte only to find that out would let one client occupy a core.
        characters = sum(len(message.content) for message in request.messages)
        if characters > self.backbone.context_length * self._longest_token:
            raise self._too_long(f"more than {characters // self._longest_token}")
        if len(request.messages) > self.backbone.context_length:
            raise self._too_long(f"more than {len(request.messages)}")
        rendered = await anyio.to_thread.run_sync(self._render, request, limiter=self._tokenising)
        prompt_tokens = len(rendered.token_ids)
        room = min(self.backbone.context_length, self.engine.kv_tokens // request.n) - prompt_tokens
        if prompt_tokens >= self.backbone.context_length:
            raise self._too_long(str(prompt_tokens))
        if room < 1:
            raise invalid(
                "n", f"{request.n} answers to a prompt of {prompt_tokens} tokens don't fit in memory"
            )
        return Job(
            id=completion_id(),
            prompt=rendered.token_ids,
            regions=regions_of(rendered),
            chat=rendered,
            max_tokens=min(request.max_tokens or self.options.default_max_tokens, room),
            n=request.n,
            stops=request.stops,
            sampling=request.sampling,
            seed_basis=request.seed_basis,
            deliver=deliver,
        )

    def problems(self) -> list[str]:
        """What is wrong now; empty when all is well."""
        found = [f"{where}: {what}" for where, what in sorted(self.engine.faults.open.items())]
        if self.engine.alive and self.engine.verdicts.alive is False:
            found.append("second stage: its thread has ended, so whatever it is asked about is halted")
        if self.decisions.failure is not None:
            found.append(f"decision log: {self.decisions.failure}, {self.decisions.unwritten} lines wait")
        return found

    def _render(self, request: ChatRequest) -> RenderedChat:
        try:
            return self.backbone.render(request.messages, add_generation_prompt=True)
        except BackboneError as error:
            raise ApiError(400, str(error), param="messages") from error

    def _too_long(self, tokens: str) -> ApiError:
        return ApiError(
            400,
            f"This model's context holds {self.backbone.context_length} tokens, "
            f"but the messages come to {tokens}. Shorten them.",
            param="messages",
            code="context_length_exceeded",
        )


def scoring_of(guard: Guard) -> Scoring:
    """The engine's view of a guard: the stages and the tap with which the guard scores files too."""
    return Scoring(
        stages=guard.stages,
        tap=ProbeTap([guard.head], guard.backbone.hidden_size, guard.backbone.device),
        refusal=guard.constitution.refusal_message,
        guard=guard.sha256,
    )


def describe_guard(guard: Guard, name: str | None = None) -> dict[str, Any]:
    """What clients may know of a guard: names, hash, and whether a budget stands behind its threshold."""
    calibration = guard.calibration
    return {
        "name": name or guard.record.name,
        "sha256": guard.sha256,
        "constitution": {
            "name": guard.record.constitution.name,
            "version": guard.record.constitution.version,
            "categories": {category.id: category.title for category in guard.constitution.harmful},
        },
        "stages": guard.stages.count,
        "calibrated": calibration is not None,
        "budget": None if calibration is None else calibration.budget,
        "uncalibrated_because": _why_uncalibrated(guard),
    }


def _why_uncalibrated(guard: Guard) -> str | None:
    if guard.calibration is not None:
        return None
    provisional = guard.record.provisional
    return "the guard does not say" if provisional is None else provisional.reason


def deliver_to(queue: "asyncio.Queue[Event]") -> Callable[[Event], None]:
    """A function that other threads may call to put events into `queue` of the running loop."""
    loop = asyncio.get_running_loop()

    def deliver(event: Event) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, event)

    return deliver
