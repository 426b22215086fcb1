"""The open checks of `/v1/decisions`, by id: who owns them, and when they end by themselves."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from lockgate.gateway._errors import ApiError
from lockgate.gateway._options import CheckOptions
from lockgate.gateway.checks._check import RETRY_SECONDS, Check

# Checks that are over and still known, so that a late call learns what became of its check.
MOST_ENDED = 1024
_IDLE = "The check was idle for too long."


class OpenCheck:
    """A check that a client may go on with. Only the event loop uses it."""

    def __init__(self, owner: str, check: Check) -> None:
        self.owner = owner
        self.check = check
        self.busy = False
        self.timer: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        return self.check.id


class OpenChecks:
    """All open checks, and the newest of those that are over."""

    def __init__(self, options: CheckOptions) -> None:
        self._options = options
        self._open: dict[str, OpenCheck] = {}
        self._ended: OrderedDict[str, OpenCheck] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def require_room(self, owner: str) -> None:
        """Raise ApiError (429) if `owner` has as many open checks as it may have."""
        own = sum(1 for one in self._open.values() if one.owner == owner and one.check.finished is None)
        if own >= self._options.open_per_client:
            raise ApiError(
                429,
                f"You have {own} open checks, and no more are allowed. End one first.",
                kind="rate_limit_error",
                code="too_many_checks",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )

    def add(self, owner: str, check: Check) -> OpenCheck:
        """Keep a check that was submitted."""
        one = OpenCheck(owner, check)
        self._open[one.id] = one
        return one

    def find(self, name: str, owner: str) -> OpenCheck:
        """Return the check with this id. Raises ApiError (404): there is none, or another client owns it."""
        one = self._open.get(name) or self._ended.get(name)
        if one is None or one.owner != owner:
            raise ApiError(404, "There is no such check.", param="id", code="unknown_check")
        return one

    @contextmanager
    def call(self, one: OpenCheck) -> Iterator[Check]:
        """Hold a check for one call. Its idle time begins again at the end of the call.

        Raises:
            ApiError: another call holds it (409).
        """
        if one.busy:
            raise ApiError(
                409, "Another call for this check is not answered yet.", param="id", code="check_busy"
            )
        one.busy = True
        if one.timer is not None:
            one.timer.cancel()
        try:
            yield one.check
        finally:
            one.busy = False
            if one.check.finished is None:
                loop = asyncio.get_running_loop()
                one.timer = loop.call_later(self._options.idle_timeout, self._expire, one)
            else:
                self._retire(one)

    def _expire(self, one: OpenCheck) -> None:
        one.check.give_up("check_idle", _IDLE)
        self._retire(one)

    def _retire(self, one: OpenCheck) -> None:
        if self._open.pop(one.id, None) is not None:
            self._ended[one.id] = one
        while len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)
