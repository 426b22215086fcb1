"""The gain of leaving out the layers above the last one that a guard's probe reads, where nothing is generated.

    python -m benchmarks.front            # some two minutes
    python -m benchmarks.front --quick    # few and short measurements; prints and writes nothing

Writes results/front.json: the CPU time of reading with these layers left out, divided by that of reading with all layers.
Both sides take turns in one process with one thread, and other work on the machine hardly counts in CPU time. Every logit
is compared bit for bit first.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch

import lockgate
from benchmarks.run import ratio, sample_exchanges
from lockgate.backbones import Backbone, Reading, SessionPool, front, read_packed
from lockgate.classifiers import ProbeTap
from lockgate.evaluation import collect_provenance
from lockgate.guards import Guard

TARGET = Path(__file__).parents[1] / "results" / "front.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and short measurements; writes nothing")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements")
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    arguments = parser.parse_args()
    guard = lockgate.load("embedded")
    torch.set_num_threads(1)
    exchanges = 2 if arguments.quick else 8
    depth = 1 + max(guard.head.layers)
    short = front(guard.backbone, depth)
    if not torch.equal(read(guard, short, exchanges), read(guard, guard.backbone, exchanges)):
        raise SystemExit("the logits differ: the layers above take part after all")
    found = {
        "ratio": ratio(
            lambda: seconds(guard, short, exchanges),
            lambda: seconds(guard, guard.backbone, exchanges),
            2 if arguments.quick else arguments.pairs,
        ),
        "layers": {"read": depth, "all": guard.backbone.n_layers},
        "equal_bits": True,
        "exchanges": exchanges,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "provenance": collect_provenance(["python", "-m", "benchmarks.front"], {"bootstrap": 0}, []),
    }
    print(json.dumps(found["ratio"]))
    if not arguments.quick:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


def seconds(guard: Guard, reader: Backbone, exchanges: int) -> float:
    start = time.process_time()
    read(guard, reader, exchanges)
    return time.process_time() - start


def read(guard: Guard, reader: Backbone, exchanges: int) -> torch.Tensor:
    """Return the probe's logits of all tokens, `[tokens, outputs]`."""
    chats = [guard.backbone.render(row.messages) for row in sample_exchanges(exchanges)]
    readings = [Reading(i, c.token_ids, c.prefix_length, c.answer_end) for i, c in enumerate(chats)]
    tap = ProbeTap([guard.head], guard.backbone.hidden_size)
    with SessionPool(reader, 100_000) as pool:
        return torch.cat([tap.logits.clone() for _ in read_packed(pool, readings, tap)])


if __name__ == "__main__":
    main()
