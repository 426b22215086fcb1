"""The schema of the config file. Unknown keys are errors."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lockgate.gateway._guards import DEFAULT

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Mode = Literal["enforce", "shadow", "canary"]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BreakerConfig(_Strict):
    """When something counts as down."""

    failures: Count = Field(
        default=5, description="Failures in a row after which nobody waits for it any more."
    )
    pause: Seconds = Field(default=15.0, description="Seconds until one attempt is let through again.")


class UpstreamConfig(_Strict):
    """A server that writes answers."""

    url: str = Field(description="Base address, such as http://127.0.0.1:8080/v1.")
    models: list[str] = Field(default=[], description="Models that clients name for this upstream.")
    model: str | None = Field(default=None, description="Model to ask for, whatever name the client gives.")
    key_env: str | None = Field(default=None, description="Environment variable with the upstream's key.")
    media: Literal["refuse", "pass"] = Field(
        default="refuse", description="Images, audio and files, which the guard can't read."
    )
    connect_timeout: Seconds = Field(default=10.0, description="Seconds to connect.")
    first_timeout: Seconds = Field(default=120.0, description="Seconds until an answer begins.")
    idle_timeout: Seconds = Field(
        default=60.0, description="Seconds without a byte after which it counts as dead."
    )
    retries: int = Field(default=2, ge=0, le=10, description="Further attempts before the first byte.")
    max_answer_bytes: Count = Field(default=8 << 20, description="Longest answer that is not streamed.")
    max_event_bytes: Count = Field(default=1 << 20, description="Longest event of a stream.")
    breaker: BreakerConfig = Field(default=BreakerConfig(), description="When it counts as down.")


class _Modal(_Strict):
    mode: Mode | None = Field(default=None, description="enforce, shadow or canary.")
    canary_percent: Percent | None = Field(
        default=None, description="Share of the requests that `mode: canary` enforces."
    )

    @model_validator(mode="after")
    def _has_share(self) -> Self:
        if (self.mode == "canary") != (self.canary_percent is not None):
            raise ValueError("`canary_percent` and `mode: canary` need each other")
        return self


class KeyConfig(_Modal):
    """A key that clients may send. Its policy goes before that of the route."""

    guard: Name | None = Field(
        default=None, description="Guard for its requests: one of `guards`. Without it: the default one."
    )
    env: str | None = Field(default=None, description="Environment variable that holds the key.")
    file: str | None = Field(
        default=None, description="File that holds the key, relative to the config file."
    )

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("expected either `env` or `file`")
        return self


class RouteConfig(_Modal):
    """The policy of a route."""

    on_failure: Literal["closed", "open"] = Field(
        default="closed", description="open: if the guard fails, answers leave unguarded, and say so."
    )


class ConversationsConfig(_Strict):
    """What is remembered of conversations. Changes need a restart."""

    memory: str = Field(
        description="File of `lockgate memory`, made for the guard. Relative to the config file."
    )
    life: Seconds = Field(
        default=3600.0, description="Seconds after its newest exchange until one is forgotten."
    )
    most: Count = Field(default=100_000, description="Conversations that are remembered.")


class LogConfig(_Strict):
    """Where and how decisions are recorded. Changes need a restart."""

    path: str | None = Field(
        default=None,
        description="File of the log, a database of SQLite. Relative to the config file. Without path and "
        "url: LOCKGATE_HOME/decisions.db.",
    )
    url: str | None = Field(
        default=None,
        description="Database of PostgreSQL, as postgresql://USER@HOST/DATABASE without password.",
    )
    password_env: str = Field(
        default="LOCKGATE_LOG_PASSWORD", description="Environment variable with the database's password."
    )
    writer: str | None = Field(
        default=None, description="Name of this server in the log. Without it, the machine's name."
    )
    content: Literal["none", "redacted", "encrypted", "full"] = Field(
        default="none", description="What is kept of the text of exchanges."
    )
    public_key: str | None = Field(
        default=None, description="Public key of `lockgate log keygen`, for `content: encrypted`."
    )
    retention_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] | None = Field(
        default=None, description="Age in days at which records are removed. Without it they stay."
    )
    when_unwritable: Literal["stop_admission", "degrade", "block"] = Field(
        default="stop_admission",
        description="What happens while no record can be written. stop_admission: no new requests. degrade: "
        "all goes on. block: open answers are halted too.",
    )

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if self.path is not None and self.url is not None:
            raise ValueError("expected either `path` or `url`")
        return self


class OperationsConfig(_Strict):
    """Where tenants and their keys are. Changes need a restart."""

    path: str | None = Field(
        default=None, description="File of a database of SQLite. Relative to the config file."
    )
    url: str | None = Field(
        default=None,
        description="Database of PostgreSQL, as postgresql://USER@HOST/DATABASE without password.",
    )
    password_env: str = Field(
        default="LOCKGATE_OPERATIONS_PASSWORD",
        description="Environment variable with the database's password.",
    )

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("expected either `path` or `url`")
        return self


class CampaignsConfig(_Strict):
    """When many exchanges of a key raise an alert. Changes need a restart."""

    window_minutes: Annotated[float, Field(ge=1, le=1440, allow_inf_nan=False)] = Field(
        default=60.0, description="Minutes back for which exchanges count."
    )
    flags_per_hundred: Percent | None = Field(
        default=None, description="Flagged exchanges in a hundred of a key that raise an alert."
    )
    close_per_hundred: Percent | None = Field(
        default=None,
        description="Exchanges in a hundred of a key, close below the threshold, that raise an alert.",
    )
    close_margin: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0, description="How far below the threshold is close, in units of the deciding score."
    )
    duplicates: Count | None = Field(
        default=None,
        description="Flagged or close exchanges of a key, with prompts much like those of other keys, that "
        "raise an alert.",
    )
    lock_out_minutes: Annotated[float, Field(gt=0, le=525_600, allow_inf_nan=False)] | None = Field(
        default=None, description="Minutes for which an alert locks the key out. Without it: not at all."
    )

    @model_validator(mode="after")
    def _has_signal(self) -> Self:
        if self.flags_per_hundred is None and self.close_per_hundred is None and self.duplicates is None:
            raise ValueError("expected flags_per_hundred, close_per_hundred or duplicates")
        return self


class TelemetryConfig(_Strict):
    """Traces and metrics for a collector of OpenTelemetry. Needs the extra `otel`. Changes need a restart."""

    endpoint: str = Field(
        description="Base address of the collector for OTLP over HTTP, such as http://127.0.0.1:4318."
    )
    headers_env: str | None = Field(
        default=None,
        description="Environment variable with headers for it, as NAME=VALUE,NAME=VALUE with values in "
        "percent-encoding.",
    )
    service_name: str = Field(default="lockgate", description="The service that this server is part of.")
    traces: bool = Field(default=True, description="Send traces.")
    metrics: bool = Field(default=True, description="Send what /metrics shows.")
    sample_percent: Percent = Field(
        default=100.0,
        description="Share of the traces that are sent. A request that names a trace of its own follows it.",
    )
    interval: Seconds = Field(default=10.0, description="Seconds from one sending to the next.")


class BuildConfig(_Strict):
    """How `lockgate build` makes the guards that admins ask for. Paths are relative to the config file."""

    constitution: str = Field(description="File of the policy.")
    work: str = Field(description="Folder for data, scores, reports and the record of each build.")
    benign: list[str] = Field(default=[], description="Files of your traffic, which set the threshold.")
    data: list[str] = Field(default=[], description="Files of labelled exchanges that train too.")
    evaluation: list[str] = Field(default=[], description="Files of exchanges for the report only.")
    plan: str | None = Field(default=None, description="File with the plan of the data.")
    preset: str | None = Field(default=None, description="The build's --preset.")
    generator: str = Field(default="embedded", description="embedded, a model's folder, or an address.")
    model: str | None = Field(default=None, description="Name of the generator's model at the address.")
    key_env: str | None = Field(default=None, description="Environment variable with the generator's key.")
    device: str = Field(default="auto", description="Device that computes.")
    dtype: str = Field(default="auto", description="Precision.")
    budget: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Wanted refusal budget."
    )
    benign_share: Annotated[float, Field(ge=0, le=0.9)] | None = Field(
        default=None, description="Share of the traffic's prompts that train."
    )
    hold_out_reviews: Annotated[float, Field(ge=0, le=0.9)] | None = Field(
        default=None, description="Share of the reviews that only compare both guards."
    )
    epochs: Count | None = Field(default=None, description="Epochs of the probe's training.")
    folds: int | None = Field(default=None, ge=0, description="Folds of the cross-validation.")
    max_rows: Count | None = Field(default=None, description="Largest number of training exchanges.")
    max_tokens: Annotated[int, Field(ge=32)] | None = Field(
        default=None, description="Training reads at most so many last tokens of an exchange."
    )
    workers: Count | None = Field(default=None, description="Processes that read and score.")


class DashboardConfig(_Strict):
    """What admins may change from the dashboard. Changes need a restart."""

    guards: str = Field(
        description="Folder of guards that may take over, each a folder of its own. Relative to the config "
        "file. `guard` must then name a link, as `lockgate promote --as` makes it."
    )
    build: BuildConfig | None = Field(
        default=None, description="Lets admins start builds. Without it, there are none."
    )


class ListenConfig(_Strict):
    """Where the server listens. Changes need a restart."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on.")
    allowed_hosts: list[str] = Field(default=[], description="Further host names that requests may use.")
    insecure: bool = Field(default=False, description="Serve other machines without a key.")
    max_connections: Count = Field(default=1024, description="Connections at a time.")
    drain_timeout: Seconds = Field(
        default=30.0, description="Seconds that open answers have to end at shutdown."
    )
    metrics_key_env: str | None = Field(
        default=None,
        description="Environment variable with the key for /metrics. Without it, only this machine may read "
        "them, and only if clients need no key.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Form of the lines on standard error. json: an object on each line."
    )


class LimitsConfig(_Strict):
    """Limits of the engine. Changes need a restart."""

    max_streams: Count = Field(default=8, description="Answers that are read at a time.")
    max_queue: int = Field(default=32, ge=0, description="Requests that may wait.")
    kv_tokens: Annotated[int, Field(ge=16)] | None = Field(
        default=None,
        description="Key-value memory in tokens. Without it, two full contexts or 2048 per stream.",
    )
    default_max_tokens: Count = Field(
        default=1024, description="Length of an answer if the request names none."
    )
    longest_prompt: Count = Field(
        default=32_768, description="Longest prompt for an upstream, in the guard's tokens."
    )
    hold_tokens: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Read and release an upstream's answers in steps of at least so many tokens. A flag "
        "keeps back its whole step.",
    )
    hold_ms: Annotated[float, Field(gt=0, le=60_000, allow_inf_nan=False)] = Field(
        default=250.0,
        description="Milliseconds that text waits at most for the further tokens of its step.",
    )
    block_input_status: Literal[200, 400] = Field(
        default=200, description="HTTP status for a flagged prompt."
    )
    step_timeout: Seconds = Field(default=120.0, description="Seconds after which a step counts as failed.")
    verdict_timeout: Seconds = Field(
        default=30.0, description="Seconds that the second stage may make no progress."
    )
    queue_timeout: Seconds = Field(default=120.0, description="Seconds that a request may wait.")
    promotion_timeout: Seconds = Field(
        default=30.0,
        description="Seconds that open answers have to end when another guard takes over. Requests wait "
        "meanwhile.",
    )
    verdict_breaker: BreakerConfig = Field(
        default=BreakerConfig(), description="When the second stage counts as down."
    )
    release: Literal["token", "block"] = Field(
        default="token",
        description="token: what is cleared leaves at once. block: every answer leaves in whole blocks of a "
        "guard of two stages, so that pieces don't show which ones its second stage was asked about.",
    )


class Config(_Strict):
    """The config file of `lockgate serve`."""

    guard: str = Field(
        default="embedded",
        description="A guard's folder, `embedded` or `stand-in`. Another one, or other content, takes over "
        "at SIGHUP.",
    )
    guards: dict[Name, str] = Field(
        default={},
        description="Folders of further guards of the same backbone, by the names that tenants and keys "
        "give. Another folder, or other content, takes over at SIGHUP; other names need a restart.",
    )
    backbone: str = Field(
        default="embedded", description="The guard's model, or `embedded`. Needs a restart."
    )
    device: str = Field(default="auto", description="Device that computes. Needs a restart.")
    dtype: str = Field(default="auto", description="Precision. Needs a restart.")
    threads: Count | None = Field(
        default=None, description="Processor threads for the model, by trial if left out. Needs a restart."
    )
    log: LogConfig = Field(default=LogConfig(), description="The decision log. Needs a restart.")
    mode: Literal["enforce", "shadow", "canary", "off"] = Field(
        default="enforce",
        description="What a flag does. off: no guard. A change to or from `off` needs a restart.",
    )
    canary_percent: Percent | None = Field(
        default=None, description="Share of the requests that `mode: canary` enforces."
    )
    upstreams: dict[Name, UpstreamConfig] = Field(
        default={},
        description="Servers that write the answers, by name. Without one, the guard's own model does.",
    )
    default: str | None = Field(
        default=None,
        description="Upstream for models that none lists. A single upstream without `models` is it anyway.",
    )
    keys: dict[Name, KeyConfig] = Field(default={}, description="Keys that clients may send, by name.")
    operations: OperationsConfig | None = Field(
        default=None,
        description="The database of tenants. With it, clients need a tenant's key or one of `keys`. Needs "
        "a restart.",
    )
    campaigns: CampaignsConfig | None = Field(
        default=None, description="Alerts about campaigns. Needs `operations`, and a restart."
    )
    dashboard: DashboardConfig | None = Field(
        default=None,
        description="Lets admins change the guard from the dashboard. Needs `operations`, and a restart.",
    )
    routes: dict[str, RouteConfig] = Field(
        default={}, description="Policies of routes, such as /v1/messages."
    )
    conversations: ConversationsConfig | None = Field(
        default=None,
        description="Lets exchanges of a conversation add up, for requests with X-Lockgate-Conversation.",
    )
    telemetry: TelemetryConfig | None = Field(
        default=None, description="What is sent to a collector. Without it, nothing is. Needs a restart."
    )
    listen: ListenConfig = Field(default=ListenConfig(), description="Where the server listens.")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="Limits of the engine.")

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads `off` as a boolean

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.mode == "canary") != (self.canary_percent is not None):
            raise ValueError("`canary_percent` and `mode: canary` need each other")
        if self.default is not None and self.default not in self.upstreams:
            raise ValueError("default: expected the name of one of the upstreams")
        names = [model for upstream in self.upstreams.values() for model in upstream.models]
        if len(set(names)) < len(names):
            raise ValueError("upstreams: a model is listed twice; each can have one upstream only")
        if self.campaigns is not None and self.operations is None:
            raise ValueError("campaigns: need `operations`, where alerts are kept")
        self._check_guards()
        if self.dashboard is not None and self.operations is None:
            raise ValueError("dashboard: needs `operations`, where its users are")
        if self.mode == "off":
            self._check_off()
        if not self.upstreams and any(route.on_failure == "open" for route in self.routes.values()):
            raise ValueError("routes: `on_failure: open` needs upstreams, since nothing else can go on")
        return self

    def _check_guards(self) -> None:
        if DEFAULT in self.guards:
            raise ValueError(f"guards.{DEFAULT}: this is the name of `guard`; choose another one")
        for name, key in self.keys.items():
            if key.guard not in (None, DEFAULT, *self.guards):
                raise ValueError(f"keys.{name}.guard: expected the name of one of the `guards`")

    def _check_off(self) -> None:
        modes = any(key.mode is not None for key in self.keys.values())
        if self.routes or self.conversations or self.campaigns or self.guards or modes:
            raise ValueError(
                "mode: off leaves nothing to enforce; leave out routes, conversations, campaigns, guards and "
                "the modes of keys"
            )


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of the config file."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
