"""Engines: where the batches of a block are run. The plan of batches is the input's, never the engine's."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from lockgate.errors import ConfigError
from lockgate.synthesis._batches import Batch, BatchOutput, run_batch
from lockgate.synthesis._blocks import Block
from lockgate.synthesis._ray import RayEngine

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Runs the batches of a block somewhere."""

    def map_batches(self, block: Block, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        """Yield the output of each batch in the order of the batches.

        Outputs are yielded as soon as order allows, since only what was yielded is kept when the run ends
        early; `batches` is read lazily, no further ahead than the engine has places. What a block raises is
        raised.
        """


class LocalEngine:
    """One batch after another in this process. Requests of a batch are in flight together all the same."""

    def map_batches(self, block: Block, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        for batch in batches:
            yield run_batch(block, batch)


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
