"""The cost of the guard inside vLLM: decoding with it and without it in one engine, and its scores beside ours.

    PYTHONPATH=. .venv-vllm/bin/python -m benchmarks.vllm_guard

It runs where vLLM is installed (`scripts/test-vllm` makes .venv-vllm). Guarded and bare blocks take turns in one
engine. Between blocks a worker and a scheduler of this file, made for measuring only, switch the guard off and on:
off means no hooks, no board, no gates. The scheduler runs in this process in both cases. The part `vllm` of
results/engines.json is replaced.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import TARGET, write_part
from lockgate.backbones import Backbone, Feed, SessionPool, Tap
from lockgate.classifiers import ProbeTap
from lockgate.exchanges import Message
from lockgate.guards import EMBEDDED, read_bundle
from lockgate.vllm import engine_arguments, require_vllm

PROMPT = "Write a long story about a lighthouse keeper and the sea, number {}."
STREAMS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=12, help="pairs of blocks for each ratio")
    parser.add_argument("--tokens", type=int, default=128, help="tokens that each stream decodes in a block")
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    parser.add_argument(
        "--own", action="store_true", help="measure Lockgate's own engine, and print the result"
    )
    arguments = parser.parse_args()
    if arguments.own:
        print(json.dumps([own_speed(arguments.tokens) for _ in range(3)]))
        return
    # In a process of its own, because vLLM binds the processors of the process that it runs in.
    own = json.loads(
        subprocess.run(
            [sys.executable, "-m", "benchmarks.vllm_guard", "--own", "--tokens", str(arguments.tokens)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
    )
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    version = require_vllm().__version__
    engine = Switched()
    try:
        found = measure(engine, arguments.pairs, arguments.tokens)
    finally:
        engine.close()
    found["tokens_s_8"]["lockgate"] = round(float(np.median(own)), 1)
    found = {"version": version, **found, "tokens_per_block": arguments.tokens, "pairs": arguments.pairs}
    write_part("vllm", found, arguments.output)


def measure(engine: "Switched", pairs: int, tokens: int) -> dict[str, Any]:
    """Return the ratios, the speeds and the largest difference from our own engine's logits."""
    found: dict[str, Any] = {"parity_max_abs": parity(engine)}
    speeds: dict[str, list[float]] = {}
    for streams in (STREAMS, 1):
        guarded, bare = blocks(engine, streams, tokens, pairs)
        ratio = interval([one / two for one, two in zip(guarded, bare, strict=True)])
        found[f"decode_ratio_{streams}"] = ratio["median"]
        found[f"decode_ratio_{streams}_ci"] = ratio["ci"]
        print(f"decode, {streams} streams: {ratio}", flush=True)
        if streams == STREAMS:
            speeds = {"vllm_guarded": guarded, "vllm_bare": bare}
    found["tokens_s_8"] = {
        name: round(STREAMS * tokens / float(np.median(seconds)), 1) for name, seconds in speeds.items()
    }
    return found


def blocks(engine: "Switched", streams: int, tokens: int, pairs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of guarded and of bare blocks, in pairs whose order alternates."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for on in (True, False):
        engine.switch(on)
        engine.decode(streams, tokens)
    for pair in range(pairs):
        for on in (True, False) if pair % 2 == 0 else (False, True):
            engine.switch(on)
            seconds[on].append(engine.decode(streams, tokens)[0])
    engine.switch(True)
    return seconds[True], seconds[False]


def interval(values: list[float]) -> dict[str, Any]:
    """Return the median with a bootstrap interval."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return {
        "median": round(float(np.median(values)), 4),
        "ci": [round(float(low), 4), round(float(high), 4)],
        "pairs": len(values),
    }


def prompts(render: Callable[[list[Message]], list[int]]) -> list[list[int]]:
    return [render([Message("user", PROMPT.format(number))]) for number in range(STREAMS)]


def parity(engine: "Switched") -> float:
    """Return the largest difference of a logit from our own engine's, over eight streams."""
    backbone = Backbone.load("embedded")
    head = read_bundle(EMBEDDED).head
    tap = ProbeTap([head], backbone.hidden_size)
    engine.switch(True)
    _, texts, rows = engine.decode(STREAMS, 64)
    worst = 0.0
    with SessionPool(backbone, 10_000) as pool:
        for text, found in zip(texts, rows, strict=True):
            session = pool.open(len(text))
            pool.read([Feed(session, text)], tap)
            session.close()
            worst = max(worst, float(np.abs(tap.logits.numpy() - found).max()))
    return worst


def own_speed(tokens: int) -> float:
    """Return the tokens a second of our own engine, guarded, with eight streams."""
    backbone = Backbone.load("embedded")
    tap: Tap = ProbeTap([read_bundle(EMBEDDED).head], backbone.hidden_size)
    texts = prompts(lambda messages: backbone.render(messages, add_generation_prompt=True).token_ids)
    with SessionPool(backbone, 100_000, streams=STREAMS) as pool:
        sessions = [pool.open(len(text) + tokens + 1) for text in texts]
        feeds = [Feed(session, text, want_logits=True) for session, text in zip(sessions, texts, strict=True)]
        started = time.perf_counter()
        for _ in range(tokens + 1):
            rows = pool.step(feeds, tap)
            chosen = [int(row.argmax()) for row in rows if row is not None]
            feeds = [Feed(s, [token], want_logits=True) for s, token in zip(sessions, chosen, strict=True)]
        return STREAMS * tokens / (time.perf_counter() - started)


class Switched:
    """An engine whose guard can be switched off."""

    def __init__(self) -> None:
        from vllm import EngineArgs, LLMEngine

        arguments = engine_arguments(EMBEDDED, "embedded", release="scored", context=1024, cache_bytes=2**28)
        arguments |= {
            "worker_cls": "benchmarks._vllm_switch.SwitchedWorker",
            "scheduler_cls": "benchmarks._vllm_switch.SwitchedScheduler",
            "enable_prefix_caching": False,
            "disable_log_stats": True,
        }
        self.engine: Any = LLMEngine.from_engine_args(EngineArgs(**arguments))
        self._scheduler = self.engine.engine_core.engine_core.scheduler
        from lockgate.backbones.outline import read_outline

        chat = read_outline("embedded").chat
        self._prompts = prompts(lambda messages: chat.render(messages, add_generation_prompt=True).token_ids)
        self._count = 0

    def switch(self, on: bool) -> None:
        self._scheduler.guarded = on
        self.engine.collective_rpc("switch_guard", args=(on,))

    def decode(self, streams: int, tokens: int) -> tuple[float, list[list[int]], list[Any]]:
        """Return the seconds of a block, and each stream's tokens and rows."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        texts: dict[str, list[int]] = {}
        rows: dict[str, list[Any]] = {}
        for prompt in self._prompts[:streams]:
            self._count += 1
            texts[str(self._count)], rows[str(self._count)] = list(prompt), []
            self.engine.add_request(str(self._count), {"prompt_token_ids": prompt}, params.clone())
        started = time.perf_counter()
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                texts[output.request_id] += output.outputs[0].token_ids
                if note := (output.kv_transfer_params or {}).get("lockgate"):
                    found = np.frombuffer(note["rows"], np.float32)
                    rows[output.request_id].append(found.reshape(note["n"], -1))
        seconds = time.perf_counter() - started
        return seconds, list(texts.values()), [np.concatenate(found) for found in rows.values() if found]

    def close(self) -> None:
        self.engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
