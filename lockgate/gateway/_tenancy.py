"""What a server does for its tenants, or nothing if it has none."""

from collections.abc import Sequence

from lockgate.decisions import Decision
from lockgate.gateway._clients import Client
from lockgate.gateway._errors import ApiError
from lockgate.gateway._metrics import Metrics
from lockgate.tenants import Tenants


class Tenancy:
    """The tenants of a server.

    Args:
        metrics: tells which exchanges are over.
    """

    def __init__(self, tenants: Tenants | None, metrics: Metrics) -> None:
        self._tenants = tenants
        if tenants is not None:
            metrics.listeners.append(self._note)

    def open(self) -> None:
        """Open the operations database, unless it is open. Raises OperationsError."""
        if self._tenants is not None and not self._tenants.database.is_open:
            self._tenants.open()

    def close(self) -> None:
        """Close it, and give back what this server holds of its limits."""
        if self._tenants is not None:
            self._tenants.close()

    def problems(self) -> list[str]:
        """List the faults that are open now."""
        return [] if self._tenants is None or self._tenants.fault is None else [self._tenants.fault]

    def count_prompt(self, client: Client, tokens: Sequence[int]) -> None:
        """Hold a client's prompt against its limits. Raises ApiError (400)."""
        longest = client.settings.longest_prompt
        if longest is not None and len(tokens) > longest:
            raise ApiError(
                400,
                f"This tenant's prompts hold {longest} tokens, but the messages come to {len(tokens)}. "
                "Shorten them.",
                param="messages",
                code="context_length_exceeded",
            )
        if self._tenants is not None and client.tenant:
            self._tenants.limits.spend(client.tenant, len(tokens))

    def _note(self, record: Decision) -> None:
        if self._tenants is not None and record.tenant:
            self._tenants.limits.spend(record.tenant, record.completion_tokens)
