"""The cost of the probe: decoding and scoring with it and without it, memory of a stream, and capacity.

    make bench            # everything, about half an hour on two cores
    make bench ARGS=--quick

Both sides of a ratio take turns, block by block, in one process. So a busy or hot machine slows both. Results go to
results/bench.json.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import lockgate
from lockgate.backbones import Backbone, Feed, Reading, SessionPool, Tap, embedded_path, front, read_packed
from lockgate.classifiers import ProbeTap
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Exchange, Message
from lockgate.guards import Guard, score_exchanges

TARGET = Path(__file__).parents[1] / "results" / "bench.json"
PROMPT = [Message("user", "Write a long story about a lighthouse keeper and the sea.")]
SENTENCE = "The keeper climbed the stairs, lit the lamp and wrote the weather into the book. "


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and short blocks; nothing to publish")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of measurements for a ratio")
    parser.add_argument("--tokens", type=int, default=256, help="tokens to decode in a block")
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    arguments = parser.parse_args()
    pairs, tokens = (3, 32) if arguments.quick else (arguments.pairs, arguments.tokens)
    guard = lockgate.load("embedded")
    found: dict[str, Any] = {"tokens_per_block": tokens, "pairs": pairs}
    for batch in (1, 8):
        found[f"decode_ratio_batch{batch}"] = decode_ratio(guard, batch, tokens, pairs)
        print(f"decode, batch {batch}: {found[f'decode_ratio_batch{batch}']}", flush=True)
    found["generate_ratio"] = generate_ratio(guard.backbone, tokens, max(3, pairs // 4))
    print(f"without probe over transformers' generate: {found['generate_ratio']}", flush=True)
    found["score_ratio"] = score_ratio(guard, max(3, pairs // 2))
    print(f"scoring throughput over the bare pass: {found['score_ratio']}", flush=True)
    found["bytes_per_stream"] = bytes_per_stream(guard)
    found["capacity"] = [capacity(guard, streams, tokens // 4) for streams in (1, 4, 8)]
    found["score_exchanges_per_hour"] = exchanges_per_hour(guard, 8 if arguments.quick else 64)
    found["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found["threads"] = torch.get_num_threads()
    found["provenance"] = collect_provenance(["make", "bench"], seeds={"bootstrap": 0}, inputs=[])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


def ratio(first: Callable[[], float], second: Callable[[], float], pairs: int) -> dict[str, Any]:
    """Return the median of first/second over interleaved pairs, with a bootstrap interval of the median."""
    first(), second()
    values = []
    for index in range(pairs):
        one, two = (first(), second()) if index % 2 == 0 else (second(), first())[::-1]
        values.append(one / two)
    random = np.random.default_rng(0)
    medians = np.median(random.choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return {
        "median": round(float(np.median(values)), 4),
        "ci": [round(low, 4), round(high, 4)],
        "pairs": pairs,
    }


def decode(backbone: Backbone, pool: SessionPool, tap: Tap | None, batch: int, tokens: int) -> float:
    """Return the seconds to decode a block, greedily. Every stream takes one token a step. Prompts are read before."""
    chat = backbone.render(PROMPT, add_generation_prompt=True)
    sessions = [pool.open(len(chat.token_ids) + tokens + 1) for _ in range(batch)]
    rows = pool.step([Feed(session, chat.token_ids, want_logits=True) for session in sessions], tap)
    start = time.perf_counter()
    for _ in range(tokens):
        chosen = [int(row.argmax()) for row in rows if row is not None]
        feeds = [Feed(s, [token], want_logits=True) for s, token in zip(sessions, chosen, strict=True)]
        rows = pool.step(feeds, tap)
    elapsed = time.perf_counter() - start
    for session in sessions:
        session.close()
    return elapsed


def decode_ratio(guard: Guard, batch: int, tokens: int, pairs: int) -> dict[str, Any]:
    backbone = guard.backbone
    tap = ProbeTap([guard.head], backbone.hidden_size)
    with SessionPool(backbone, 100_000) as pool:
        return ratio(
            lambda: decode(backbone, pool, tap, batch, tokens),
            lambda: decode(backbone, pool, None, batch, tokens),
            pairs,
        )


def generate_ratio(backbone: Backbone, tokens: int, pairs: int) -> dict[str, Any]:
    """Return our decoding time without a probe divided by that of transformers' `generate`, at batch 1."""
    reference = AutoModelForCausalLM.from_pretrained(str(embedded_path()), dtype=torch.float32).eval()
    ids = torch.tensor([backbone.render(PROMPT, add_generation_prompt=True).token_ids])

    def generate() -> float:
        start = time.perf_counter()
        reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=2,
        )
        return time.perf_counter() - start

    with SessionPool(backbone, 100_000) as pool:
        return ratio(lambda: decode(backbone, pool, None, 1, tokens), generate, pairs)


def score_ratio(guard: Guard, pairs: int) -> dict[str, Any]:
    """Return the throughput of scoring, with rendering and bookkeeping, divided by the bare forward pass's.

    Both leave out the layers that the probe does not need (benchmarks/front.py measures the gain).
    """
    backbone, exchanges = guard.backbone, sample_exchanges(24)
    reader = front(backbone, 1 + max(guard.head.layers))
    chats = [backbone.render(exchange.messages) for exchange in exchanges]

    def bare() -> float:
        readings = [Reading(i, c.token_ids, c.prefix_length, c.answer_end) for i, c in enumerate(chats)]
        start = time.perf_counter()
        with SessionPool(reader, 100_000) as pool:
            for _ in read_packed(pool, readings, None):
                pass
        return time.perf_counter() - start

    def scored() -> float:
        start = time.perf_counter()
        list(score_exchanges(backbone, [guard.stages], exchanges))
        return time.perf_counter() - start

    return ratio(bare, scored, pairs)


def sample_exchanges(count: int) -> list[Exchange]:
    return [
        Exchange((Message("user", f"Tell me more, part {i}."), Message("assistant", SENTENCE * (3 + i % 9))))
        for i in range(count)
    ]


def bytes_per_stream(guard: Guard) -> dict[str, int]:
    """Return the memory of a stream: keys and values for 1,024 tokens, and the guard's state, which does not grow."""
    with SessionPool(guard.backbone, 10_000) as pool:
        session = pool.open(1024)
        pool.step([Feed(session, [5])])
        cache = sum(k.nbytes + v.nbytes for k, v in session.buffers())
    return {"key_values_per_1k_tokens": cache, "guard": 8 * (4 + guard.head.n_outputs)}


def capacity(guard: Guard, streams: int, tokens: int) -> dict[str, Any]:
    backbone = guard.backbone
    tap = ProbeTap([guard.head], backbone.hidden_size)
    chat = backbone.render(PROMPT, add_generation_prompt=True)
    with SessionPool(backbone, 100_000) as pool:
        start = time.perf_counter()
        sessions = [pool.open(len(chat.token_ids) + tokens) for _ in range(streams)]
        pool.step([Feed(session, chat.token_ids, want_logits=True) for session in sessions], tap)
        first = time.perf_counter() - start
        for session in sessions:
            session.close()
        seconds = decode(backbone, pool, tap, streams, tokens)
    return {
        "streams": streams,
        "time_to_first_token_s": round(first, 3),
        "tokens_per_s": round(streams * tokens / seconds, 1),
    }


def exchanges_per_hour(guard: Guard, count: int) -> dict[str, float]:
    exchanges: Sequence[Exchange] = sample_exchanges(count)
    start = time.perf_counter()
    scores = list(score_exchanges(guard.backbone, [guard.stages], exchanges))
    elapsed = time.perf_counter() - start
    tokens = sum(score[0].tokens for score in scores)
    return {"exchanges": round(3600 * count / elapsed), "mean_tokens": round(tokens / count, 1)}


if __name__ == "__main__":
    main()
