"""The gates of all requests in vLLM's scheduler. It turns what vLLM would send into what may be sent."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from lockgate.cascade import Regions
from lockgate.errors import ConfigError
from lockgate.vllm._gates import Fault, Gate
from lockgate.vllm._rows import Rows, RowStore
from lockgate.vllm._settings import KEY, Probe, Settings, plain_regions, read_regions

HALTED = "lockgate"
FAULTY = "lockgate-fault"


@dataclass(frozen=True, slots=True)
class Leaving:
    """What one output may carry.

    Attributes:
        tokens: the tokens.
        note: scores beside the tokens, for a gateway that decides; None if this vLLM decides.
        stop: the reason for which the request must end now; None if it goes on.
        empty: whether there is nothing to send.
        over: whether the request has reached its limit, whatever token was sampled behind it.
        fault: what is wrong with the scores; None without a fault.
    """

    tokens: list[int]
    note: dict[str, Any] | None
    stop: str | None
    empty: bool
    over: bool = False
    fault: Fault | None = None


class GateBook:
    """The gates of all requests.

    Args:
        settings: what may leave.
        probe: the guard's probe.
        store: rows of cached blocks; None without prefix caching.

    Attributes:
        faults: requests that ended because a score was missing or not a number.
        flags: requests that ended by a flag.
    """

    def __init__(self, settings: Settings, probe: Probe, store: RowStore | None) -> None:
        self.settings = settings
        self.probe = probe
        self.store = store
        self.faults = 0
        self.flags = 0
        self._gates: dict[str, Gate] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._gates

    def __len__(self) -> int:
        return len(self._gates)

    def open(self, request_id: str, prompt: Sequence[int], max_tokens: int, longest: int, args: Any) -> int:  # noqa: ANN401
        """Open the gate of a new request.

        Args:
            prompt: the prompt's tokens.
            max_tokens: tokens that the request may get.
            longest: tokens that prompt and answer may have together.
            args: the request's `extra_args`.

        Returns:
            The number of tokens to sample. It is one more than `max_tokens` if there is room, because the
            last token is scored only when it is read.

        Raises:
            ConfigError: the request's regions are malformed or not wanted.
        """
        regions = self._regions(prompt, args)
        self._gates[request_id] = Gate(
            prompt=len(prompt),
            start=regions.start,
            limit=max_tokens,
            outputs=self.probe.outputs,
            store=self.store,
            state=self.probe.state(regions),
            fail_open=self.settings.release == "shadow",
        )
        return max_tokens + 1 if len(prompt) + max_tokens < longest else max_tokens

    def feed(
        self, request_id: str, first: int, rows: Rows | None, *, known: int, keys: Sequence[Hashable] = ()
    ) -> None:
        """Give a request the rows of a step, as `Gate.feed` takes them. None: the worker gave none."""
        gate = self._gates.get(request_id)
        if gate is None:
            return
        if rows is None:
            gate.fail("missing")
        else:
            gate.feed(first, rows, known=known, keys=keys)

    def leave(self, request_id: str, tokens: Sequence[int], *, finished: bool) -> Leaving:
        """Return what an output with newly sampled `tokens` may carry. `finished`: vLLM ends the request.

        The output of a request without a gate may carry nothing.
        """
        gate = self._gates.get(request_id)
        if gate is None:
            return Leaving([], None, None if finished else FAULTY, empty=False, fault="missing")
        gate.hold(tokens)
        if finished:
            gate.finish()
        released = gate.release()
        stop = None
        if gate.halted:
            stop = FAULTY if gate.fault else HALTED
        if stop == FAULTY and self.settings.release == "cleared":
            stop = HALTED
        if stop is not None:
            self.faults += gate.fault is not None
            self.flags += gate.fault is None
        if finished or stop is not None:
            del self._gates[request_id]
        note = None
        if self.settings.release != "cleared" and gate.fault is None:
            rows = released.rows
            note = {KEY: {"first": released.first, "n": len(rows), "rows": rows.tobytes()}}
        empty = not released.tokens and not len(released.rows) and not finished and stop is None
        return Leaving(released.tokens, note, stop, empty, gate.over, gate.fault)

    def halted(self) -> list[str]:
        """Return the requests that must end now."""
        return [request_id for request_id, gate in self._gates.items() if gate.halted]

    def close(self, request_id: str) -> None:
        """Forget a request that has ended in another way."""
        self._gates.pop(request_id, None)

    def cached(self, request_id: str, keys: Sequence[Hashable], end: int) -> int:
        """Return how many of `end` cached tokens a request may take over, because their rows are known."""
        gate = self._gates.get(request_id)
        if gate is None or self.store is None:
            return 0
        return self.store.covered(keys, min(gate.seen, end), end)

    def _regions(self, prompt: Sequence[int], args: Any) -> Regions:  # noqa: ANN401
        found = args.get(KEY) if isinstance(args, dict) else None
        if found is None:
            if self.settings.release != "cleared":
                return Regions(0, 0, len(prompt))
            return plain_regions(prompt, self.settings.prefixes)
        if self.settings.release == "cleared" and not self.settings.trust_regions:
            raise ConfigError(f"extra_args.{KEY}: this server does not let requests say what is scored")
        return read_regions(found, len(prompt))
