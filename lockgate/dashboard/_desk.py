"""What all pages share: who asks, what they may see, and how a page is answered."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.responses import HTMLResponse, RedirectResponse, Response

from lockgate._version import __version__
from lockgate.dashboard._figures import text_of
from lockgate.dashboard._guard import ServedGuard
from lockgate.dashboard._kept import Kept
from lockgate.dashboard._sessions import Sessions
from lockgate.dashboard._templates import render
from lockgate.decisions import Line, LogReader, open_log
from lockgate.errors import ConfigError, LockgateError
from lockgate.reviews import Reviews
from lockgate.rollout import Builds, Rollout
from lockgate.tenants import Principal, Role, Tenants

ROOT = "/admin"


class PageError(LockgateError):
    """What went wrong with a page, in words for the person who reads it."""

    def __init__(self, status: int, title: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.title = title


@dataclass(frozen=True, slots=True)
class DashboardOptions:
    """What the dashboard shows.

    Attributes:
        log: the decision log: a path or an address of PostgreSQL.
        log_password_env: environment variable with the log's password.
        mode: tells the server's mode. A reload may change it.
        guard: tells the guard that is served; None in mode `off`. Another one may take over.
        loopback: whether only this machine reaches the server. Cookies may then go without TLS.
        rollout: changes the guard; None if the operator has not allowed that.
        builds: makes new guards; None if the operator has not allowed that.
        clock: seconds since 1970.
    """

    log: str | Path
    log_password_env: str
    mode: Callable[[], str]
    guard: Callable[[], ServedGuard | None] = lambda: None
    loopback: bool = True
    rollout: Rollout | None = None
    builds: Builds | None = None
    clock: Callable[[], float] = field(default=time.time)


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who is signed in.

    Attributes:
        key: public id of the key.
        name: name of the key. A rotation keeps it.
        reviewer: the name under which reviews are kept. A rotation keeps it too. A new key with the name of
            one that has ended gets another.
    """

    tenant: str
    key: str
    name: str
    role: Role
    reviewer: str

    def may(self, role: Role) -> bool:
        """Whether the key may do what a role may."""
        return Principal(self.tenant, self.key, self.role).may(role)


class Desk:
    """The databases behind the pages. Each call opens the log anew, so it follows a log that was moved.

    Args:
        tenants: who may sign in. Sessions and reviews are kept in the same database.
    """

    def __init__(self, options: DashboardOptions, tenants: Tenants) -> None:
        self.options = options
        self.tenants = tenants
        self.sessions = Sessions(tenants.database.place, options.clock)
        self.reviews = Reviews(tenants.database.place)
        self.kept = Kept(tenants.database.place)

    def open(self) -> None:
        """Connect. Raises OperationsError, ReviewError."""
        self.sessions.open()
        self.reviews.open()
        self.kept.open()

    def close(self) -> None:
        self.kept.close()
        self.reviews.close()
        self.sessions.close()

    @property
    def guard(self) -> ServedGuard | None:
        return self.options.guard()

    def holder(self, tenant: str, key: str) -> Viewer | None:
        """Return who has a key, as long as it is valid and may review. Raises OperationsError."""
        try:
            keys = self.tenants.keys(tenant)
        except ConfigError:
            return None  # the tenant is gone
        found = next((info for info in keys if info.prefix == key), None)
        if found is None or found.state != "valid":
            return None
        if not Principal(found.tenant, found.prefix, found.role).may("reviewer"):
            return None
        since = min(info.created for info in keys if info.origin == found.origin)
        name = self.kept.reviewer(
            found.origin, f"{found.tenant}/{found.name}", lambda name: self._is_free(name, since)
        )
        return Viewer(found.tenant, found.prefix, found.name, found.role, name)

    def _is_free(self, reviewer: str, since: float) -> bool:
        """Tell whether nobody has reviewed under a name before a time. Raises ReviewError."""
        first = self.reviews.first_step(reviewer)
        return first is None or first >= text_of(datetime.fromtimestamp(since, UTC))

    @contextmanager
    def log(self) -> Iterator[LogReader]:
        """Open the decision log. Raises DecisionLogError."""
        with open_log(self.options.log, self.options.log_password_env) as opened:
            yield opened


@dataclass(frozen=True, slots=True)
class Call:
    """A request of somebody who is signed in.

    Attributes:
        who: whose key it is, and what it may do.
        csrf: what forms must carry.
    """

    desk: Desk
    who: Viewer
    csrf: str
    path: Mapping[str, Any]
    query: Mapping[str, str]
    form: Mapping[str, str]

    @property
    def scope(self) -> str | None:
        """The tenant whose records may be seen; None means those of all. An admin sees all."""
        return None if self.who.may("admin") else self.who.tenant

    def sees(self, tenant: str | None) -> bool:
        """Whether records of a tenant may be seen."""
        return self.scope is None or self.scope == tenant

    def page(self, template: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401 - of the template
        """Answer with a page or a part of one."""
        guard = self.desk.guard
        shared = {
            "who": self.who,
            "csrf": self.csrf,
            "guard": guard,
            "mode": self.desk.options.mode(),
            "categories": {} if guard is None else guard.categories,
            "version": __version__,
            "all_tenants": self.scope is None,
        }
        return HTMLResponse(render(template, {**shared, **values}), status)

    def wanted(self, name: str) -> str | None:
        """Return a value of the address, or None if it is empty or not there."""
        return self.query.get(name, "").strip() or None


Handler = Callable[[Call], Response]


@dataclass(frozen=True, slots=True)
class Page:
    """A page: where it is, who may see it, and what answers.

    Attributes:
        path: below `/admin`.
        role: the least role that may see it.
        awake: whether its call shows that a person acts.
    """

    path: str
    answer: Handler
    role: Role = "reviewer"
    method: str = "GET"
    awake: bool = True


def go_to(path: str, **query: str | int) -> Response:
    """Send the browser to another page after a form."""
    asked = f"?{urlencode(query)}" if query else ""
    return RedirectResponse(f"{ROOT}{path}{asked}", 303)


def newest(call: Call, since: str | None, most: int) -> tuple[tuple[Line, ...], bool]:
    """Return the newest decisions that may be seen, and whether these are all since then."""
    with call.desk.log() as log:
        found = log.find(lambda one: call.sees(one.tenant), since=since, most=most)
    return found.lines, found.end is None
