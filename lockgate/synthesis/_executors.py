"""Executors, which run the batches of a step. The batches follow from the input alone."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from lockgate.errors import ConfigError
from lockgate.synthesis._batches import Batch, BatchOutput, run_batch
from lockgate.synthesis._ray import RayExecutor
from lockgate.synthesis._step import Step

EXECUTORS = ("local", "ray")


class Executor(Protocol):
    """Something that runs the batches of a step."""

    def map_batches(self, step: Step, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        """Yield the output of each batch, in the order of the batches.

        Yield an output as soon as the order allows, because only yielded outputs are kept when the run ends
        early. Read `batches` lazily, no further ahead than there are free places. Raise a step's errors.
        """


class LocalExecutor:
    """An executor that runs one batch after another in this process.

    The requests of a batch are still in flight together.
    """

    def map_batches(self, step: Step, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        for batch in batches:
            yield run_batch(step, batch)


def executor_named(name: str, *, address: str | None = None, workers: int | None = None) -> Executor:
    """Make an executor by name.

    Args:
        name: `local` or `ray`.
        address: address of a Ray cluster. The default starts Ray on this machine.
        workers: number of batches that Ray runs at a time. The default is the number of cores.

    Raises:
        ConfigError: The name is unknown, or the local executor got a setting of Ray.
        MissingExtra: Ray is not installed.
    """
    if name == "ray":
        return RayExecutor(address, workers=workers)
    if name != "local":
        raise ConfigError(f"executor {name!r}: expected one of {', '.join(EXECUTORS)}")
    if address is not None:
        raise ConfigError(
            "address: only the executor ray takes one; add --executor ray or leave the address out"
        )
    if workers not in (None, 1):
        raise ConfigError(
            f"workers: the local executor has one process, found {workers}; add --executor ray for more"
        )
    return LocalExecutor()
