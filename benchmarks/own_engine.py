"""Where our own engine's time goes while it decodes eight streams, by kind of operation.

    python -m benchmarks.own_engine

Writes the part `own_engine` of results/engines.json: shares of the time of a guarded step, from PyTorch's profiler.
`python` is what no operation accounts for: the library's modules, hooks and our own plan of the step.
"""

import argparse
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.engines import TARGET, write_part
from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.classifiers import ProbeTap
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Message
from lockgate.guards import EMBEDDED, read_bundle

STREAMS, STEPS = 8, 32
KINDS = {
    "linear": (
        "aten::linear",
        "aten::addmm",
        "aten::mm",
        "aten::matmul",
        "aten::addmm_",
        "mkldnn",
        "aten::t",
    ),
    "attention": (
        "aten::_scaled_dot_product",
        "aten::scaled_dot_product",
        "aten::_flash",
        "aten::softmax",
        "aten::bmm",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    measure(parser.parse_args().output)


@torch.inference_mode()
def measure(target: Path) -> None:
    """Time a few steps under the profiler, and write the shares."""
    backbone = Backbone.load("embedded")
    tap = ProbeTap([read_bundle(EMBEDDED).head], backbone.hidden_size)
    chat = backbone.render([Message("user", "Write a long story about the sea.")], add_generation_prompt=True)
    with SessionPool(backbone, 8192, streams=STREAMS) as pool:
        sessions = [pool.open(256) for _ in range(STREAMS)]
        pool.step([Feed(session, chat.token_ids, want_logits=True) for session in sessions], tap)
        feeds = [Feed(session, [100], want_logits=True) for session in sessions]
        for _ in range(4):
            pool.step(feeds, tap)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(STEPS):
                pool.step(feeds, tap)
    events = profiled.events()
    start = min(event.time_range.start for event in events)
    whole = max(event.time_range.end for event in events) - start
    own = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    shares = {
        kind: sum(time for name, time in own.items() if name.startswith(names)) / whole
        for kind, names in KINDS.items()
    }
    shares["other operations"] = sum(own.values()) / whole - sum(shares.values())
    shares["python"] = max(0.0, 1.0 - sum(own.values()) / whole)
    write_part(
        "own_engine",
        {
            "streams": STREAMS,
            "steps": STEPS,
            "ms_per_step": round(whole / STEPS / 1000, 2),
            "threads": torch.get_num_threads(),
            "shares": {name: round(share, 3) for name, share in shares.items()},
            "provenance": collect_provenance(["python", "-m", "benchmarks.own_engine"], {}, []),
        },
        target,
    )
    print(shares, whole / STEPS / 1000)


if __name__ == "__main__":
    main()
