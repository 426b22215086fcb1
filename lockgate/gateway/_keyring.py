"""The keys that clients may send, by name, and the middleware that asks for one."""

import hmac
from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lockgate.gateway._errors import ApiError, error_response

# Name of the key that has none of its own.
UNNAMED = ""
_NAME = "lockgate.key"
# Beginnings of the paths that need a key.
_KEPT = ("/v1/", "/beta/", "/openapi.json")


class Keyring:
    """The keys of a server. `replace` changes them for the requests that follow."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys: Mapping[str, bytes] = {}
        self.replace(keys)

    def replace(self, keys: Mapping[str, str]) -> None:
        """Take other keys, by name."""
        self._keys = {name: key.encode() for name, key in keys.items()}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, given: Iterable[str]) -> str | None:
        """Return the name of a key among the `given` ones, or None. The time tells nothing about the keys."""
        found = None
        for text in given:
            for name, key in self._keys.items():
                if hmac.compare_digest(text.encode(), key):
                    found = name
        return found


class KeyCheck:
    """Middleware that asks for a key. Health checks and the playground stay open.

    LiteLLM sends the key to its guardrail as `x-api-key`.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_KEPT):
            name = self._keyring.find(_given(scope))
            if name is None:
                error = ApiError(
                    401,
                    "A valid API key is required: send it as `Authorization: Bearer KEY`.",
                    kind="authentication_error",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error_response(error)(scope, receive, send)
                return
            scope[_NAME] = name
        await self._app(scope, receive, send)


def key_of(request: Request) -> str | None:
    """Return the name of the key of a request, or None if the server asks for no key."""
    name: str | None = request.scope.get(_NAME)
    return name


def _given(scope: Scope) -> list[str]:
    headers = Headers(scope=scope)
    scheme, _, given = headers.get("authorization", "").partition(" ")
    keys = [given.strip()] if scheme.lower() == "bearer" else []
    # Anthropic's clients send the key to their route under this name too.
    takes_it = scope["path"].startswith("/beta/") or scope["path"] == "/v1/messages"
    return keys + (headers.getlist("x-api-key") if takes_it else [])
