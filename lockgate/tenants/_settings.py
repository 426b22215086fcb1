"""What holds for a tenant: its mode and its limits."""

import re
from typing import Literal, Self

import msgspec

from lockgate.errors import ConfigError, OperationsError

TenantMode = Literal["enforce", "shadow", "canary"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Settings of a tenant. None leaves a limit out, or the mode as the server has it.

    Attributes:
        guard: name in the server's config of the guard that judges its requests. None: the default one.
        canary_percent: share of the requests that `mode: canary` enforces.
        requests_per_minute: rate at which the bucket of requests fills.
        burst: requests that the bucket holds. None: those of a minute, and at least one.
        tokens_per_minute: rate of tokens read, in the guard's tokens; the bucket holds those of a minute.
        concurrent: requests at a time.
        longest_body: bytes of a request's body.
        longest_prompt: tokens of a prompt.
    """

    guard: str | None = None
    mode: TenantMode | None = None
    canary_percent: float | None = None
    requests_per_minute: float | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    longest_body: int | None = None
    longest_prompt: int | None = None

    def check(self) -> None:
        """See whether the settings have a meaning. Raises ConfigError."""
        if self.guard is not None and not _NAME.fullmatch(self.guard):
            raise ConfigError("guard: expected the name of one of the config's `guards`")
        if (self.mode == "canary") != (self.canary_percent is not None):
            raise ConfigError("canary_percent: and mode canary need each other")
        if self.canary_percent is not None and not 0 <= self.canary_percent <= 100:
            raise ConfigError("canary_percent: expected 0 to 100")
        rate = self.requests_per_minute
        if rate is not None and not 0 < rate <= 1e6:
            raise ConfigError("requests_per_minute: expected more than 0, and 1000000 at most")
        if self.burst is not None and rate is None:
            raise ConfigError("burst: needs requests_per_minute")
        for name in ("burst", "tokens_per_minute", "concurrent", "longest_body", "longest_prompt"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1 << 31:
                raise ConfigError(f"{name}: expected at least 1, and less than 2147483648")

    @property
    def most_requests(self) -> float:
        """Requests that a full bucket holds."""
        if self.burst is not None:
            return float(self.burst)
        return max(1.0, self.requests_per_minute or 0.0)

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str, tenant: str) -> Self:
        """Read settings of the database.

        Raises:
            OperationsError: they have fields or values that this version does not know. Ignoring a limit
                would not be safe.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise OperationsError(
                f"operations database: settings of tenant {tenant}: {error}; a newer Lockgate may have "
                "written them"
            ) from None
