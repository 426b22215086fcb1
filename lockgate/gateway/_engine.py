"""The engine: one thread that owns the model and advances all streams together, step by step."""

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import torch

from lockgate.backbones import Backbone, RenderedChat, SessionPool
from lockgate.errors import ConfigError, ContextOverflow, LockgateError, PoolFull
from lockgate.gateway._decisions import Decision, DecisionLog
from lockgate.gateway._events import Released
from lockgate.gateway._jobs import Ending, Job, Scoring, Stream, decision_record, finished_event
from lockgate.gateway._stepper import Stepper, Turn
from lockgate.gateway._stream import Outflow
from lockgate.gateway._verdicts import Ticket, VerdictWorker

logger = logging.getLogger("lockgate.gateway")

Mode = Literal["enforce", "shadow", "off"]
MODES: tuple[Mode, ...] = ("enforce", "shadow", "off")


class QueueFull(LockgateError):
    """Too many requests are waiting. `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests are waiting")
        self.retry_after = retry_after


class EngineDown(LockgateError):
    """The engine takes no more requests: it is stopping, or a step has not come back."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits of the engine.

    Attributes:
        max_streams: choices that are generated at the same time.
        max_queue: requests that may wait beyond those.
        kv_tokens: key-value tokens for all open streams; None chooses.
        step_timeout: seconds after which a step counts as failed.
        verdict_timeout: seconds without progress of the second stage after which a stream that waits for its
            verdict is halted. However it comes forward, a stream waits no longer than that and as much again
            for every 1,024 tokens that are still to be read.
        verdict_kv_tokens: key-value tokens of the second stage; None chooses.
    """

    mode: Mode = "enforce"
    max_streams: int = 8
    max_queue: int = 32
    kv_tokens: int | None = None
    step_timeout: float = 120.0
    verdict_timeout: float = 30.0
    verdict_kv_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode: expected one of {', '.join(MODES)}")
        if self.max_streams < 1 or self.max_queue < 0 or not self.step_timeout > 0:
            raise ConfigError("expected max_streams >= 1, max_queue >= 0 and a step time-out above 0")
        if not self.verdict_timeout > 0:
            raise ConfigError("expected a verdict time-out above 0")


@dataclass(slots=True)
class Faults:
    """What has gone wrong since the start. `open` holds what is wrong now.

    `total` counts answers that could not be checked; of them, `second_stage` for want of a verdict.
    """

    total: int = 0
    second_stage: int = 0
    last: str | None = None
    open: dict[str, str] = field(default_factory=dict)


class Engine:
    """Runs jobs. `submit`, `cancel` and the properties may be called from any thread.

    Args:
        scoring: the guard at work; None exactly when the mode is `off`.
        decisions: gets one line for each choice, before its closing event is delivered.
    """

    def __init__(
        self, backbone: Backbone, scoring: Scoring | None, decisions: DecisionLog, options: EngineOptions
    ) -> None:
        if (scoring is None) != (options.mode == "off"):
            raise ConfigError(f"mode {options.mode}: needs {'no' if options.mode == 'off' else 'a'} guard")
        self.options = options
        self.backbone = backbone
        self.scoring = scoring
        self.decisions = decisions
        self.faults = Faults()
        self.kv_tokens = options.kv_tokens or max(backbone.context_length, 2048 * options.max_streams)
        self.pool = SessionPool(backbone, self.kv_tokens)
        self._stepper = Stepper(
            backbone,
            self.pool,
            scoring,
            enforce=options.mode == "enforce",
            emit=self._emit,
            end=self._end,
            ask=self._ask,
        )
        self._verdicts: VerdictWorker | None = None
        if scoring is not None and scoring.second_stage is not None:
            tokens = options.verdict_kv_tokens or self.kv_tokens
            self._verdicts = VerdictWorker(scoring.second_stage(tokens), self._note_verdict)
        self._arrived: list[Ticket] = []
        self._news = False  # something has come from another thread since the round began
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._promised = 0  # key-value tokens that admitted jobs will still fork into
        self._closing = False
        self._stopped = threading.Event()
        self._step: list[Turn] = []
        self._step_started: float | None = None
        self._service_time = 5.0  # running mean of seconds per request
        self._threads = [
            threading.Thread(target=self._run, name="lockgate-engine", daemon=True),
            threading.Thread(target=self._watch, name="lockgate-watchdog", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        if self._verdicts is not None:
            self._verdicts.start()

    def warm_second_stage(self, chat: RenderedChat) -> None:
        """Have the second stage, if there is one, judge a prompt. Only before `start`."""
        if self._verdicts is not None and not math.isfinite(self._verdicts.warm(chat)):
            self.faults.open["second stage"] = "it gave no finite verdict"

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ContextOverflow: it can never fit into the key-value memory.
            QueueFull: too many requests wait already.
            EngineDown: the engine is stopping or stuck.
        """
        if job.n * job.capacity > self.kv_tokens or job.n > self.options.max_streams:
            raise ContextOverflow(
                f"{job.n} answers of up to {job.capacity} tokens are more than the server's {self.kv_tokens}"
            )
        with self._wake:
            if self._closing or not self.alive or self.stalled:
                raise EngineDown("the server takes no requests now")
            free = max(0, self.options.max_streams - self.active_streams)
            if len(self._waiting) >= self.options.max_queue + free:
                raise QueueFull(self._retry_after())
            self._waiting.append(job)
            self._tell()

    def cancel(self, job: Job) -> None:
        """The client has left: end what is open, free its memory."""
        with self._wake:
            job.cancelled = True
            self._tell()

    def close(self, timeout: float = 10.0) -> None:
        """Stop. Jobs that are still open end as cancelled, and their decisions are logged."""
        with self._wake:
            self._closing = True
            self._tell()
        if self._threads[0].ident is not None:
            self._threads[0].join(timeout)
        self._stopped.set()
        with self._lock:
            # Only a step that never came back leaves anything here.
            self._abandon([*self._active, *self._waiting], Ending("length", cancelled=True))
        if self._threads[1].ident is not None:
            self._threads[1].join(timeout)
        if self._verdicts is not None:
            self._verdicts.close(timeout)

    @property
    def alive(self) -> bool:
        return self._threads[0].is_alive()

    @property
    def stalled(self) -> bool:
        """Whether the running step has taken longer than it may."""
        started = self._step_started
        return started is not None and time.monotonic() - started > self.options.step_timeout

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_verdicts(self) -> int:
        """Verdicts of the second stage that streams wait for."""
        return 0 if self._verdicts is None else self._verdicts.waiting

    @property
    def oldest_verdict(self) -> float:
        """Seconds since the oldest of them was asked for."""
        return 0.0 if self._verdicts is None else self._verdicts.oldest

    @property
    def second_stage_alive(self) -> bool | None:
        """Whether the second stage's thread runs; None without a second stage."""
        return None if self._verdicts is None else self._verdicts.alive

    @property
    def active_streams(self) -> int:
        return sum(not stream.done for job in self._active for stream in job.streams)

    def _run(self) -> None:
        with torch.inference_mode():
            while self._turn():
                pass
        self.pool.close()

    def _turn(self) -> bool:
        """One round: admit, step, clean up. False when the engine is to stop."""
        with self._wake:
            while not (self._closing or self._waiting or self._active):
                self._wake.wait()
            self._news = False
            if self._closing:
                self._abandon([*self._active, *self._waiting], Ending("length", cancelled=True))
                self._reap()
                return False
        try:
            self._drop_cancelled()
            self._settle_verdicts()
            self._admit()
            turns = self._stepper.plan(self._active)
            if turns:
                self._run_step(turns)
            elif tickets := self._tickets():
                self._wait_for_news(min(self._deadline(ticket) for ticket in tickets))
            elif not all(job.done for job in self._active):
                raise RuntimeError("open streams with nothing to do")
        except Exception as error:  # the loop must outlive any fault, and no fault may let text pass
            logger.exception("the engine's round failed")
            with self._lock:
                self._abandon(self._active, Ending("content_filter", error=type(error).__name__))
        self._reap()
        return True

    def _run_step(self, turns: list[Turn]) -> None:
        self._step, self._step_started = turns, time.monotonic()
        try:
            self._stepper.run(turns)
        finally:
            self._step, self._step_started = [], None
            self.faults.open.pop("step", None)

    def _tell(self) -> None:
        """Wake the engine's thread, or have it look again before it sleeps. Needs the lock."""
        self._news = True
        self._wake.notify()

    def _ask(self, ticket: Ticket) -> None:
        if self._verdicts is None:
            raise RuntimeError("a verdict is due, and there is no second stage")
        self._verdicts.ask(ticket)

    def _note_verdict(self, ticket: Ticket) -> None:
        """A verdict has come; called on the second stage's thread."""
        with self._wake:
            self._arrived.append(ticket)
            self._tell()

    def _tickets(self) -> list[Ticket]:
        """Verdicts that open streams wait for."""
        streams = [stream for job in self._active for stream in job.streams if not stream.done]
        return [stream.ticket for stream in streams if isinstance(stream.ticket, Ticket)]

    def _settle_verdicts(self) -> None:
        """Let streams go on whose verdict has come; halt those that have waited too long."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for ticket in arrived:
            self._note_second_stage(ticket)
            self._stepper.resume(ticket)
        now = time.monotonic()
        for ticket in self._tickets():
            if self._deadline(ticket) <= now:
                ticket.dropped, ticket.error = True, "the second stage's verdict came too late"
                self._note_second_stage(ticket)
                self._stepper.resume(ticket)

    def _deadline(self, ticket: Ticket) -> float:
        return ticket.deadline(self.options.verdict_timeout)

    def _note_second_stage(self, ticket: Ticket) -> None:
        """A fault of its own: streams that never ask the second stage say nothing about it."""
        if ticket.error is None and ticket.logit is not None and math.isfinite(ticket.logit):
            self.faults.open.pop("second stage", None)
        else:
            self.faults.open["second stage"] = ticket.error or "it gave no finite verdict"

    def _wait_for_news(self, deadline: float) -> None:
        """All open streams wait for verdicts: sleep until one comes, or the first may be too late."""
        with self._wake:
            while not self._news and (left := deadline - time.monotonic()) > 0:
                self._wake.wait(left)

    def _admit(self) -> None:
        """Take waiting jobs in order of arrival, as far as streams and memory go."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                job = self._waiting[0]
                used = self.pool.kv_used_tokens + self._promised
                if (
                    self.active_streams + job.n > self.options.max_streams
                    or used + job.n * job.capacity > self.kv_tokens
                ):
                    return
                self._waiting.popleft()
                self._active.append(job)
                job.started = time.monotonic()
            try:
                self._stepper.open(job)
            except PoolFull:
                with self._lock:
                    self._active.remove(job)
                    self._waiting.appendleft(job)
                return
            except Exception as error:
                logger.exception("a request could not be opened")
                with self._lock:
                    self._abandon([job], Ending("content_filter", error=type(error).__name__))
            self._count_promised()

    def _count_promised(self) -> None:
        self._promised = sum(
            job.capacity
            for job in self._active
            if not job.done
            for stream in job.streams
            if stream.session is None and not stream.done
        )

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [job for job in (*self._active, *self._waiting) if job.cancelled]
            self._abandon(gone, Ending("length", cancelled=True))
            self._waiting = deque(job for job in self._waiting if not job.done)
        self._reap()

    def _reap(self) -> None:
        """Free the memory of streams that are over. Only the engine's thread touches sessions."""
        for job in self._active:
            for stream in job.streams:
                if stream.done and stream.session is not None:
                    stream.session.close()
                    stream.session = None
                if stream.done and stream.asked and self._verdicts is not None:
                    stream.asked = False
                    self._verdicts.forget(stream)
        with self._lock:
            self._active = [job for job in self._active if not job.done]
        self._count_promised()

    def _abandon(self, jobs: list[Job], ending: Ending) -> None:
        for job in jobs:
            for stream in job.streams:
                if stream.gate is not None:
                    stream.gate.shut()
                self._end(job, stream, ending)

    def _emit(self, job: Job, stream: Stream, out: Outflow) -> None:
        with self._lock:
            if not (stream.done or job.cancelled):
                job.deliver(Released(stream.choice, out.text, out.tokens))

    def _end(self, job: Job, stream: Stream, ending: Ending) -> None:
        """Close a stream once: first the decision line, then the event."""
        with self._lock:
            if stream.done:
                return
            stream.done = True
            event = finished_event(job, stream, ending, self.options.mode, self.scoring)
            record = decision_record(job, stream, ending, event, self.options.mode, self.scoring)
            self.decisions.write(record)
            self._note(record)
            if job.started is not None:
                self._service_time += 0.2 * (time.monotonic() - job.started - self._service_time)
            job.deliver(event)

    def _note(self, record: Decision) -> None:
        if record.decision != "error":
            self.faults.open.pop("scoring", None)
            return
        self.faults.total += 1
        self.faults.last = record.reason or "the guard failed"
        if record.fault == "second stage":
            # What is wrong with it now, its own verdicts say.
            self.faults.second_stage += 1
        else:
            self.faults.open["scoring"] = self.faults.last

    def _retry_after(self) -> int:
        rounds = 1 + len(self._waiting) / self.options.max_streams
        return max(1, min(60, round(self._service_time * rounds)))

    def _watch(self) -> None:
        """A step can't be interrupted; its streams can be closed, and whatever it still yields is dropped."""
        while not self._stopped.wait(min(1.0, self.options.step_timeout / 4)):
            if not self.stalled:
                continue
            with self._lock:
                turns = list(self._step)
                if turns and not all(turn.stream.done for turn in turns):
                    self.faults.open["step"] = "a step has not come back in time"
                    self._abandon([turn.job for turn in turns], Ending("content_filter", error="time-out"))
