"""What a guard's decision and its failure mean for a request: by route and by key."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from lockgate.errors import ConfigError
from lockgate.gateway._options import Mode

PolicyMode = Literal["enforce", "shadow", "canary"]
OnFailure = Literal["closed", "open"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a decision and a failure mean.

    Attributes:
        mode: `enforce` stops flagged answers, `shadow` only records flags, `canary` enforces a share of the
            requests and only records flags of the others.
        canary_percent: that share, in percent.
        on_failure: `closed` stops an answer that can't be checked, `open` lets it leave and says so.
    """

    mode: PolicyMode = "enforce"
    canary_percent: float = 0.0
    on_failure: OnFailure = "closed"

    def __post_init__(self) -> None:
        if not 0 <= self.canary_percent <= 100:
            raise ConfigError("canary_percent: expected 0 to 100")

    def mode_for(self, request: str) -> Mode:
        """Return the mode for a request, by the hash of its id. The server makes the id, not the client."""
        if self.mode != "canary":
            return self.mode
        place = int.from_bytes(hashlib.sha256(request.encode()).digest()[:8]) / 2**64
        return "enforce" if 100 * place < self.canary_percent else "shadow"


def policy_of(mode: Mode) -> Policy:
    """Return the policy that an engine's mode stands for. Without a guard nothing depends on it."""
    return Policy("shadow" if mode == "shadow" else "enforce")


@dataclass(frozen=True, slots=True)
class Change:
    """What a route or a key changes about the policy. None changes nothing."""

    mode: PolicyMode | None = None
    canary_percent: float | None = None
    on_failure: OnFailure | None = None

    def apply(self, policy: Policy) -> Policy:
        """Return the changed policy."""
        return replace(
            policy,
            mode=policy.mode if self.mode is None else self.mode,
            canary_percent=policy.canary_percent if self.canary_percent is None else self.canary_percent,
            on_failure=policy.on_failure if self.on_failure is None else self.on_failure,
        )


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of a server.

    Attributes:
        general: what holds unless a route or a key says otherwise.
        routes: changes by route, such as `/v1/chat/completions`.
        keys: changes by the name of a key. They go before those of the route.
    """

    general: Policy = field(default_factory=Policy)
    routes: Mapping[str, Change] = field(default_factory=dict)
    keys: Mapping[str, Change] = field(default_factory=dict)

    def of(self, route: str, key: str | None = None) -> Policy:
        """Return the policy for a request with the key `key` to a route."""
        policy = self.routes.get(route, Change()).apply(self.general)
        return policy if key is None else self.keys.get(key, Change()).apply(policy)

    @property
    def open_routes(self) -> list[str]:
        """Routes whose answers leave unguarded when the guard fails."""
        return sorted(route for route, change in self.routes.items() if change.on_failure == "open")
