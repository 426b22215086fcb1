"""What `lockgate serve` does: it checks the settings, binds the port, loads the guard and runs the server."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lockgate.cli._common import EXIT_INTERNAL, EXIT_USAGE
from lockgate.cli._serve_settings import API_KEY_VARIABLE, Loaded, Settings
from lockgate.errors import ConfigError, DecisionLogError, LockgateError

logger = logging.getLogger("lockgate.serve")

if TYPE_CHECKING:
    from lockgate.decisions import LogOptions
    from lockgate.gateway import Gateway, GatewayOptions, Keyring, TelemetryOptions
    from lockgate.gateway.config import Follower
    from lockgate.gateway.upstream import Upstreams, UpstreamTable
    from lockgate.guards import Guard
    from lockgate.tenants import Tenants

ENGINES = ("lockgate", "vllm")


def run(settings: Settings, loaded: Loaded | None = None) -> None:
    """Serve until the process is told to stop.

    Raises:
        LockgateError: a setting is not valid, or the guard can't be loaded.
        typer.Exit: the same, if lines are JSON. The reason is one of them then.
    """
    from lockgate.gateway import set_up_logs

    set_up_logs(log_format(settings.log_format))
    try:
        with _no_early_hangup():
            _serve(settings, loaded)
    except typer.Exit:
        raise
    except (LockgateError, OSError) as error:
        if settings.log_format == "text":
            raise
        words = str(error) if isinstance(error, LockgateError) else error.strerror or type(error).__name__
        logger.critical("%s", words)
        raise typer.Exit(EXIT_USAGE) from None
    except Exception:
        if settings.log_format == "text":
            raise
        logger.critical("this is a bug in Lockgate; please report this line", exc_info=True)
        raise typer.Exit(EXIT_INTERNAL) from None


@contextmanager
def _no_early_hangup() -> Iterator[None]:
    """Ignore a reload that comes before the server can follow it. It would end the process."""
    hangup = getattr(signal, "SIGHUP", None)
    main = threading.current_thread() is threading.main_thread()
    if hangup is None or not main or signal.getsignal(hangup) != signal.SIG_DFL:
        yield
        return
    signal.signal(hangup, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(hangup, signal.SIG_DFL)


def log_format(name: str) -> Any:  # noqa: ANN401 - a literal type, which `set_up_logs` checks
    return name


def _serve(settings: Settings, loaded: Loaded | None) -> None:
    from lockgate.gateway import bind, check_exposure

    extra = _engine_arguments(settings.engine, settings.engine_arg or [])
    table = _table(settings) if loaded is None else loaded.applied.table
    if table is not None:
        _check_upstream_mode(settings)
    elif settings.hold_tokens > 1:
        raise ConfigError("hold_tokens: only answers of an upstream are read in larger steps; leave it out")
    options = options_of(settings, loaded, relays=table is not None)
    check_exposure(settings.host, has_key=options.needs_key, insecure=settings.insecure)
    # The port is bound before the model is loaded, so a port in use is an error at once.
    with bind(settings.host, settings.port) as bound:
        if settings.fetch and settings.backbone == "embedded":
            from lockgate.backbones import fetch_embedded

            fetch_embedded(report=lambda line: logger.info("fetch: %s", line))
        if options.tenants is not None:
            options.tenants.open()
        if table is not None and settings.mode == "off":
            _run_passing(settings, options, table, loaded, bound)
        else:
            _run_guarded(settings, options, table, loaded, bound, extra)


def options_of(settings: Settings, loaded: Loaded | None, *, relays: bool) -> "GatewayOptions":
    from lockgate.gateway import (
        BreakerOptions,
        CheckOptions,
        EngineOptions,
        GatewayOptions,
        Hold,
        is_loopback,
    )
    from lockgate.tenants import CampaignOptions

    local = is_loopback(settings.host)
    engine = EngineOptions(
        _mode(settings.mode),
        settings.max_streams,
        settings.max_queue,
        settings.kv_tokens,
        settings.step_timeout,
        settings.verdict_timeout,
        queue_timeout=settings.queue_timeout,
        promotion_timeout=settings.promotion_timeout,
    )
    more: dict[str, Any] = {"api_key": _read_key(settings.api_key_file)}
    if loaded is not None:
        limits = loaded.applied.config.limits
        breaker = BreakerOptions(limits.verdict_breaker.failures, limits.verdict_breaker.pause)
        engine = replace(engine, verdict_breaker=breaker, release=limits.release)
        policies, keys = loaded.applied.policies, loaded.applied.keys
        more = {"policies": policies, "keys": keys, "longest_prompt": limits.longest_prompt}
        if (watched := loaded.applied.config.campaigns) is not None:
            more["campaigns"] = CampaignOptions(**watched.model_dump())
    return GatewayOptions(
        log=_log(settings, loaded),
        engine=engine,
        tenants=_tenants(settings, loaded),
        telemetry=_telemetry(settings, loaded),
        default_max_tokens=settings.default_max_tokens,
        metrics_key=_metrics_key(settings.metrics_key_env),
        hold=Hold(settings.hold_tokens, settings.hold_ms / 1000),
        block_input_status=settings.block_input_status,
        loopback=local,
        allowed_hosts=tuple(settings.allowed_host or ()),
        risk_events=(not relays if settings.playground is None else settings.playground) and local,
        risk_header=settings.risk_header,
        # A path says where the model is on this machine; its last part is a name.
        model_names=(Path(settings.backbone).name,),
        checks=CheckOptions(moderation_names=_moderation_names(settings.moderation_name or [])),
        **more,
    )


def _log(settings: Settings, loaded: Loaded | None) -> "LogOptions":
    from lockgate.decisions import LogOptions
    from lockgate.durable import home

    named = None if loaded is None else loaded.applied.log
    return named or LogOptions(settings.decisions or home() / "decisions.db")


def _tenants(settings: Settings, loaded: Loaded | None) -> "Tenants | None":
    from lockgate.tenants import Tenants

    if settings.operations is not None:
        return Tenants(settings.operations)
    named = None if loaded is None else loaded.applied.operations
    return None if named is None else Tenants(*named)


def _telemetry(settings: Settings, loaded: Loaded | None) -> "TelemetryOptions | None":
    from lockgate.gateway import TelemetryOptions

    if loaded is not None:
        return loaded.applied.telemetry
    if settings.otlp_endpoint is not None:
        return TelemetryOptions(settings.otlp_endpoint, settings.otlp_headers_env)
    if settings.otlp_headers_env is not None:
        raise ConfigError("--otlp-headers-env: needs --otlp-endpoint URL")
    return None


def _run_passing(
    settings: Settings,
    options: "GatewayOptions",
    table: "UpstreamTable",
    loaded: Loaded | None,
    bound: socket.socket,
) -> None:
    from lockgate.gateway import ConnectionLimits, Keyring, create_passing_app, run_server, url_of
    from lockgate.gateway.upstream import Upstreams

    upstreams, keyring, url = Upstreams(table), Keyring(options.all_keys, options.tenants), url_of(bound)
    run_server(
        create_passing_app(options, upstreams, keyring),
        bound,
        ready=lambda: _announce_passing(url, table, as_json=settings.json),
        drain_timeout=settings.drain_timeout,
        hangup=_follower(loaded, None, upstreams, keyring) or (lambda: None),
        limits=ConnectionLimits(settings.max_connections),
    )


def _run_guarded(
    settings: Settings,
    options: "GatewayOptions",
    table: "UpstreamTable | None",
    loaded: Loaded | None,
    bound: socket.socket,
    extra: dict[str, Any],
) -> None:
    from lockgate.cli._serve_dashboard import dashboard_routes, guard_places
    from lockgate.decisions import check_log
    from lockgate.gateway import ConnectionLimits, create_app, run_server, url_of
    from lockgate.gateway.upstream import Upstreams

    # Before the model is loaded, which may take minutes.
    check_log(options.log.where, options.log.password_env)
    places, url = guard_places(loaded, settings.backbone), url_of(bound)
    gateway = _load(settings, options, extra, loaded, reads_only=table is not None)
    try:
        upstreams = None if table is None else Upstreams(table)
        follow = _follower(loaded, gateway, upstreams, gateway.keyring)

        def hangup() -> None:
            gateway.decisions.reopen()
            if follow is not None:
                follow()

        with dashboard_routes(options.tenants, gateway, places, follow) as pages:
            run_server(
                create_app(gateway, upstreams, pages),
                bound,
                ready=lambda: _announce(url, settings.guard, gateway, table, as_json=settings.json),
                drain_timeout=settings.drain_timeout,
                hangup=hangup,
                limits=ConnectionLimits(settings.max_connections),
                end_open=gateway.guards.end_open,
            )
    finally:
        left = gateway.close()
        if left.lost:
            raise DecisionLogError(
                f"decision log {gateway.decisions.place}: {left.lost} decision(s) are lost"
            )


def _follower(
    loaded: Loaded | None, gateway: "Gateway | None", upstreams: "Upstreams | None", keyring: "Keyring"
) -> "Follower | None":
    """Return what SIGHUP does about the config file; None if there is none."""
    if loaded is None:
        return None
    from lockgate.gateway.config import Follower

    return Follower(loaded.path, loaded.applied, gateway, upstreams, keyring, logger.info)


def _table(settings: Settings) -> "UpstreamTable | None":
    from lockgate.gateway.upstream import UpstreamOptions, UpstreamTable

    model, key_env, media = settings.upstream_model, settings.upstream_key_env, settings.upstream_media
    if settings.upstream is not None:
        options = UpstreamOptions(settings.upstream, model, key_env, media=_media(media or "refuse"))
        return UpstreamTable({"upstream": options}, default="upstream")
    for option, value in (("model", model), ("key-env", key_env), ("media", media)):
        if value is not None:
            raise ConfigError(f"--upstream-{option}: needs --upstream URL")
    return None


def _media(name: str) -> Any:  # noqa: ANN401 - a literal type, which UpstreamOptions checks
    return name


def _check_upstream_mode(settings: Settings) -> None:
    """Refuse options that have no meaning in front of an upstream. Raises ConfigError."""
    engine = settings.engine
    if engine != "lockgate":
        raise ConfigError(f"--engine {engine}: an upstream writes the answers; leave out one of both options")
    if settings.playground or settings.risk_header:
        option = "--playground" if settings.playground else "--risk-header"
        raise ConfigError(f"{option}: shows the scores of this server's own model; not with --upstream")


def _mode(name: str) -> Any:  # noqa: ANN401 - a literal type, checked here
    from lockgate.gateway import MODES

    if name not in MODES:
        raise ConfigError(f"--mode {name}: expected one of {', '.join(MODES)}")
    return name


def _metrics_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"metrics_key_env: the environment variable {variable} is not set")
    return key


def _moderation_names(words: list[str]) -> dict[str, str]:
    """Read the names of categories. Raises ConfigError for a malformed or repeated one."""
    found: dict[str, str] = {}
    for word in words:
        category, _, name = word.partition("=")
        if not category or not name:
            raise ConfigError(
                f"--moderation-name {word}: expected CATEGORY=NAME, such as weapons=illicit/violent"
            )
        if category in found:
            raise ConfigError(f"--moderation-name {word}: {category} has a name already")
        found[category] = name
    return found


def _engine_arguments(engine: str, words: list[str]) -> dict[str, Any]:
    """Read the arguments for vLLM. Raises ConfigError for an unknown engine or a malformed argument."""
    import json

    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    if words and engine != "vllm":
        raise ConfigError("--engine-arg: only --engine vllm takes arguments")
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--engine-arg {word}: expected NAME=VALUE, such as tensor_parallel_size=2")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _load(
    settings: Settings,
    options: "GatewayOptions",
    extra: dict[str, Any],
    loaded_file: Loaded | None = None,
    *,
    reads_only: bool = False,
) -> "Gateway":
    import torch

    from lockgate.backbones import Backbone
    from lockgate.backbones.threads import choose_threads
    from lockgate.cli._scoring import load_guard
    from lockgate.gateway import Gateway

    guard, backbone, engine = settings.guard, settings.backbone, settings.engine
    place = (settings.device, settings.dtype)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if engine == "vllm":
        from lockgate.gateway.vllm import check_vllm, vllm_gateway

        check_vllm(options)  # before the model is loaded, which may take minutes
        # vLLM has the device. What stays in this process is on the processor, unless the option says more.
        place = ("cpu" if place[0] == "auto" else place[0], place[1])
        made = load_guard(guard, backbone, *place, logger.warning)
        options = remembering(options, made, loaded_file)
        gateway = vllm_gateway(made, guard, options, name=Path(guard).name, extra=extra)
    elif options.engine.mode == "off":
        loaded = Backbone.load(backbone, device=place[0], dtype=place[1])
        if settings.threads is None:
            choose_threads(loaded)
        gateway = Gateway(loaded, None, options)
    else:
        made = load_guard(guard, backbone, *place, logger.warning)
        options = remembering(options, made, loaded_file)
        if settings.threads is None:
            choose_threads(made.backbone)
        # A link stands for the bundle that it names.
        name = Path(guard).resolve().name
        gateway = Gateway.from_guard(made, options, name=name, reads_only=reads_only)
    try:
        if loaded_file is not None:
            _add_guards(gateway, loaded_file)
        gateway.warm()
    except BaseException:
        gateway.close()
        raise
    return gateway


def _add_guards(gateway: "Gateway", loaded: Loaded) -> None:
    """Add the further guards that the config file names. Raises LockgateError: one can't be loaded."""
    from lockgate.cli._common import warnings_as_lines
    from lockgate.guards import Guard, is_shipped

    for name, source in loaded.applied.config.guards.items():
        folder = source if is_shipped(source) else loaded.path.parent / source
        try:
            with warnings_as_lines(logger.warning):
                made = Guard.load(folder, backbone=gateway.whole)
        except LockgateError as error:
            raise ConfigError(f"{loaded.path}: guards.{name}: {error}") from error
        gateway.add_guard(name, made, shown=Path(folder).resolve().name)
    gateway.guards.of_keys = loaded.applied.of_keys


def remembering(options: "GatewayOptions", guard: "Guard", loaded: Loaded | None) -> "GatewayOptions":
    """Add the memory of conversations that the config file asks for. Raises ConfigError: it does not fit."""
    wanted = None if loaded is None else loaded.applied.config.conversations
    if loaded is None or wanted is None:
        return options
    from lockgate.gateway import Conversations
    from lockgate.guards.memory import read_memory

    record = read_memory(loaded.path.parent / wanted.memory, guard.record)
    remembered = Conversations(
        record.memory, life=wanted.life, most=wanted.most, made_for=(record.guard, record.flag)
    )
    return replace(options, conversations=remembered)


def _read_key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {path}: not readable ({type(error).__name__})") from error
    if not key:
        raise ConfigError(f"--api-key-file {path}: the file is empty; write the key into it")
    return key


def _announce(
    url: str, guard: str, gateway: "Gateway", table: "UpstreamTable | None" = None, *, as_json: bool
) -> None:
    import json

    if as_json:
        told = {
            "url": url,
            "mode": gateway.mode,
            "model": gateway.model_id,
            "guard": gateway.about_guard,
            "decisions": str(gateway.decisions.place),
        }
        if further := gateway.guards.further:
            told["guards"] = {name: one.about_guard for name, one in further.items()}
        line = json.dumps(told if table is None else {**told, **_told_of(table)})
    else:
        shown = "none" if gateway.mode == "off" else f"guard {guard}"
        if further := gateway.guards.further:
            shown += f", for some {', '.join(further)}"
        behind = "" if table is None else f" in front of {_urls(table)}"
        about = gateway.about_guard or {}
        # The first line must say it: nobody knows how often this guard refuses harmless requests.
        doubt = "" if about.get("calibrated", True) else ", UNCALIBRATED: no false-refusal rate is claimed"
        line = f"Lockgate is ready: {url} ({shown}{behind}, mode {gateway.mode}{doubt})"
    typer.echo(line)


def _announce_passing(url: str, table: "UpstreamTable", *, as_json: bool) -> None:
    import json

    told = {"url": url, "mode": "off", "guard": None, **_told_of(table)}
    line = f"Lockgate is ready: {url} (NO GUARD in front of {_urls(table)}, mode off)"
    typer.echo(json.dumps(told) if as_json else line)


def _told_of(table: "UpstreamTable") -> dict[str, Any]:
    urls = {name: options.url for name, options in table.upstreams.items()}
    return (
        {"upstreams": urls} if len(urls) > 1 else {"upstream": next(iter(urls.values())), "upstreams": urls}
    )


def _urls(table: "UpstreamTable") -> str:
    return ", ".join(options.url for options in table.upstreams.values())
