"""Executors run the batches of a step. The plan of batches follows from the input alone."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from lockgate.errors import ConfigError
from lockgate.synthesis._batches import Batch, BatchOutput, run_batch
from lockgate.synthesis._ray import RayExecutor
from lockgate.synthesis._step import Step

EXECUTORS = ("local", "ray")


class Executor(Protocol):
    """Runs the batches of a step somewhere."""

    def map_batches(self, step: Step, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        """Yield the output of each batch in the order of the batches.

        Outputs are yielded as soon as order allows, since only what was yielded is kept when the run ends
        early; `batches` is read lazily, no further ahead than the executor has places. What a step raises is
        raised.
        """


class LocalExecutor:
    """One batch after another in this process. Requests of a batch are in flight together all the same."""

    def map_batches(self, step: Step, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        for batch in batches:
            yield run_batch(step, batch)


def executor_named(name: str, *, address: str | None = None, workers: int | None = None) -> Executor:
    """The executor of this name, `local` or `ray`.

    Args:
        address: of a Ray cluster; by default Ray on this machine.
        workers: batches that Ray runs at a time; by default as many as there are cores.

    Raises:
        ConfigError: another name, or a setting that is Ray's with the local executor.
        MissingExtra: Ray is not installed.
    """
    if name == "ray":
        return RayExecutor(address, workers=workers)
    if name != "local":
        raise ConfigError(f"executor {name!r}: expected one of {', '.join(EXECUTORS)}")
    if address is not None:
        raise ConfigError(
            "address: only the executor ray has one; add --executor ray or leave the address out"
        )
    if workers not in (None, 1):
        raise ConfigError(
            f"workers: the local executor is one process, found {workers}; add --executor ray for more"
        )
    return LocalExecutor()
