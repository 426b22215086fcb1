"""The executor on Ray Data. Processes of this machine or of a cluster run the batches."""

import hashlib
import importlib
import itertools
import json
import logging
import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from lockgate.errors import ConfigError, MissingExtra, SynthesisError
from lockgate.synthesis._batches import Batch, BatchOutput, run_batch
from lockgate.synthesis._step import Step

if TYPE_CHECKING:
    import pyarrow as pa

# Batches in a window for each worker. The executor waits for the last of a window before the next one.
_WINDOW = 8
# Further attempts at a batch after its worker died.
_RETRIES = 3
_READ_AT_IMPORT = {"RAY_USAGE_STATS_ENABLED": "0"}
_READ_AT_IMPORT_LOCALLY = {
    # Ray's own switch for machines outside a cluster. Ray then listens on the loopback address alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Half a minute is too short on a busy machine.
    "RAY_gcs_server_port_wait_time_s": "120",
}

# In a worker process: its current step, with the loaded generator or guard.
_AT_HAND: dict[str, Step] = {}


class RayExecutor:
    """An executor that runs batches through Ray Data.

    The data are the same, byte for byte, as with `LocalExecutor`. Only texts of an in-process model may
    differ by a word, if the number of its threads differs.

    Steps are sent to the workers, so they must hold nothing that belongs to one process. Use functions from
    modules that the workers can import, and generators through `GeneratorSource`. A worker makes its
    generator once for each step. A step's error in a worker is raised here. If a worker dies, its batch runs
    again.

    Ray starts with the first unfinished batch. If the program has started Ray already, that one is used.

    Args:
        address: address of a running cluster (`host:6379`, or `auto` on one of its machines). The default
            starts Ray on this machine, without dashboard, until `close` or the end of the program.
        workers: number of batches that run at a time. The default is the number of cores.

    Raises:
        MissingExtra: Ray is not installed (extra `ray`).
        ConfigError: `workers` is below 1.
    """

    def __init__(self, address: str | None = None, *, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"workers: expected at least 1, found {workers}")
        self._address = address
        self._workers = workers
        self._ray = _load_ray(local=address is None)
        self._started = False

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster, or end the Ray that this executor started. The next batch starts Ray again."""
        if self._started:
            self._ray.shutdown()
            self._started = False

    def map_batches(self, step: Step, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        """Yield the output of each batch in order; see `Executor.map_batches`.

        Raises:
            SynthesisError: No Ray answers at the address, or Ray gave up on a batch, or the step raised it.
            ConfigError: The step can't be sent to another process.
        """
        unread = iter(batches)
        if (first := next(unread, None)) is None:
            return
        workers = self._start()
        arguments = self._send(step)
        unread = itertools.chain([first], unread)
        while window := list(itertools.islice(unread, _WINDOW * workers)):
            try:
                for table in self._run_window(window, workers, arguments):
                    yield _read_output(step, table)
            except self._ray.exceptions.RayError as error:
                raise SynthesisError(
                    f"step {step.name}: Ray gave up on a batch ({type(error).__name__}); its worker died "
                    f"{_RETRIES + 1} times, perhaps for lack of memory, or a machine is gone. Finished "
                    "batches are kept; run again"
                ) from error

    def _run_window(
        self, window: Sequence[Batch], workers: int, arguments: dict[str, Any]
    ) -> Iterator["pa.Table"]:
        """Yield the outputs of these batches in order, each as soon as the earlier ones are there."""
        data = self._ray.data.from_blocks([_batch_table(batch) for batch in window])
        data.context.enable_progress_bars = False
        data.context.print_on_execution_start = False
        data.context.execution_options.preserve_order = True
        with warnings.catch_warnings():
            # Retries are endless by default, and only this argument limits them. Later releases drop it.
            warnings.simplefilter("ignore", self._ray.util.annotations.RayDeprecationWarning)
            outputs = data.map_batches(
                _run_table,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs=arguments,
                compute=self._ray.data.TaskPoolStrategy(size=min(workers, len(window))),
                num_cpus=1,
                max_retries=_RETRIES,
            )
        for bundle in outputs.iter_internal_ref_bundles():
            for entry in bundle.blocks:
                yield self._ray.get(entry.ref)

    def _start(self) -> int:
        """Start Ray if it is not running. Return the number of workers."""
        ray = self._ray
        if not ray.is_initialized():
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            try:
                if self._address is None:
                    cores = self._workers or os.cpu_count() or 1
                    # Without "local" Ray would follow RAY_ADDRESS in the environment.
                    ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
                else:
                    ray.init(self._address, **quiet)
            # If its raylet starts late, Ray raises a plain Exception.
            except Exception as error:
                raise SynthesisError(self._no_ray(error)) from error
            self._started = True
        return self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _no_ray(self, error: Exception) -> str:
        if self._address is None:
            return f"Ray did not start on this machine ({error}); it may be too busy for now. Run again"
        return (
            f"address {self._address}: no Ray cluster answers there ({type(error).__name__}); start one with "
            "`ray start --head`, or leave the address out for a Ray on this machine"
        )

    def _send(self, step: Step) -> dict[str, Any]:
        """Put the step into Ray's store, where workers find it."""
        try:
            payload = self._ray.cloudpickle.dumps(step)
        except Exception as error:
            raise ConfigError(
                f"step {step.name}: it can't be sent to another process ({type(error).__name__}); give it "
                "functions from modules, and generators through GeneratorSource"
            ) from error
        # Ray doesn't resolve a reference inside a list. So workers fetch the step once, not with each batch.
        return {"digest": hashlib.sha256(payload).hexdigest(), "payload": [self._ray.put(payload)]}


def _load_ray(*, local: bool) -> ModuleType:
    for name, value in {**_READ_AT_IMPORT, **(_READ_AT_IMPORT_LOCALLY if local else {})}.items():
        os.environ.setdefault(name, value)
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingExtra("the executor `ray`", "ray") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _batch_table(batch: Batch) -> "pa.Table":
    """Return a batch as a table of one row, so that Ray neither cuts nor joins batches."""
    import pyarrow as pa

    lines = pa.array([batch.lines], pa.list_(pa.large_binary()))
    return pa.table({"number": [batch.number], "lines": lines})


def _run_table(table: "pa.Table", *, digest: str, payload: list[Any]) -> "pa.Table":
    """Run the step on one batch, in a worker. An error is an output too, so the order stays."""
    number = table["number"][0].as_py()
    try:
        output = run_batch(_step_at_hand(digest, payload), Batch(number, table["lines"][0].as_py()))
        return _output_table(output, None)
    except Exception as error:
        return _output_table(BatchOutput(number, [], [], {}, {}), _error_record(error))


def _step_at_hand(digest: str, payload: list[Any]) -> Step:
    if digest not in _AT_HAND:
        ray = importlib.import_module("ray")
        # Remove the previous step first: two models may not fit into memory.
        _AT_HAND.clear()
        try:
            _AT_HAND[digest] = ray.cloudpickle.loads(ray.get(payload[0]))
        except (ImportError, AttributeError) as error:
            raise SynthesisError(
                f"a Ray worker can't load the step ({error}); have the same packages on every machine, and "
                "modules of your own on PYTHONPATH before Ray starts"
            ) from error
    return _AT_HAND[digest]


def _output_table(output: BatchOutput, error: dict[str, Any] | None) -> "pa.Table":
    import pyarrow as pa

    binary = pa.list_(pa.large_binary())
    counts = {"counters": output.counters, "reasons": output.reasons, "error": error}
    return pa.table(
        {
            "number": [output.number],
            "lines": pa.array([output.lines], binary),
            "rejected": pa.array([output.rejected], binary),
            "rest": [json.dumps(counts)],
        }
    )


def _read_output(step: Step, table: "pa.Table") -> BatchOutput:
    [row] = table.to_pylist()
    rest = json.loads(row["rest"])
    if rest["error"] is not None:
        raise _made_again(step, rest["error"])
    return BatchOutput(row["number"], row["lines"], row["rejected"], rest["counters"], rest["reasons"])


def _error_record(error: Exception) -> dict[str, Any]:
    kind, arguments = type(error), list(error.__reduce__()[1])
    if not all(isinstance(value, str | int | float | None) for value in arguments):
        arguments = [str(error)]
    trace = "".join(traceback.format_exception(error))
    return {"module": kind.__module__, "name": kind.__qualname__, "arguments": arguments, "trace": trace}


def _made_again(step: Step, record: dict[str, Any]) -> Exception:
    """Make the worker's error again, with the same class and message."""
    name, arguments = record["name"], record["arguments"]
    error: Exception | None = None
    try:
        kind = getattr(importlib.import_module(record["module"]), name)
        # Not through __init__, which may take other arguments than it stores.
        made = kind.__new__(kind, *arguments)
        error = made if isinstance(made, Exception) else None
    except (ImportError, AttributeError, TypeError):
        pass
    error = error or SynthesisError(f"step {step.name}: {name} in a Ray worker")
    error.add_note(f"In a Ray worker:\n{record['trace']}")
    return error
