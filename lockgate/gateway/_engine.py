"""The engine: one thread that owns the model and advances all streams together, step by step."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from lockgate.backbones import Backbone
from lockgate.decisions import DecisionLog
from lockgate.errors import ConfigError, ContextOverflow, PoolFull
from lockgate.gateway._admission import PLACES_PER_STREAM, Line, Load, Pace, most_tokens, promised_to
from lockgate.gateway._desk import OpenDesk, VerdictDesk
from lockgate.gateway._events import Released, Unserved
from lockgate.gateway._given import own_stepper
from lockgate.gateway._handover import Handover, check_fit, greeting, prepare
from lockgate.gateway._jobs import Job, Stream, tickets_of
from lockgate.gateway._metrics import Metrics
from lockgate.gateway._options import RESTART_SECONDS, EngineDown, EngineOptions, Faults, LogDown, QueueFull
from lockgate.gateway._records import (
    Ending,
    content_of,
    decision_record,
    deliver,
    finished_event,
    given_up,
    started_record,
)
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._stepper import MakeStepper, ModelGone, Portion, Stepper, Wiring
from lockgate.gateway._stream import Outflow

logger = logging.getLogger("lockgate.gateway")

# While all streams wait for text from outside, the engine looks again this often, in seconds.
LONGEST_SLEEP = 60.0

_DISPLACED = "Too many requests are waiting, and most of them are yours."
_STOPPING = "The server is stopping."
_EXPIRED = "The request has waited for too long."
_EXCHANGED = "The server changed its guard before the answer ended."


class Engine:
    """The engine that runs jobs. Any thread may call `submit` and `cancel` and read the properties.

    Args:
        scoring: the guard; None exactly when the mode is `off`.
        decisions: log that gets a record for each choice, before the closing event is delivered.
        make_stepper: makes what runs the model, if it is not to run in this process.
        metrics: what is counted. None makes new ones.

    Attributes:
        kv_tokens: key-value tokens for all open streams together.
        verdicts: desk through which streams wait for the second stage.
    """

    def __init__(
        self,
        backbone: Backbone,
        scoring: Scoring | None,
        decisions: DecisionLog,
        options: EngineOptions,
        make_stepper: MakeStepper | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        if (scoring is None) != (options.mode == "off"):
            raise ConfigError(f"mode {options.mode}: needs {'no' if options.mode == 'off' else 'a'} guard")
        self.options = options
        self.backbone = backbone
        self.scoring = scoring
        self.decisions = decisions
        decisions.on_block = self.halt_open
        self.faults = Faults()
        self.metrics = Metrics() if metrics is None else metrics
        wiring = Wiring(self._emit, self._end, lambda talk, end: self.verdicts.ask(talk, end), self._tell)
        make = make_stepper or partial(own_stepper, backbone, scoring, options)
        self._stepper: Stepper[Any] = make(wiring)
        self.kv_tokens = self._stepper.kv_tokens
        tokens = options.verdict_kv_tokens or self.kv_tokens
        about = (tokens, options, self.faults, self._tell, self.metrics.judged)
        self._open_desk: OpenDesk = lambda scoring: VerdictDesk.of(scoring, *about)
        self.verdicts = self._open_desk(scoring)
        self._news = False  # another thread has changed something since the cycle began
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._handover = Handover(
            self._lock, self.hindered, self._give_up_open, self._tell, options.step_timeout
        )
        self._waiting = Line()
        self._active: list[Job] = []
        self._promised = 0  # key-value tokens that choices of admitted jobs will need when they are forked
        self._closing = False
        self._gone = False  # the model's process has ended
        self._stopped = threading.Event()
        self._step: Sequence[Portion] = ()
        self._step_started: float | None = None
        self._pace = Pace()
        self._threads = [
            threading.Thread(target=self._run, name="lockgate-engine", daemon=True),
            threading.Thread(target=self._watch, name="lockgate-watchdog", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self.verdicts.start()

    def warm(self) -> None:
        """Take one step of each stage before the start, because the first step is slow."""
        with torch.inference_mode():
            chat = greeting(self.backbone)
            self._stepper.warm(chat)
        self.verdicts.warm(chat)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ContextOverflow: the job can never fit into the key-value memory.
            QueueFull: too many requests are waiting.
            EngineDown: the engine is stopping or stuck.
            LogDown: the decision log can't be written, and its policy is to take no requests then.
        """
        job.mode = "off" if self.scoring is None else job.mode or self.options.mode
        job.release = job.release or self.options.release
        most = most_tokens(self.kv_tokens, job.n)
        if job.n * job.capacity > most or job.n > self.options.max_streams:
            raise ContextOverflow(
                f"{job.n} answers of up to {job.capacity} tokens are more than the server's {most}"
            )
        with self._wake:
            if not self.decisions.admits:
                raise LogDown("the decision log can't be written")
            if self._closing or not self.alive or self.stalled:
                raise EngineDown("the server takes no requests now")
            free = max(0, self.options.max_streams - self.active_streams)
            if len(self._waiting) >= self.options.max_queue + free:
                last = self._waiting.to_displace(job.client)
                if last is None:
                    raise QueueFull(self._retry_after())
                self._give_up_waiting([last], _DISPLACED)
            self._waiting.add(job)
            self.decisions.begin(started_record(job, self.scoring))
            self._tell()

    def cancel(self, job: Job) -> None:
        """End the streams of a job whose client has left, and free their memory."""
        with self._wake:
            job.cancelled = True
            self._tell()

    def give(self, job: Job, choice: int, text: str) -> None:
        """Take more text of a choice that is written elsewhere. Any thread may call this."""
        job.intakes[choice].give(text)
        self._tell()

    def end_given(self, job: Job, choice: int, reason: str) -> None:
        """Say that a choice that is written elsewhere is whole, and why. Any thread may call this."""
        job.intakes[choice].end(reason)
        self._tell()

    def give_up(self, job: Job, unserved: Unserved) -> None:
        """End a job whose answers can't go on, and tell the client why. Any thread may call this."""
        with self._wake:
            self._abandon([job], Ending("length", cancelled=True, unserved=unserved))
            self._tell()

    def leave_unread(self, job: Job) -> None:
        """End a job that was not submitted and fails open, because the engine is stuck."""
        with self._wake:
            self._abandon([job], Ending("stop", error="the guard takes no requests"))

    def halt_open(self) -> None:
        """Halt the open jobs, because the decision log can't be written. Any thread may call this."""
        with self._wake:
            ending = Ending("content_filter", error="the decision log can't be written", fault="log")
            self._abandon([*self._active, *self._waiting], ending)
            self._waiting.drop_done()
            self._tell()

    def end_open(self) -> None:
        """Take no more jobs, and end the open ones as given up. Any thread may call this."""
        with self._wake:
            self._closing = True
            self._abandon([*self._active, *self._waiting], given_up(_STOPPING, RESTART_SECONDS))
            self._tell()

    def exchange(
        self, scoring: Scoring, patience: float = 30.0, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Let another guard of the same backbone take over, and return when it has.

        Open streams end under the guard that they began with. The new one judges the jobs that wait.

        Args:
            patience: seconds that open streams have to end. Those that are left get a 503.
            changed: called at the change, between the records of both guards.

        Raises:
            PromotionError: it does not suit this engine, fails its trial, another one is taking over, or the
                engine stops or hangs. The old guard goes on.
        """
        check_fit(self.backbone, scoring, takes_guards=self._stepper.takes_guards)
        trial = partial(prepare, self.backbone, scoring, self._open_desk)
        self._handover.run(scoring, trial, patience, changed)

    def close(self, timeout: float = 10.0) -> None:
        """Stop the engine. Open jobs end as cancelled, and their decisions are logged."""
        with self._wake:
            self._closing = True
            self._tell()
        if self._threads[0].ident is None:
            self._stepper.close()
        else:
            self._threads[0].join(timeout)
        self._stopped.set()
        with self._lock:
            # A job is still open here only if a step never came back.
            self._abandon([*self._active, *self._waiting], Ending("length", cancelled=True))
        if self._threads[1].ident is not None:
            self._threads[1].join(timeout)
        self.verdicts.close(timeout)

    @property
    def alive(self) -> bool:
        return self._threads[0].is_alive() and not self._gone

    @property
    def stalled(self) -> bool:
        """Whether the running step has taken longer than it may."""
        started = self._step_started
        return started is not None and time.monotonic() - started > self.options.step_timeout

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self._closing and not self._gone

    @property
    def gives_logprobs(self) -> bool:
        """Whether tokens come with their log-probabilities."""
        return self._stepper.gives_logprobs

    @property
    def reads_given(self) -> bool:
        """Whether the engine reads answers that are written elsewhere."""
        return self._stepper.reads_given

    @property
    def kv_used_tokens(self) -> int:
        """Key-value tokens that open streams have reserved."""
        return self._stepper.kv_used_tokens

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active_streams(self) -> int:
        return sum(not stream.done for job in self._active for stream in job.streams)

    def _run(self) -> None:
        with torch.inference_mode():
            while self._cycle():
                pass
        self._stepper.close()

    def _cycle(self) -> bool:
        """Run one cycle: admit, step, clean up. Return False when the engine must stop."""
        with self._wake:
            while not (self._closing or self._waiting or self._active or self._handover.next):
                self._wake.wait()
            self._news = False
            if self._closing:
                self._abandon([*self._active, *self._waiting], Ending("length", cancelled=True))
                self._reap()
                return False
        try:
            self._drop_cancelled()
            self._settle_verdicts()
            self._change_guard()
            self._admit()
            portions = self._stepper.plan(self._active)
            if portions:
                self._run_step(portions)
            elif (deadline := self._waits_until()) is not None:
                self._wait_for_news(deadline)
            elif not all(job.done for job in self._active):
                raise RuntimeError("open streams with nothing to do")
        except ModelGone:
            self._give_up()
        except Exception as error:  # the loop must outlive any fault, and no fault may let text pass
            logger.exception("the engine's cycle failed")
            with self._lock:
                self._abandon(self._active, Ending("content_filter", error=type(error).__name__))
        self._reap()
        return True

    def _run_step(self, portions: Sequence[Portion]) -> None:
        self._step, self._step_started = portions, time.monotonic()
        try:
            self._stepper.run(portions)
        finally:
            self.metrics.stepped(time.monotonic() - self._step_started)
            self._step, self._step_started = (), None
            self.faults.open.pop("step", None)

    def _tell(self) -> None:
        """Wake the engine's thread, or make it check again before it sleeps. Any thread may call this."""
        with self._wake:
            self._news = True
            self._wake.notify()

    def _waits_until(self) -> float | None:
        """Return until when the engine may sleep; None if no stream waits for a verdict or for its text."""
        deadlines = [self.verdicts.deadline(ticket) for ticket in tickets_of(self._active)]
        if any(job.intakes and not job.done for job in self._active):
            deadlines.append(time.monotonic() + LONGEST_SLEEP)
            if (due_at := self._stepper.due_at(self._active)) is not None:
                deadlines.append(due_at)
        return min(deadlines, default=None)

    def _settle_verdicts(self) -> None:
        """Continue the streams that have their verdict. Halt those that have waited too long."""
        waiting = tickets_of(self._active)
        for ticket in self.verdicts.settle(waiting):
            if ticket in waiting:
                self._stepper.resume(*waiting[ticket], ticket)

    def _wait_for_news(self, deadline: float) -> None:
        """Sleep while all open streams wait for verdicts, until one arrives or a deadline passes."""
        with self._wake:
            while not self._news and (left := deadline - time.monotonic()) > 0:
                self._wake.wait(left)

    def _admit(self) -> None:
        """Admit waiting jobs, as far as the limits of streams and memory allow. Clients take turns."""
        while True:
            with self._lock:
                if self._handover.next is not None:
                    return
                limit = Load(PLACES_PER_STREAM * self.options.max_streams, self.kv_tokens)
                used = Load(self.active_streams, self.kv_used_tokens + self._promised)
                free = Load(limit.places - used.places, limit.tokens - used.tokens)
                job = self._waiting.take(self._active, free, limit)
                if job is None:
                    return
                self._active.append(job)
                job.started = time.monotonic()
            try:
                self._stepper.open(job)
            except ModelGone:
                raise
            except PoolFull:
                with self._lock:
                    self._active.remove(job)
                    self._waiting.put_back(job)
                return
            except Exception as error:
                logger.exception("a request could not be opened")
                with self._lock:
                    self._abandon([job], Ending("content_filter", error=type(error).__name__))
            self._promised = promised_to(self._active)

    def hindered(self) -> str | None:
        """Return why no other guard can take over now. None: nothing hinders it."""
        if self._closing or not self.alive:
            return "the server is stopping"
        return "a step of the model hangs" if self.stalled else None

    def _give_up_open(self) -> None:
        """End the open streams, so that another guard can take over. Any thread may call this."""
        with self._wake:
            self._abandon(self._active, given_up(_EXCHANGED, 1))
            self._tell()

    def _change_guard(self) -> None:
        """Let the next guard take over, if no stream of the old one is open."""
        with self._lock:
            if (wanted := self._handover.next) is None or self._active:
                return
            self._handover.next = None
            self._stepper.take_guard(wanted.scoring)
            self.scoring = wanted.scoring
            self.verdicts, wanted.desk = wanted.desk, self.verdicts
            self.faults.open.pop("second stage", None)
            try:
                wanted.changed()
            finally:
                wanted.over.set()

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [job for job in (*self._active, *self._waiting) if job.cancelled]
            self._abandon(gone, Ending("length", cancelled=True))
            self._waiting.drop_done()
        self._reap()

    def _reap(self) -> None:
        """Free the memory of streams that are over. Only the engine's thread touches sessions."""
        for job in self._active:
            for stream in job.streams:
                if not stream.done:
                    continue
                with self._lock:  # the thread that ends a stream may still read its lane
                    lane, stream.lane = stream.lane, None
                if lane is not None:
                    lane.close()
                    self.verdicts.forget(lane.conversation)
        with self._lock:
            # Another thread may have ended a job just now. It stays until its memory is free.
            self._active = [
                job
                for job in self._active
                if not job.done or any(stream.lane is not None for stream in job.streams)
            ]
        self._promised = promised_to(self._active)

    def _abandon(self, jobs: list[Job], ending: Ending) -> None:
        for job in jobs:
            for stream in job.streams:
                if stream.lane is not None:
                    stream.lane.gate.shut()
                self._end(job, stream, ending)

    def _emit(self, job: Job, stream: Stream, out: Outflow) -> None:
        with self._lock:
            if not (stream.done or job.cancelled):
                if job.messages:
                    stream.said.append(out.text)
                job.deliver(Released(stream.choice, out.text, out.tokens))

    def _end(self, job: Job, stream: Stream, ending: Ending) -> None:
        """Close a stream, once. Its record goes to the log, whose writer then delivers the event."""
        with self._lock:
            if stream.done:
                return
            stream.done = True
            event = finished_event(job, stream, ending, self.scoring)
            record = decision_record(job, stream, ending, event, self.scoring)
            self.faults.note(record)
            margin = None
            if self.scoring is not None and stream.state is not None:
                margin = self.scoring.stages.margin(stream.state)
                job.remember(margin)
            self.metrics.ended(record, job.route, margin)
            job.trace.ended(record)
            if job.started is not None:
                self._pace.note(job.started)
            self.decisions.write(record, content_of(job, stream), partial(deliver, job, event))

    def _give_up(self) -> None:
        """Close all streams for good, because the model's process has ended. Any thread may call this."""
        with self._wake:
            if not self._gone:
                logger.error("the model's process has ended")
            self._gone = self._closing = True  # the next cycle ends the thread
            self.faults.open["engine"] = "the model's process has ended; start the server again"
            self._abandon([*self._active, *self._waiting], Ending("content_filter", error=ModelGone.__name__))
            self._wake.notify()

    def _give_up_waiting(self, jobs: list[Job], why: str) -> None:
        """End jobs that have not been opened. Only under the lock."""
        self._abandon(jobs, given_up(why, self._retry_after(), "overloaded"))
        self._waiting.drop_done()

    def _expire(self) -> None:
        """Give up the jobs that have waited for too long. Any thread may call this."""
        with self._lock:
            since = time.monotonic() - self.options.queue_timeout
            if late := [job for job in self._waiting if job.arrived < since]:
                self._give_up_waiting(late, _EXPIRED)

    def _retry_after(self) -> int:
        return self._pace.retry_after(len(self._waiting), self.options.max_streams)

    def _watch(self) -> None:
        """Close the streams of a step that hangs. It can't be interrupted; its later results are dropped."""
        often = min(1.0, self.options.step_timeout / 4, self.options.queue_timeout / 4)
        while not self._stopped.wait(often):
            self._expire()
            if not (self._stepper.alive or self._closing):
                # The engine's thread may wait for this process for ever.
                self._give_up()
            if not self.stalled:
                continue
            with self._lock:
                late = [portion.job for portion in self._step]
                # Jobs that fail open don't wait for a step that may never come back.
                late += [job for job in (*self._active, *self._waiting) if job.opens]
                if not all(job.done for job in late):
                    self.faults.open["step"] = "a step has not come back in time"
                    self._abandon(late, Ending("content_filter", error="time-out"))
                    self._waiting.drop_done()
