"""`lockgate serve-ray`: the server on Ray Serve, with scorers apart from the gateways."""

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import JsonFlag
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.cli._serve_settings import Loaded, Settings
    from lockgate.gateway import GatewayOptions


def register(app: typer.Typer) -> None:
    app.command("serve-ray")(serve_ray)


def serve_ray(
    config: Annotated[
        Path, typer.Option(metavar="FILE", help="Config file of the server, with at least one upstream.")
    ],
    proxies: Annotated[
        int, typer.Option(min=1, help="Gateways: they talk to clients and upstreams, and decide.")
    ] = 1,
    scorers: Annotated[int, typer.Option(min=1, help="Scorers: they run the guard's model.")] = 2,
    most_scorers: Annotated[
        int | None, typer.Option(min=1, help="Scorers under load. Default: as many as --scorers.")
    ] = None,
    scorer_cpus: Annotated[int, typer.Option(min=1, help="Cores of one scorer.")] = 1,
    scorer_gpus: Annotated[float, typer.Option(min=0, help="GPUs of one scorer.")] = 0.0,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A running cluster, or `auto` on one of its machines. Default: start Ray on this machine.",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Serve the answers of upstreams under the guard, on Ray Serve. Ctrl-C stops it.

    The limits of the config file hold for each scorer. A scorer that dies ends the answers that it reads, as
    any fault of the guard does. All others go on, and Ray starts another one.
    """
    from lockgate.cli._serve_parts import make_app, make_core, read_parts
    from lockgate.decisions import check_log
    from lockgate.fleet import RayOptions, run_on_ray
    from lockgate.gateway import bind, bundle_hash, check_exposure

    config = config.resolve()
    defaults = _defaults()
    settings, loaded, options, _ = read_parts(config, defaults)
    check_exposure(settings.host, has_key=options.needs_key, insecure=settings.insecure)
    _check_shared(config, loaded, options, proxies)
    bundle_hash(settings.guard)  # a guard that is not there would only be missed by the replicas
    if settings.port == 0:
        raise ConfigError(f"{config}: listen.port: Ray Serve can't take a free port; name one")
    if ray_address is None:
        bind(settings.host, settings.port).close()
    check_log(options.log.where, options.log.password_env)
    if options.tenants is not None:
        options.tenants.open()
        options.tenants.close()
    most = most_scorers or scorers
    plan = RayOptions(
        host=settings.host,
        port=settings.port,
        proxies=proxies,
        scorers=scorers,
        most_scorers=most,
        streams=settings.max_streams,
        scorer_cpus=scorer_cpus,
        scorer_gpus=scorer_gpus,
        requests=settings.max_connections,
        drain_timeout=settings.drain_timeout,
        address=ray_address,
    )
    run_on_ray(
        plan,
        partial(make_core, config, defaults, scorer_cpus),
        partial(make_app, config, defaults, most),
        ready=lambda url: _announce(url, plan.proxies, plan.scorers, as_json=json),
    )


def _check_shared(config: Path, loaded: "Loaded", options: "GatewayOptions", proxies: int) -> None:
    """Refuse what several gateways can't share. Raises ConfigError."""
    from lockgate.decisions import place_of

    operations = loaded.applied.config.operations
    if proxies > 1 and place_of(options.log.where, options.log.password_env).path is not None:
        raise ConfigError(f"{config}: log.url: --proxies {proxies} need PostgreSQL, a file has one writer")
    if proxies > 1 and operations is not None and operations.url is None:
        raise ConfigError(f"{config}: operations.url: --proxies {proxies} need PostgreSQL to share limits")


def _defaults() -> "Settings":
    """Return the settings of `lockgate serve` without options."""
    from lockgate.cli._serve import serve
    from lockgate.cli._serve_settings import Settings

    found = {name: one.default for name, one in inspect.signature(serve).parameters.items()}
    return Settings(**{name: value for name, value in found.items() if name not in ("ctx", "config")})


def _announce(url: str, proxies: int, scorers: int, *, as_json: bool) -> None:
    import json

    told = {"url": url, "proxies": proxies, "scorers": scorers}
    typer.echo(
        json.dumps(told)
        if as_json
        else f"Lockgate is ready: {url} (on Ray: gateways {proxies}, scorers {scorers})"
    )
