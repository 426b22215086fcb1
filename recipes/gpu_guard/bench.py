"""Time decoding on our own engine's steps, with and without the guard, and print the figures as JSON.

    python -m recipes.gpu_guard.bench --guard GUARD --backbone PATH --streams 1 8 32

Streams take one token a step, greedily. Both ways take turns in one process. Prompts are read before the time counts.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

from benchmarks.peak import peak_bytes
from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.classifiers import ProbeTap
from lockgate.exchanges import Message
from lockgate.guards import Guard
from recipes.steps import step_parser

PROMPT = [Message("user", "Write a long story about a lighthouse keeper and the sea.")]


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--guard", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    guard = Guard.load(
        arguments.guard, backbone=arguments.backbone, device=arguments.device, dtype=arguments.dtype
    )
    print(json.dumps(measure(guard, arguments)))


def measure(guard: Guard, arguments: argparse.Namespace) -> dict[str, Any]:
    backbone = guard.backbone
    rows = [_case(guard, streams, arguments.tokens, arguments.pairs) for streams in arguments.streams]
    on_gpu = backbone.placement.kind == "cuda"
    return {
        "device": torch.cuda.get_device_name(backbone.device) if on_gpu else backbone.placement.device,
        "dtype": backbone.placement.dtype,
        "parameters": sum(one.numel() for one in backbone.model.parameters()),
        "threads": torch.get_num_threads(),
        "tokens": arguments.tokens,
        "rows": rows,
        "peak_bytes": peak_bytes(),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated(backbone.device) if on_gpu else None,
    }


def _case(guard: Guard, streams: int, tokens: int, pairs: int) -> dict[str, Any]:
    """Return tokens/s in both ways, and the median ratio of the time with the guard to that without."""
    backbone = guard.backbone
    tap = ProbeTap([guard.head], backbone.hidden_size, backbone.device)
    size = len(backbone.render(PROMPT, add_generation_prompt=True).token_ids) + tokens
    with SessionPool(backbone, 2 * streams * size, streams=streams) as pool:
        decode(backbone, pool, tap, streams, min(4, tokens))
        times = []
        for number in range(pairs):
            order = (tap, None) if number % 2 else (None, tap)
            found = {way is tap: decode(backbone, pool, way, streams, tokens) for way in order}
            times.append((found[True], found[False]))
    guarded, bare = np.array(times).T
    return {
        "streams": streams,
        "tokens_s_guarded": round(streams * tokens / float(np.median(guarded)), 1),
        "tokens_s_bare": round(streams * tokens / float(np.median(bare)), 1),
        "ratio": round(float(np.median(guarded / bare)), 4),
    }


@torch.inference_mode()
def decode(backbone: Backbone, pool: SessionPool, tap: ProbeTap | None, streams: int, tokens: int) -> float:
    """Return the seconds in which every stream writes `tokens` tokens."""
    ids = backbone.render(PROMPT, add_generation_prompt=True).token_ids
    sessions = [pool.open(len(ids) + tokens) for _ in range(streams)]
    rows = pool.step([Feed(session, ids, want_logits=True) for session in sessions], tap)
    start = 0.0
    for number in range(tokens):
        # Reading the tokens waits for the device, so the time starts after the prompts were read.
        chosen = torch.stack([row for row in rows if row is not None]).argmax(1).tolist()
        start = start if number else time.perf_counter()
        feeds = [
            Feed(session, [token], want_logits=True) for session, token in zip(sessions, chosen, strict=True)
        ]
        rows = pool.step(feeds, tap)
        if tap is not None:
            tap.logits.cpu()  # as the server fetches them
    torch.stack([row for row in rows if row is not None]).argmax(1).tolist()
    elapsed = time.perf_counter() - start
    for session in sessions:
        session.close()
    return elapsed


if __name__ == "__main__":
    main()
