"""Engines by name, for command lines."""

from lockgate.errors import ConfigError
from lockgate.synthesis._engine import Engine, LocalEngine
from lockgate.synthesis._ray import RayEngine

ENGINES = ("local", "ray")


def engine_named(name: str, *, address: str | None = None, workers: int | None = None) -> Engine:
    """The engine of this name, `local` or `ray`.

    Args:
        address: of a Ray cluster; by default Ray on this machine.
        workers: batches that Ray runs at a time; by default as many as there are cores.

    Raises:
        ConfigError: another name, or a setting that is Ray's with the local engine.
        MissingExtra: Ray is not installed.
    """
    if name == "ray":
        return RayEngine(address, workers=workers)
    if name != "local":
        raise ConfigError(f"engine {name!r}: expected one of {', '.join(ENGINES)}")
    if address is not None:
        raise ConfigError("address: only the engine ray has one; add --engine ray or leave the address out")
    if workers not in (None, 1):
        raise ConfigError(
            f"workers: the local engine is one process, found {workers}; add --engine ray for more"
        )
    return LocalEngine()
