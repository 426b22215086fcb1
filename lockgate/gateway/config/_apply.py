"""What a config means for a server: its upstreams, policies and keys, at the start and at a reload."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lockgate.decisions import LogOptions
from lockgate.durable import home
from lockgate.errors import ConfigError, LockgateError
from lockgate.gateway._breaker import BreakerOptions
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._guarding import bundle_hash
from lockgate.gateway._guards import DEFAULT
from lockgate.gateway._keyring import Keyring
from lockgate.gateway._policies import Change, Policies, Policy
from lockgate.gateway.config._file import read_config
from lockgate.gateway.config._schema import Config, UpstreamConfig
from lockgate.gateway.telemetry import TelemetryOptions
from lockgate.gateway.upstream import GUARDED_ROUTES, UpstreamOptions, Upstreams, UpstreamTable
from lockgate.guards import is_shipped
from lockgate.guards.memory import read_memory
from lockgate.tenants import Book

OWN_ROUTES = ("/v1/chat/completions",)
# Keys whose changes a running server can't follow.
RESTART = (
    "backbone",
    "device",
    "dtype",
    "threads",
    "log",
    "conversations",
    "listen",
    "limits",
    "operations",
    "campaigns",
    "telemetry",
    "dashboard",
)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a running server can exchange.

    Attributes:
        config: the file's content.
        table: the upstreams. None lets the guard's own model write the answers.
        policies: what decisions and failures mean. None in mode `off`.
        keys: the clients' keys, by name.
        log: where and how decisions are recorded. None: the file does not say.
        operations: where tenants are, and the variable with that database's password. None: there are none.
        telemetry: what is sent to a collector. None: nothing.
    """

    config: Config
    table: UpstreamTable | None
    policies: Policies | None
    keys: Mapping[str, str]
    log: LogOptions | None = None
    operations: tuple[str | Path, str] | None = None
    telemetry: TelemetryOptions | None = None

    @property
    def of_keys(self) -> Mapping[str, str]:
        """Names of guards, by the names of the keys that have one."""
        return {name: key.guard for name, key in self.config.keys.items() if key.guard is not None}


class _Halfway(LockgateError):
    """A guard can't take over, and others have done so before it."""


def apply_config(config: Config, path: Path) -> Applied:
    """Resolve a config: read keys and check addresses and routes.

    Args:
        path: the config's file, which messages name and from whose folder files of keys are taken.

    Raises:
        ConfigError: a key's variable or file or the memory of conversations is not there or not valid, or an
            address, a route, the decision log's section or that of the telemetry is not valid.
        MissingExtra: what the section asks for is not installed.
    """
    known = GUARDED_ROUTES if config.upstreams else OWN_ROUTES
    for route in config.routes:
        if route not in known:
            raise ConfigError(f"{path}: routes.{route}: expected one of {', '.join(known)}")
    if config.conversations is not None:
        try:
            read_memory(path.parent / config.conversations.memory)
        except ConfigError as error:
            raise ConfigError(f"{path}: conversations.memory: {error}") from None
    return Applied(
        config,
        _table(config, path),
        _policies(config),
        _keys(config, path),
        _log(config, path),
        operations_of(config, path),
        _telemetry(config, path),
    )


def reload_config(
    path: Path, before: Applied, gateway: Gateway | None, upstreams: Upstreams | None, keyring: Keyring
) -> tuple[Applied, str]:
    """Read a config again and let the server follow it. Open answers go on as they began.

    Guards that have changed take over first, one after another, because that may fail. Each takes until its
    open answers have ended, at most `limits.promotion_timeout` seconds; then the rest of the file holds.

    Args:
        gateway: the gateway, whose policies change. None in mode `off`.

    Returns:
        What holds now, and a line that says what became of it.

    Raises:
        LockgateError: the file or a guard is broken, or the change needs a restart. Nothing has changed
            then, unless the message says which guards have taken over before.
    """
    found = apply_config(read_config(path), path)
    _check_change(path, before, found)
    promoted = "" if gateway is None else _promote(path, found.config, gateway)
    if upstreams is not None and found.table is not None:
        upstreams.replace(found.table)
    if gateway is not None and found.policies is not None:
        gateway.policies = found.policies
        gateway.guards.of_keys = found.of_keys
    keyring.replace(found.keys)
    late = [name for name in RESTART if getattr(found.config, name) != getattr(before.config, name)]
    note = f"; a restart is needed for {', '.join(late)}" if late else ""
    return found, f"config {path}: read again, it holds for new requests{promoted}{note}"


def _promote(path: Path, config: Config, gateway: Gateway) -> str:
    """Let the file's guards take over that are other ones or whose bundles have other content. Say so."""
    sources = dict(config.guards)
    if "guard" in config.model_fields_set:
        sources = {DEFAULT: config.guard, **sources}
    told = ""
    for name, source in sources.items():
        try:
            told += _promote_one(gateway, name, source if is_shipped(source) else path.parent / source)
        except LockgateError as error:
            where = "guard" if name == DEFAULT else f"guards.{name}"
            raise (_Halfway if told else ConfigError)(f"{where}: {error}{told}") from error
    return told


def _promote_one(gateway: Gateway, name: str, source: str | Path) -> str:
    serving = gateway.guards.find(name).engine.scoring
    if serving is None or bundle_hash(source) == serving.guard:
        return ""
    change = gateway.promote(source, "config", name=name)
    before, after = change.before, change.after
    which = "guard" if name == DEFAULT else f"guard {name}:"
    return (
        f"; {which} {after.name} ({after.sha256[:12]}) has taken over from {before.name} "
        f"({before.sha256[:12]})"
    )


def _check_change(path: Path, before: Applied, found: Applied) -> None:
    changes = {
        "mode: to or from off": (before.policies is None) != (found.policies is None),
        "upstreams: the first one or none": (before.table is None) != (found.table is None),
        "keys: the first one or none": bool(before.keys) != bool(found.keys),
        "guards: another name": set(before.config.guards) != set(found.config.guards),
    }
    for what, changed in changes.items():
        if changed:
            raise ConfigError(f"{path}: {what} needs a restart")


def _table(config: Config, path: Path) -> UpstreamTable | None:
    if not config.upstreams:
        return None
    upstreams = {name: _upstream(path, name, found) for name, found in config.upstreams.items()}
    models = {model: name for name, found in config.upstreams.items() for model in found.models}
    default = config.default
    if default is None and len(upstreams) == 1 and not models:
        default = next(iter(upstreams))
    return UpstreamTable(upstreams, models, default)


def _upstream(path: Path, name: str, found: UpstreamConfig) -> UpstreamOptions:
    breaker = BreakerOptions(found.breaker.failures, found.breaker.pause)
    plain = found.model_dump(exclude={"models", "breaker"})
    try:
        return UpstreamOptions(**plain, breaker=breaker)
    except ConfigError as error:
        raise ConfigError(f"{path}: upstreams.{name}: {error}") from None


def _policies(config: Config) -> Policies | None:
    if config.mode == "off":
        return None
    return Policies(
        Policy(config.mode, config.canary_percent or 0.0),
        {
            route: Change(found.mode, found.canary_percent, found.on_failure)
            for route, found in config.routes.items()
        },
        {name: Change(found.mode, found.canary_percent) for name, found in config.keys.items()},
    )


def _log(config: Config, path: Path) -> LogOptions | None:
    found = config.log
    if "log" not in config.model_fields_set:
        return None
    own = home() / "decisions.db" if found.path is None else path.parent / found.path
    try:
        return LogOptions(
            own if found.url is None else found.url,
            content=found.content,
            public_key=found.public_key,
            retention_days=found.retention_days,
            when_unwritable=found.when_unwritable,
            writer=found.writer or "",
            password_env=found.password_env,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: log: {error}") from None


def _telemetry(config: Config, path: Path) -> TelemetryOptions | None:
    found = config.telemetry
    if found is None:
        return None
    plain = found.model_dump(exclude={"sample_percent"})
    try:
        return TelemetryOptions(**plain, share=found.sample_percent / 100)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def operations_of(config: Config, path: Path) -> tuple[str | Path, str] | None:
    """Return where the operations database is, and the variable with its password; None without one.

    Args:
        path: the config's file.

    Raises:
        ConfigError: the address is of no known kind or holds a password.
    """
    found = config.operations
    if found is None:
        return None
    where = path.parent / (found.path or "") if found.url is None else found.url
    try:
        Book(where, found.password_env)
    except ConfigError as error:
        raise ConfigError(f"{path}: operations: {error}") from None
    return where, found.password_env


def _keys(config: Config, path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, source in config.keys.items():
        where = f"{path}: keys.{name}"
        if source.env is not None:
            key = os.environ.get(source.env, "").strip()
            missing = f"the environment variable {source.env} is not set"
        else:
            file = path.parent / (source.file or "")
            try:
                key = file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{where}: {file}: not readable ({type(error).__name__})") from error
            missing = f"{file} is empty"
        if not key:
            raise ConfigError(f"{where}: {missing}")
        if key in found.values():
            raise ConfigError(f"{where}: is the same key as another one's")
        found[name] = key
    return found


class Follower:
    """Lets a running server follow its config file. Any thread may call it; calls take turns.

    Args:
        path: the config file.
        applied: what the server began with.
        gateway, upstreams, keyring: what changes, see `reload_config`.
        tell: takes one line for the operator.
    """

    def __init__(
        self,
        path: Path,
        applied: Applied,
        gateway: Gateway | None,
        upstreams: Upstreams | None,
        keyring: Keyring,
        tell: Callable[[str], None],
    ) -> None:
        self._path = path
        self._applied = applied
        self._parts = (gateway, upstreams, keyring)
        self._tell = tell
        self._lock = threading.Lock()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Keep the server from following its file until the block ends."""
        with self._lock:
            yield

    def __call__(self) -> None:
        """Read the file again. A broken one changes nothing."""
        with self._lock:
            try:
                self._applied, line = reload_config(self._path, self._applied, *self._parts)
            except Exception as error:  # the server must go on whatever the file holds
                reason = str(error) if isinstance(error, LockgateError) else type(error).__name__
                what = "nothing else has changed" if isinstance(error, _Halfway) else "nothing has changed"
                line = f"config {self._path}: {what}: {' '.join(reason.split())}"
        self._tell(line)
