"""Caches of made-up windows, and exchanges that a tiny backbone can read."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lockgate.exchanges import Exchange, Message
from lockgate.training import WindowCache

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path", "towpath"]


def write_cache(path: Path, rows: Sequence[tuple], layers: Sequence[int] = (0, 1)) -> WindowCache:
    """A cache of one shard; rows are label, category, windows `[n, layers, hidden]`, first answer window."""
    path.mkdir(parents=True)
    exchanges, start = [], 0
    for number, (label, category, windows, first) in enumerate(rows):
        end = start + len(windows)
        exchanges.append(
            {"id": f"{number:016x}", "label": label, "category": category, "source": "made", "start": start,
             "end": end, "first_answer_window": first}
        )  # fmt: skip
        start = end
    np.save(path / "0000.npy", np.concatenate([row[2] for row in rows]).astype(np.float16))
    meta = {"backbone": {}, "layers": list(layers), "site": "residual", "max_tokens": 100, "dtype": "float32"}
    (path / "0000.json").write_text(json.dumps({"meta": meta, "exchanges": exchanges}))
    return WindowCache(path)


def exchange(number: int, words: int = 12, label: float = 0.0, category: str | None = None) -> Exchange:
    text = " ".join(WORDS[(number * k + k) % len(WORDS)] for k in range(words))
    turns = (Message("user", f"tell me of {text} {number}"), Message("assistant", text))
    return Exchange(turns, label, category, "made")
