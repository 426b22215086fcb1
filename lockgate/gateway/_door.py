"""The middleware at the door: it asks for a key, finds out whose it is, and keeps tenants to their limits."""

import math
from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lockgate.errors import OperationsError
from lockgate.gateway._attempts import Attempts
from lockgate.gateway._clients import Client, client_of_tenant, note_client
from lockgate.gateway._errors import ApiError, error_response
from lockgate.gateway._hosts import client_of
from lockgate.gateway._keyring import Keyring
from lockgate.gateway._limited import limit_error, limit_exceeded
from lockgate.tenants import Caller, Refusal, Tenants

# Beginnings of the paths that need a key.
_KEPT = ("/v1/", "/beta/", "/openapi.json")
# Requests that ask the operations database at a time. The others wait; the keys in use are remembered.
_READERS = 4
# Keys that are looked at in one request: that of its bearer, and one more.
_MOST_KEYS = 2


class KeyCheck:
    """Middleware that asks for a key. Health checks and the playground stay open.

    LiteLLM sends the key to its guardrail as `x-api-key`.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring
        self._attempts = Attempts()
        self._readers = anyio.CapacityLimiter(_READERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_KEPT):
            await self._app(scope, receive, send)
            return
        try:
            client, leave = await self._enter(scope)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            note_client(scope, client)
            await self._app(scope, receive, send)
        finally:
            leave()

    async def _enter(self, scope: Scope) -> tuple[Client, Callable[[], None]]:
        """Let a request in. Return whose it is, and what must be called when it is over.

        Raises:
            ApiError: no valid key (401), a key that is locked out (403), a limit is exceeded (429), or keys
                can't be read (503).
        """
        given, address = given_keys(scope), client_of(scope)
        wait = self._attempts.wait(address) if given else 0.0
        # Who guesses from an address must not stop those who share it, as all clients of a proxy do.
        name = self._keyring.find(given, long_only=wait > 0)
        if name is not None:
            return Client(address, "", name), lambda: None
        tenants = self._keyring.tenants
        caller = None if tenants is None else await self._identify(tenants, given, remembered=wait > 0)
        if tenants is None or caller is None:
            if wait:
                raise _too_many(wait)
            for _ in given:
                self._attempts.fail(address)
            raise _no_key()
        if caller.locked_for:
            raise _locked(caller.locked_for)
        return client_of_tenant(caller), await self._keep_to_limits(tenants, caller)

    async def _identify(self, tenants: Tenants, given: Sequence[str], *, remembered: bool) -> Caller | None:
        """Find out whose key is among the `given` ones.

        Args:
            remembered: whether only keys count that are remembered. So one who guesses from an address does
                not stop those who work from there too.
        """
        for secret in given:
            known = tenants.remembers(secret)
            if remembered and not known:
                continue
            try:
                # What is remembered may grow old before it is asked for, which then takes one statement.
                if known:
                    caller = tenants.identify(secret)
                else:
                    caller = await anyio.to_thread.run_sync(tenants.identify, secret, limiter=self._readers)
            except OperationsError:
                raise _unreadable() from None
            if caller is not None:
                return caller
        return None

    async def _keep_to_limits(self, tenants: Tenants, caller: Caller) -> Callable[[], None]:
        limits, tenant, settings = tenants.limits, caller.principal.tenant, caller.settings
        found = limits.try_enter(tenant, settings)
        if found is None:
            try:
                found = await anyio.to_thread.run_sync(limits.enter, tenant, settings, limiter=self._readers)
            except OperationsError:
                raise _unreadable() from None
        if isinstance(found, Refusal):
            raise limit_exceeded(found)
        return found


def given_keys(scope: Scope) -> list[str]:
    """Return the keys that a request carries."""
    headers = Headers(scope=scope)
    scheme, _, given = headers.get("authorization", "").partition(" ")
    keys = [given.strip()] if scheme.lower() == "bearer" else []
    # Anthropic's clients send the key to their route under this name too.
    if scope["path"].startswith("/beta/") or scope["path"] == "/v1/messages":
        keys += headers.getlist("x-api-key")
    return [key for key in keys if key][:_MOST_KEYS]


def _too_many(wait: float) -> ApiError:
    return limit_error("too_many_attempts", "Too many wrong keys have come from this address.", wait)


def _no_key() -> ApiError:
    return ApiError(
        401,
        "A valid API key is required: send it as `Authorization: Bearer KEY`.",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _locked(seconds: float) -> ApiError:
    return ApiError(
        403,
        "This key is locked for now.",
        kind="permission_error",
        code="key_locked",
        headers={"Retry-After": str(math.ceil(seconds))},
    )


def _unreadable() -> ApiError:
    return ApiError(
        503,
        "The server can't read keys and limits now. Try again in 1 s.",
        kind="server_error",
        code="unavailable",
        headers={"Retry-After": "1"},
    )
