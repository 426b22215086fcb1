"""How the server behaves towards clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lockgate.decisions import LogOptions
from lockgate.errors import ConfigError
from lockgate.gateway._conversations import Conversations
from lockgate.gateway._hosts import check_host_names
from lockgate.gateway._keyring import UNNAMED
from lockgate.gateway._options import NO_HOLD, CheckOptions, EngineOptions, Hold
from lockgate.gateway._policies import Policies
from lockgate.gateway.telemetry import TelemetryOptions
from lockgate.tenants import CampaignOptions, Tenants


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How the server behaves towards clients.

    Attributes:
        log: where and how decisions are recorded.
        default_max_tokens: longest answer, in tokens, if the request gives no limit.
        longest_prompt: tokens of the longest prompt that the guard reads for another model.
        hold: how much of an upstream's answer is read, and so released, in one step.
        block_input_status: HTTP status for a flagged prompt. 200 sends the refusal in the shape of a halted
            answer, 400 sends an error body.
        api_key: bearer token that clients must send; None asks for none.
        keys: further such tokens, by name.
        tenants: tenants, whose keys clients may send too. The server opens and closes it.
        campaigns: what counts as a campaign, for a server with tenants. None watches nothing.
        metrics_key: bearer token for `/metrics`. Without one, only this machine may read them, and only if
            clients need no key: numbers that change with a request would tell its client how close it was.
        policies: what a decision and a failure mean. None does as `engine.mode` says.
        conversations: what is remembered of conversations. None remembers nothing.
        loopback: whether only this machine can reach the server. If so, other host names are refused.
        allowed_hosts: host names that the server answers to, beside the names of this machine. If empty, a
            server that other machines can reach checks no names.
        risk_events: whether the playground is served.
        risk_header: whether requests with `x-lockgate-risk: 1` get the score of each token. It needs
            `loopback` and no key. None means: where the playground is served and that holds.
        checks: limits of the checks on text that clients send.
        telemetry: what is sent to a collector. None sends nothing.
        model_names: names under which `/v1/models/NAME` knows the model, beside that of the backbone.
    """

    log: LogOptions
    engine: EngineOptions = field(default_factory=EngineOptions)
    default_max_tokens: int = 1024
    longest_prompt: int = 32_768
    hold: Hold = NO_HOLD
    block_input_status: int = 200
    api_key: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    tenants: Tenants | None = None
    campaigns: CampaignOptions | None = None
    metrics_key: str | None = field(default=None, repr=False)
    policies: Policies | None = None
    conversations: Conversations | None = None
    loopback: bool = True
    allowed_hosts: tuple[str, ...] = ()
    risk_events: bool = False
    risk_header: bool | None = None
    model_names: tuple[str, ...] = ()
    checks: CheckOptions = field(default_factory=CheckOptions)
    telemetry: TelemetryOptions | None = None

    def __post_init__(self) -> None:
        if self.block_input_status not in (200, 400):
            raise ConfigError("block_input_status: expected 200 or 400")
        if self.default_max_tokens < 1 or self.longest_prompt < 1:
            raise ConfigError("default_max_tokens and longest_prompt: expected at least 1")
        if not all(key.strip() for key in self.all_keys.values()):
            raise ConfigError("api_key: is empty; leave it out or give a key")
        if self.metrics_key is not None and self.metrics_key in ("", *self.all_keys.values()):
            raise ConfigError("metrics_key: expected a key that no client has")
        if self.risk_header and not self.keeps_scores_here:
            raise ConfigError(
                "--risk-header: scores help attackers; it needs a loopback --host and no API key"
            )
        object.__setattr__(self, "allowed_hosts", check_host_names(self.allowed_hosts))

    @property
    def sends_risk(self) -> bool:
        """Whether scores of tokens leave at all."""
        wanted = self.risk_events if self.risk_header is None else self.risk_header
        return wanted and self.keeps_scores_here

    @property
    def keeps_scores_here(self) -> bool:
        """Whether only this machine reaches the server, and clients need no key."""
        return self.loopback and not self.needs_key

    @property
    def needs_key(self) -> bool:
        """Whether clients need a key."""
        return bool(self.all_keys) or self.tenants is not None

    @property
    def all_keys(self) -> Mapping[str, str]:
        """All keys, by name."""
        return self.keys if self.api_key is None else {**self.keys, UNNAMED: self.api_key}
