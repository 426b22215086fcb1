"""The servers that write the answers: by name, with the models that each of them serves."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lockgate.errors import ConfigError
from lockgate.gateway._errors import no_such_model
from lockgate.gateway._tracing import current_trace
from lockgate.gateway.upstream._client import UpstreamClient
from lockgate.gateway.upstream._options import UpstreamOptions

# Name of the upstream that has none of its own.
UNNAMED = "upstream"


@dataclass(frozen=True, slots=True)
class UpstreamTable:
    """Which upstream serves which model.

    Attributes:
        upstreams: their settings, by name.
        models: the name of the upstream for each model that is listed.
        default: the upstream for all other models. None refuses them.

    Raises:
        ConfigError: there is no upstream, or one is named that is not there.
    """

    upstreams: Mapping[str, UpstreamOptions]
    models: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    def __post_init__(self) -> None:
        if not self.upstreams:
            raise ConfigError("upstreams: expected at least one")
        for name in {*self.models.values(), *([] if self.default is None else [self.default])}:
            if name not in self.upstreams:
                raise ConfigError(f"upstreams: there is none named {name}")


class Upstreams:
    """The clients of all upstreams. `replace` changes them while answers are open: those go on as they began.

    Args:
        clients: clients that are there already, in place of new ones for these names.
    """

    def __init__(self, table: UpstreamTable, clients: Mapping[str, UpstreamClient] | None = None) -> None:
        self.table = table
        made = dict(clients or {})
        self._clients = {
            name: made.get(name) or UpstreamClient(options) for name, options in table.upstreams.items()
        }
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of(cls, client: UpstreamClient) -> "Upstreams":
        """Return a collection of one."""
        return cls(UpstreamTable({UNNAMED: client.options}, default=UNNAMED), {UNNAMED: client})

    def start(self) -> None:
        """Note the running event loop, which alone closes clients."""
        self._loop = asyncio.get_running_loop()

    def replace(self, table: UpstreamTable) -> None:
        """Use other upstreams for the requests that follow. Any thread may call this.

        An upstream whose settings are the same keeps its connections and its breaker.
        """
        before = self._clients
        kept = {
            name: client for name, client in before.items() if table.upstreams.get(name) == client.options
        }
        self._clients = {
            name: kept.get(name) or UpstreamClient(options) for name, options in table.upstreams.items()
        }
        self.table = table
        loop = self._loop
        if loop is not None:
            for name in before.keys() - kept.keys():
                asyncio.run_coroutine_threadsafe(before[name].retire(), loop)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()

    @property
    def reads_model(self) -> bool:
        """Whether the model's name decides about the upstream."""
        return bool(self.table.models) or self.table.default is None

    def find(self, payload: Mapping[str, Any]) -> UpstreamClient:
        """Return the upstream for a request. Raises ApiError (404): no upstream serves its model."""
        table, clients = self.table, self._clients
        model = payload.get("model")
        name = table.models.get(model, table.default) if isinstance(model, str) else table.default
        if name is None or name not in clients:
            raise no_such_model()
        if (trace := current_trace()) is not None:
            listed = model if isinstance(model, str) and model in table.models else None
            trace.name_model(clients[name].options.model or listed, name)
        return clients[name]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return each upstream's address and state, for `/readyz`."""
        return {
            name: {"url": client.options.url, "status": "down" if client.breaker.is_open else "up"}
            for name, client in self._clients.items()
        }

    def problems(self) -> list[str]:
        """List the upstreams that do not answer."""
        return [
            f"upstream {name}: does not answer; it is asked again in {client.breaker.wait:.0f} s"
            for name, client in self._clients.items()
            if client.breaker.is_open
        ]
