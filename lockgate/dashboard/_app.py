"""The dashboard as an ASGI application: who may call, what every answer carries, and signing in."""

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lockgate.dashboard import (
    _alerts,
    _builds,
    _exchanges,
    _guards,
    _keys,
    _limits,
    _overview,
    _review,
    _rollout,
    _thresholds,
)
from lockgate.dashboard._desk import ROOT, Call, DashboardOptions, Desk, Page, PageError, Viewer
from lockgate.dashboard._sessions import LIFE, csrf_of
from lockgate.dashboard._templates import HERE, render
from lockgate.errors import ConfigError, LockgateError, OperationsError
from lockgate.tenants import Tenants

logger = logging.getLogger("lockgate.dashboard")

R = TypeVar("R")
CSRF_HEADER = "x-lockgate-csrf"
_LARGEST_FORM = 64 * 1024
_FORM_SECONDS = 10.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # With `no-referrer`, browsers would send forms without their origin.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_PAGES: tuple[Page, ...] = (
    *_overview.PAGES,
    *_exchanges.PAGES,
    *_thresholds.PAGES,
    *_review.PAGES,
    *_guards.PAGES,
    *_alerts.PAGES,
    *_limits.PAGES,
    *_builds.PAGES,
    *_rollout.PAGES,
    *_keys.PAGES,
)


class Dashboard:
    """The dashboard below `/admin`. `routes` go into the server's application.

    Args:
        options: what it shows.
        tenants: who may sign in: keys with the role `reviewer` or `admin`. It is open while the dashboard is.
    """

    def __init__(self, options: DashboardOptions, tenants: Tenants) -> None:
        self._desk = Desk(options, tenants)
        # Pages wait for databases in threads of their own number: they take none from the server.
        self._limiter: anyio.CapacityLimiter | None = None
        routes = [
            Route("/login", self._login_page, methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            *(Route(page.path, partial(self._answer, page), methods=[page.method]) for page in _PAGES),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        kinds = (LockgateError, HTTPException, Exception)
        handlers: dict[Any, Any] = dict.fromkeys(kinds, self._problem)
        app = Starlette(routes=routes, middleware=[Middleware(_Headers)], exception_handlers=handlers)
        # Its redirects would name a scheme, and behind a proxy with TLS that of this server is the wrong one.
        app.router.redirect_slashes = False
        self.routes: list[BaseRoute] = [Route(ROOT, _to_start, methods=["GET"]), Mount(ROOT, app)]

    def open(self) -> None:
        """Connect to the databases. Raises OperationsError, ReviewError."""
        self._desk.open()

    def close(self) -> None:
        self._desk.close()

    async def _answer(self, page: Page, request: Request) -> Response:
        """Answer a request of somebody who is signed in and may see the page."""
        form = await _form(request) if page.method == "POST" else {}
        token = request.cookies.get(self._cookie(request))
        who = None if token is None else await self._aside(self._identify, token, page.awake)
        if who is None or token is None:
            return _to_login(request)
        if page.method == "POST":
            _check_origin(request)
            _check_csrf(request, form, token)
        if not who.may(page.role):
            raise PageError(403, "Not for this key", f"This page is for keys of the role {page.role}.")
        query = dict(request.query_params)
        _check_text((*request.path_params.values(), *query.values(), *form.values()))
        call = Call(self._desk, who, csrf_of(token), request.path_params, query, form)
        return await self._aside(page.answer, call)

    def _identify(self, token: str, awake: bool) -> Viewer | None:
        """Return who a session belongs to, as long as its key is valid."""
        found = self._desk.sessions.find(token, awake=awake)
        return None if found is None else self._desk.holder(*found)

    async def _login_page(self, _: Request) -> Response:
        return HTMLResponse(render("login.html", {"problem": None}))

    async def _login(self, request: Request) -> Response:
        form = await _form(request)
        _check_origin(request)
        return await self._aside(self._sign_in, request, form.get("key", "").strip())

    def _sign_in(self, request: Request, secret: str) -> Response:
        client = _client_of(request)
        sessions = self._desk.sessions
        found = self._desk.tenants.find(secret)
        who = None if found is None else self._desk.holder(found.tenant, found.key)
        if who is None:
            # A right key is let in all the same: others may share the address, and nobody guesses 256 bits.
            if sessions.blocked(client):
                words = "Too many attempts from this address. Wait a quarter of an hour, then try again."
                return HTMLResponse(render("login.html", {"problem": words}), 429, {"retry-after": "900"})
            sessions.note_failure(client)
            words = "This is no valid key of a reviewer or an admin."
            return HTMLResponse(render("login.html", {"problem": words}), 401)
        response = RedirectResponse(f"{ROOT}/", 303)
        response.set_cookie(
            self._cookie(request),
            sessions.begin(who.tenant, who.key),
            max_age=int(LIFE),
            # `__Host-` asks for this path.
            path="/",
            secure=self._is_secure(request),
            httponly=True,
            samesite="strict",
        )
        return response

    async def _logout(self, request: Request) -> Response:
        form, token = await _form(request), request.cookies.get(self._cookie(request))
        _check_origin(request)
        if token is not None:
            _check_csrf(request, form, token)
            await self._aside(self._desk.sessions.end, token)
        response = RedirectResponse(f"{ROOT}/login", 303)
        name, secure = self._cookie(request), self._is_secure(request)
        response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
        return response

    async def _aside(self, call: Callable[..., R], *values: Any) -> R:  # noqa: ANN401 - what the call takes
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(4)
        return await anyio.to_thread.run_sync(call, *values, limiter=self._limiter)

    def _is_secure(self, request: Request) -> bool:
        """Tell whether the cookie needs TLS: unless the browser is on this machine, as far as names tell.

        A proxy with TLS on this machine passes on the name that the browser asked for.
        """
        return not self._desk.options.loopback or request.url.hostname not in _LOOPBACK

    def _cookie(self, request: Request) -> str:
        return "__Host-lockgate" if self._is_secure(request) else "lockgate"

    async def _problem(self, request: Request, error: Exception) -> Response:
        status, title = 500, "This did not work"
        words = str(error)
        if isinstance(error, PageError):
            status, title = error.status, error.title
        elif isinstance(error, HTTPException):
            status, words = error.status_code, "There is no such page."
            title = "Not found" if status == 404 else title
        elif isinstance(error, ConfigError):
            status, title = 400, "This can't be shown"
        elif isinstance(error, OperationsError):
            # Perhaps nobody has signed in, and then where the database is concerns only the server's log.
            logger.error("%s", error)
            status, words = 503, "The operations database can't be read now. The server's log says why."
        elif isinstance(error, LockgateError):
            status = 503  # another database that can't be read now
        else:
            words = "This is a bug. The server's log says more."
        return HTMLResponse(render("problem.html", {"title": title, "words": words}), status)


class _Headers:
    """Middleware that adds the security headers. Pages are never kept by a browser or a proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                asset = scope.get("path", "").startswith(f"{ROOT}/static/")
                headers["cache-control"] = "no-cache" if asset else "no-store"
            await send(message)

        await self._app(scope, receive, add)


async def _form(request: Request) -> dict[str, str]:
    """Read a form. Of a name that comes more than once the last value counts. Raises PageError."""
    body = b""
    try:
        # Nobody has signed in yet, perhaps: a form that never ends must not keep its connection.
        async with asyncio.timeout(_FORM_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > _LARGEST_FORM:
                    raise PageError(413, "Too much text", "The form is larger than one of this page can be.")
    except TimeoutError:
        raise PageError(408, "The form did not arrive", "Go back and send it again.") from None
    except ClientDisconnect:
        raise PageError(400, "The form did not arrive", "The connection was closed before its end.") from None
    try:
        return dict(
            parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=100)
        )
    except (UnicodeDecodeError, ValueError):
        raise PageError(400, "This form can't be read", "Go back and send it again.") from None


def _check_text(values: Iterable[str]) -> None:
    """Refuse what no database can compare with its texts. Raises PageError."""
    if any("\0" in value for value in values):
        raise PageError(400, "This can't be read", "A text holds the character NUL. Take it out.")


def _check_origin(request: Request) -> None:
    """Refuse a form that another site sent. Raises PageError."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = request.headers.get("host", "")
    if site is not None:
        fine = site == "same-origin"
    else:
        fine = origin is not None and urlsplit(origin).netloc == own
    if not fine:
        raise PageError(403, "Sent from elsewhere", "Forms are taken only from pages of this server.")


def _check_csrf(request: Request, form: dict[str, str], token: str) -> None:
    """Refuse a form without the session's own token. Raises PageError."""
    given = request.headers.get(CSRF_HEADER) or form.get("csrf", "")
    if not hmac.compare_digest(given.encode(), csrf_of(token).encode()):
        raise PageError(403, "This form is too old", "Load the page again, then send the form again.")


async def _to_start(_: Request) -> Response:
    return RedirectResponse(f"{ROOT}/", 303, _HEADERS)


def _to_login(request: Request) -> Response:
    if request.headers.get("hx-request"):
        # A part of a page can't show the form; the whole page must go there.
        return Response(status_code=401, headers={"hx-redirect": f"{ROOT}/login"})
    return RedirectResponse(f"{ROOT}/login", 303)


def _client_of(request: Request) -> str:
    """Return the address that attempts are counted for; of IPv6 its network, which one client has whole."""
    host = "" if request.client is None else request.client.host
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
