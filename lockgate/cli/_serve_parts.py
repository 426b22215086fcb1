"""What a replica on Ray makes of a config file: a gateway without a model, or a scorer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockgate.cli._serve_run import log_format, logger, options_of, remembering
from lockgate.cli._serve_settings import Loaded, Settings, load_file
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.fleet import Made, MadeApp
    from lockgate.gateway import GatewayOptions
    from lockgate.gateway.upstream import UpstreamTable


def read_parts(config: Path, defaults: Settings) -> "tuple[Settings, Loaded, GatewayOptions, UpstreamTable]":
    """Read the config file.

    Raises:
        ConfigError: it is not valid, or asks for what can't be served on Ray.
    """
    settings, loaded = load_file(config, defaults, ())
    table = loaded.applied.table
    if table is None:
        raise ConfigError(f"{config}: upstreams: scorers read the answers of upstreams; name at least one")
    if settings.mode == "off":
        raise ConfigError(f"{config}: mode off: there is nothing to score; use lockgate serve")
    if loaded.applied.config.guards:
        raise ConfigError(f"{config}: guards: scorers have one guard; name it in `guard`")
    return settings, loaded, options_of(settings, loaded, relays=True), table


def make_core(config: Path, defaults: Settings, threads: int) -> "Made":
    """Load the guard and its model, in a scorer's process."""
    import torch

    from lockgate.cli._scoring import load_guard
    from lockgate.fleet import Made
    from lockgate.gateway import set_up_logs
    from lockgate.gateway.scorers import scorer_of

    settings, _, options, _ = read_parts(config, defaults)
    set_up_logs(log_format(settings.log_format))
    torch.set_num_threads(settings.threads or threads)
    guard = load_guard(settings.guard, settings.backbone, settings.device, settings.dtype, logger.warning)
    core, about = scorer_of(guard, options.engine, name=Path(settings.guard).resolve().name)
    return Made(core, about, about.guard, about.kv_tokens)


def make_app(config: Path, defaults: Settings, most: int, handle: Any) -> "MadeApp":  # noqa: ANN401
    """Make a gateway, in its process.

    Args:
        most: scorers that there may be.
        handle: Ray Serve's handle of the scorers.
    """
    import torch

    from lockgate.cli._scoring import load_guard
    from lockgate.fleet import MadeApp
    from lockgate.gateway import create_app, set_up_logs
    from lockgate.gateway.scorers import RayScorers, gateway_of
    from lockgate.gateway.upstream import Upstreams

    settings, loaded, options, table = read_parts(config, defaults)
    set_up_logs(log_format(settings.log_format))
    torch.set_num_threads(1)
    guard = load_guard(settings.guard, settings.backbone, "cpu", settings.dtype, logger.warning)
    gateway = gateway_of(guard, RayScorers(handle), remembering(options, guard, loaded), most=most)
    try:
        gateway.warm()
    except BaseException:
        gateway.close()
        raise
    return MadeApp(create_app(gateway, Upstreams(table)), lambda: gateway.engine.alive)
