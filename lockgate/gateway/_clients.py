"""Whom a request is counted for, and what holds for it. The check of keys notes it in the request's scope."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from lockgate.gateway._hosts import client_of
from lockgate.gateway._policies import Change
from lockgate.tenants import Caller, Settings

_CLIENT = "lockgate.client"
NO_SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a request is counted for.

    Attributes:
        name: whom the engine counts it for, when clients share it: the tenant, or else the address. Several
            keys give a tenant no larger share.
        tenant: name of the tenant; "" for a key of the config or the command line; None if the server asks
            for no key.
        key: public id of the key: a tenant's prefix, or the name in the config.
        settings: mode and limits of the tenant.
    """

    name: str = ""
    tenant: str | None = None
    key: str | None = None
    settings: Settings = NO_SETTINGS

    @property
    def change(self) -> Change:
        """What the tenant changes about the policy."""
        return Change(self.settings.mode, self.settings.canary_percent)

    @property
    def holder(self) -> str | None:
        """Who holds what the server remembers for later requests; None for all clients without a key.

        The names of keys have no space, so that no key has the name of a tenant here.
        """
        return f"tenant {self.tenant}" if self.tenant else self.key


def client_of_tenant(caller: Caller) -> Client:
    """Return the client that a tenant's key stands for."""
    principal = caller.principal
    return Client(f"tenant {principal.tenant}", principal.tenant, principal.key, caller.settings)


def note_client(scope: Scope, client: Client) -> None:
    """Note in a request's scope whose it is."""
    scope[_CLIENT] = client


def caller_of(request: Request) -> Client:
    """Return whose request this is. Without a check of keys, only the address tells."""
    found: Client | None = request.scope.get(_CLIENT)
    return Client(client_of(request.scope)) if found is None else found


def key_of(request: Request) -> str | None:
    """Return the name of a request's key in the config; None for keys of tenants, and without any."""
    client = caller_of(request)
    return client.key if client.tenant == "" else None
