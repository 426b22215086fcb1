"""How another guard takes over in a running engine.

It is prepared beside the engine, with all that can fail. Then no waiting job is opened. When the streams of
the old guard are over, the engine's thread changes guard between two steps, and opens jobs again.
"""

import concurrent.futures
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from lockgate.backbones import Backbone, Feed, RenderedChat, SessionPool
from lockgate.errors import LockgateError
from lockgate.exchanges import Message
from lockgate.gateway._desk import OpenDesk, VerdictDesk
from lockgate.gateway._scoring import Scoring
from lockgate.guards import regions_of

T = TypeVar("T")

# How often a caller that waits looks at the engine, in seconds.
_OFTEN = 0.05
# How long a guard's second stage may take to end, in seconds.
_LAST_STEP = 10.0


class PromotionError(LockgateError):
    """A guard can't take over. The one that holds goes on."""


@dataclass(slots=True, eq=False)
class Next:
    """A guard that is ready to take over.

    Attributes:
        desk: its second stage, which runs already. After the change, that of the guard before it.
        changed: called at the change, under the engine's lock.
        over: whether it has taken over.
    """

    scoring: Scoring
    desk: VerdictDesk
    changed: Callable[[], None]
    over: threading.Event = field(default_factory=threading.Event)


class Handover:
    """The engine's guards, one after another. Any thread may call `run`, one at a time.

    Args:
        lock: the engine's lock.
        hindered: says why the engine can't change its guard; None if it can.
        give_up: ends the streams that are still open.
        tell: wakes the engine's thread.
        longest: seconds after the end of all streams within which the engine must have changed.

    Attributes:
        next: the guard that takes over next. While there is one, the engine opens no job.
    """

    def __init__(
        self,
        lock: threading.RLock,
        hindered: Callable[[], str | None],
        give_up: Callable[[], None],
        tell: Callable[[], None],
        longest: float,
    ) -> None:
        self.next: Next | None = None
        self._lock, self._one = lock, threading.Lock()
        self._hindered, self._give_up, self._tell, self._longest = hindered, give_up, tell, longest

    def run(
        self,
        scoring: Scoring,
        prepare: Callable[[], VerdictDesk],
        patience: float,
        changed: Callable[[], None],
    ) -> None:
        """Prepare a guard and let it take over. Return when it has.

        Args:
            prepare: checks the guard and starts its second stage.
            patience: seconds that open streams have to end.

        Raises:
            PromotionError: it did not take over.
        """
        if not self._one.acquire(blocking=False):
            raise PromotionError("another guard is taking over just now; try again when it has")
        try:
            desk = unless(self._hindered, prepare, lambda late: late.close(0.0))
            wanted = Next(scoring, desk, changed)
            with self._lock:
                self.next = wanted
            self._tell()
            try:
                self._wait(wanted, patience)
            finally:
                wanted.desk.close(_LAST_STEP)
        finally:
            self._one.release()

    def _wait(self, wanted: Next, patience: float) -> None:
        deadline, gave_up = time.monotonic() + patience, False
        while not wanted.over.wait(_OFTEN):
            why, late = self._hindered(), time.monotonic() - deadline
            if why is None and late > self._longest:
                why = "the engine does not come to rest"
            if why is not None:
                with self._lock:
                    if wanted.over.is_set():
                        return
                    self.next = None
                self._tell()
                raise PromotionError(why)
            if late > 0 and not gave_up:
                gave_up = True
                self._give_up()


def unless(
    hindered: Callable[[], str | None], work: Callable[[], T], drop: Callable[[T], None] = lambda late: None
) -> T:
    """Do work on another thread. If something hinders it, leave that thread alone.

    Args:
        hindered: says why nobody should wait for it any longer.
        drop: takes the result that comes too late.

    Raises:
        PromotionError: it was hindered.
    """
    found: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # whoever waits raises it
            found.set_exception(error)

    def late(done: "concurrent.futures.Future[T]") -> None:
        if done.exception() is None:
            drop(done.result())

    threading.Thread(target=run, name="lockgate-promotion", daemon=True).start()
    while not concurrent.futures.wait([found], _OFTEN).done:
        why = hindered()
        if why is not None:
            found.add_done_callback(late)
            raise PromotionError(why)
    return found.result()


def greeting(backbone: Backbone) -> RenderedChat:
    """Return the prompt on which guards are tried."""
    return backbone.render([Message("user", "Hello")], add_generation_prompt=True)


def check_fit(backbone: Backbone, scoring: Scoring, *, takes_guards: bool) -> None:
    """Check that an engine can go on with a guard.

    Args:
        takes_guards: whether the engine can change its guard at all.

    Raises:
        PromotionError: it must be started again with that guard.
    """
    if not takes_guards:
        raise PromotionError("this engine keeps its guard; start the server again with the new one")
    last, layers = max(scoring.stages.head.layers), backbone.n_layers
    if last >= layers:
        raise PromotionError(
            f"its probe reads layer {last}, and this server has left out the layers from {layers} on; start "
            "it again with the new guard"
        )


def prepare(backbone: Backbone, scoring: Scoring, open_desk: OpenDesk) -> VerdictDesk:
    """Try both stages of a guard on a prompt. Return its second stage, which then runs.

    Raises:
        PromotionError: a stage gives no finite score.
        LockgateError: the second stage can't be opened.
    """
    chat = greeting(backbone)
    with torch.inference_mode():
        _try_probe(backbone, scoring, chat)
    desk = open_desk(scoring)
    try:
        if not desk.judges(chat):
            raise PromotionError("its second stage gives no finite verdict")
        desk.start()
    except BaseException:
        desk.close(_LAST_STEP)
        raise
    return desk


def _try_probe(backbone: Backbone, scoring: Scoring, chat: RenderedChat) -> None:
    ids, first = chat.token_ids, chat.prefix_length
    with SessionPool(backbone, len(ids)) as pool:
        session = pool.open(len(ids), ids[:first])
        pool.step([Feed(session, ids[first:])], scoring.tap)
        session.close()
    rows = scoring.tap.logits
    wanted = (len(ids) - first, scoring.stages.head.n_outputs)
    if tuple(rows.shape) != wanted or not bool(torch.isfinite(rows).all()):
        raise PromotionError("its probe gives no finite scores")
    scoring.stages.new_state(regions_of(chat))
