"""What all pages share: who asks, what they may see, and how a page is answered."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.responses import HTMLResponse, RedirectResponse, Response

from lockgate._version import __version__
from lockgate.dashboard._figures import text_of
from lockgate.dashboard._guard import ServedGuard
from lockgate.dashboard._kept import Kept
from lockgate.dashboard._scores import margin_of
from lockgate.dashboard._sessions import Sessions
from lockgate.dashboard._templates import render
from lockgate.decisions import Decision, Line, LogReader, open_log
from lockgate.errors import ConfigError, LockgateError
from lockgate.reviews import Reviews
from lockgate.rollout import Builds, Rollout
from lockgate.tenants import Principal, Role, Settings, Tenants

ROOT = "/admin"
# Name of the guard for all who name none.
DEFAULT = "default"


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
        further: tells the guards that serve beside it, by their names in the config.
        loopback: whether only this machine reaches the server. Cookies may then go without TLS.
        rollout: changes the guard; None if the operator has not allowed that.
        builds: makes new guards; None if the operator has not allowed that.
        clock: seconds since 1970.
    """

    log: str | Path
    log_password_env: str
    mode: Callable[[], str]
    guard: Callable[[], ServedGuard | None] = lambda: None
    further: Callable[[], Mapping[str, ServedGuard]] = dict
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

    @property
    def guards(self) -> dict[str, ServedGuard]:
        """All guards by name, the default one first; empty in mode `off`."""
        first = self.guard
        return {} if first is None else {DEFAULT: first, **self.options.further()}

    def guards_of(self, tenant: str) -> dict[str, ServedGuard]:
        """Return the guard that judges a tenant's requests, by its name. Raises OperationsError."""
        every = self.guards
        if len(every) < 2:
            return every
        settings = next((one.settings for one in self.tenants.tenants() if one.name == tenant), Settings())
        name = settings.guard or DEFAULT
        return {name: every[name]} if name in every else {}

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


class Choice(NamedTuple):
    """The guard that a page is about.

    Attributes:
        name: its name in the config.
        guard: None in mode `off`, or if the server lacks the guard of the reader's tenant.
        names: the names of the guards that may be chosen.
        alone: whether no other guard serves here.
    """

    name: str
    guard: ServedGuard | None
    names: tuple[str, ...]
    alone: bool

    def has(self, one: Decision) -> bool:
        """Whether a decision counts on the page. Beside other guards, only those of its own bundle do."""
        return self.alone or (self.guard is not None and one.guard == self.guard.sha256)


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
        guards = list(self.guards.values())
        shared = {
            "who": self.who,
            "csrf": self.csrf,
            "guard": guards[0] if guards else None,
            "mode": self.desk.options.mode(),
            "categories": categories_of(guards),
            "version": __version__,
            "all_tenants": self.scope is None,
        }
        return HTMLResponse(render(template, {**shared, **values}), status)

    @property
    def guards(self) -> dict[str, ServedGuard]:
        """The guards that may be seen, by name: an admin sees all, a reviewer that of its tenant."""
        return self.desk.guards if self.scope is None else self.desk.guards_of(self.scope)

    def choice(self) -> Choice:
        """Return the guard that `guard` in the address names; else the first one. Raises PageError."""
        guards = self.guards
        name = self.wanted("guard") or next(iter(guards), DEFAULT)
        if name not in guards and self.wanted("guard") is not None:
            raise PageError(404, "No such guard", f"Expected one of {', '.join(guards) or 'none'}.")
        return Choice(name, guards.get(name), tuple(guards), alone=len(self.desk.guards) < 2)

    def margins(self) -> Callable[[Decision], float]:
        """Return what tells margins: by the guard that decided, or the first one if it serves no longer."""
        guards = list(self.guards.values())
        records = {guard.sha256: guard.record for guard in guards}
        usual = guards[0].record if guards else None
        return lambda one: margin_of(one, records.get(one.guard or "", usual))

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


def categories_of(guards: Sequence[ServedGuard]) -> dict[str, str]:
    """Return the titles of the harmful categories of guards, by id. Of equal ids the first one counts."""
    return {name: title for guard in reversed(guards) for name, title in guard.categories.items()}


def go_to(path: str, **query: str | int) -> Response:
    """Send the browser to another page after a form."""
    asked = f"?{urlencode(query)}" if query else ""
    return RedirectResponse(f"{ROOT}{path}{asked}", 303)


def newest(call: Call, since: str | None, most: int) -> tuple[tuple[Line, ...], bool]:
    """Return the newest decisions that may be seen, and whether these are all since then."""
    with call.desk.log() as log:
        found = log.find(lambda one: call.sees(one.tenant), since=since, most=most)
    return found.lines, found.end is None
