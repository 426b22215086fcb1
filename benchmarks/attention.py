"""Decoding attention: one call for all streams against one call for each, on this machine's processor or GPU.

    python -m benchmarks.attention
    python -m benchmarks.attention --device cuda --dtype bfloat16

Runs the attention function of the backbones alone, on memory of the embedded model's shape (or a larger one), with
one new token for each stream. Both ways take turns, so a busy machine slows both. Writes the part `attention` of
results/engines.json: seconds of a layer in both ways and the median of their ratio, by streams and context, and the
same ratio for the whole decoding of a model.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engines import TARGET, write_part
from benchmarks.run import decode, ratio
from lockgate.backbones import (
    Backbone,
    PackedStep,
    Segment,
    Session,
    SessionPool,
    choose_placement,
    packed_attention,
)
from lockgate.evaluation import collect_provenance

TOKENS = 32
STREAMS, CONTEXTS = (2, 4, 8, 32), (64, 512, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--heads", type=int, nargs=3, default=(9, 3, 64), metavar=("HEADS", "KV_HEADS", "SIZE")
    )
    parser.add_argument("--model", default="embedded", help="model whose decoding is timed as a whole")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of measurements for a ratio")
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    arguments = parser.parse_args()
    placed = choose_placement(arguments.device, arguments.dtype)
    shape = tuple(arguments.heads)
    rows = []
    backbone = Backbone.load(arguments.model, device=placed.device, dtype=placed.dtype)
    with torch.inference_mode():
        for streams in STREAMS:
            for context in CONTEXTS:
                case = Case(backbone, streams, context, shape)
                rows.append(case.measure(arguments.pairs))
                print(rows[-1], flush=True)
    decoding = [decode_ratio(backbone, streams, arguments.pairs // 4) for streams in (1, 8)]
    print(decoding, flush=True)
    found = {
        "device": placed.device,
        "dtype": placed.dtype,
        "heads": list(shape),
        "threads": torch.get_num_threads(),
        "pairs": arguments.pairs,
        "rows": rows,
        "decoding": {"model": Path(arguments.model).name, "rows": decoding},
        "provenance": collect_provenance(["python", "-m", "benchmarks.attention"], seeds={}, inputs=[]),
    }
    write_part("attention", found, arguments.output)


def decode_ratio(backbone: Backbone, streams: int, pairs: int) -> dict[str, Any]:
    """Return the ratio of whole decoding, memory that is shared to memory of its own, and the tokens/s."""
    seconds: list[list[float]] = [[], []]

    def timed(shared: bool) -> float:
        with SessionPool(backbone, 100_000, streams=streams if shared else 1) as pool:
            found = decode(backbone, pool, None, streams, TOKENS)
        seconds[not shared].append(found)
        return found

    found = ratio(lambda: timed(True), lambda: timed(False), max(3, pairs))
    speeds = [round(streams * TOKENS / float(np.median(one)), 1) for one in seconds]
    return {"streams": streams, **found, "tokens_s_shared": speeds[0], "tokens_s_own": speeds[1]}


class Layer(torch.nn.Module):
    """What the attention function needs of a module."""

    is_causal = True
    layer_idx = 0


class Case:
    """Streams of one context length, in memory that they share and in memory of their own."""

    def __init__(self, backbone: Backbone, streams: int, context: int, shape: tuple[int, ...]) -> None:
        heads, kv_heads, size = shape
        self.streams, self.context, self.device = streams, context, backbone.device
        dtype = getattr(torch, backbone.placement.dtype)
        torch.manual_seed(0)

        def made(number: int) -> torch.Tensor:
            return torch.randn(1, number, streams, size, device=self.device, dtype=dtype)

        self.new = made(heads), made(kv_heads), made(kv_heads)
        tokens = context + 64
        shared = SessionPool(backbone, 2 * streams * tokens, streams=streams)
        own = SessionPool(backbone, streams * tokens)
        self.shared, self.own = (
            self._segments([pool.open(tokens) for _ in range(streams)]) for pool in (shared, own)
        )

    def _segments(self, memory: list[Session]) -> list[Segment]:
        for one in memory:
            for buffer in one.layer(0, *self.new[1:]):
                buffer.normal_()
        return [Segment(one, number, number + 1, self.context - 1) for number, one in enumerate(memory)]

    def measure(self, pairs: int) -> dict[str, Any]:
        """Return the seconds of a layer in both ways, and the median ratio of one call to one for each."""
        # The plan of a step is made once for all its layers, so it does not belong to the time of a layer.
        together = PackedStep(self.shared, together=True)
        alone = PackedStep(self.own)
        first, second = self._timer(together), self._timer(alone)
        first(), second()
        times = [(first(), second()) if n % 2 else (second(), first())[::-1] for n in range(pairs)]
        one, each = np.array(times).T
        return {
            "streams": self.streams,
            "context": self.context,
            "one_call_us": round(float(np.median(one)) * 1e6, 1),
            "one_for_each_us": round(float(np.median(each)) * 1e6, 1),
            "ratio": round(float(np.median(one / each)), 3),
        }

    def _timer(self, step: PackedStep) -> Callable[[], float]:
        layer = Layer()

        def run() -> float:
            self._wait()
            start = time.perf_counter()
            packed_attention(layer, *self.new, None, packed=step)
            self._wait()
            return time.perf_counter() - start

        return run

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


if __name__ == "__main__":
    main()
