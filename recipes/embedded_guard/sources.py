"""The public data sets of the embedded guard: which rows are used for training, calibration and test.

A prompt is in one part only. Near-duplicates are found across all sets before the split. Prompts that a test set shares
with others stay out of training and calibration.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from lockgate.exchanges import Exchange, read_exchanges

PROMPT_LISTS = ("own_advbench", "own_catqa", "own_benign", "own_sgbench")
OWN_CATQA_ROWS = 700
OWN_SGBENCH_ROWS = 300
OWN_BENIGN_ROWS = 200


def read(name: str, data: Path) -> Iterator[Exchange]:
    """Read the rows of one data set."""
    yield from read_exchanges(data / f"{name}.jsonl.gz")


def prompt_text(row: Exchange) -> str:
    """Return the last user message, normalised for comparison."""
    users = [message.content for message in row.messages if message.role == "user"]
    return " ".join("".join(c if c.isalnum() else " " for c in users[-1].lower()).split()) if users else ""


def shuffled(rows: list[Exchange], salt: str) -> list[Exchange]:
    """Return the rows in an order that depends only on their ids."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{salt}{row.id}".encode()).digest())


def prompts_of(name: str, data: Path) -> list[Exchange]:
    """Return the prompts of one of `PROMPT_LISTS`."""
    if name == "own_sgbench":
        return fresh_sgbench(data)[:OWN_SGBENCH_ROWS]
    if name == "own_advbench":
        return shuffled(list(read("advbench", data)), name)
    if name == "own_catqa":
        return shuffled(list(read("catqa_harmfulqa", data)), name)[:OWN_CATQA_ROWS]
    rows = [
        Exchange(row.messages[:1], label=0.0, source=row.source, meta=dict(row.meta))
        for other in ("gpteacher", "coconot_pref", "medquad")
        for row in shuffled(list(read(other, data)), name)[: OWN_BENIGN_ROWS // 2]
        if len(row.messages[0].content) < 600
    ]
    return shuffled(rows, name)[:OWN_BENIGN_ROWS]


def fresh_sgbench(data: Path) -> list[Exchange]:
    """Return the harmful prompts that are in no other set, in the order in which the tests take them."""
    elsewhere: set[str] = set()
    for other in (
        "advbench",
        "catqa_harmfulqa",
        "guardreasoner_5k",
        "saferlhf_mini",
        "gptfuzz_train",
        "adaptive_attacks",
        "safety_tuned_2k",
        "hh_harmless_test",
        "toxicchat_train_human",
    ):
        elsewhere |= {prompt_text(row) for row in read(other, data)}
    fresh = {prompt_text(row): row for row in read("sgbench", data) if prompt_text(row) not in elsewhere}
    return shuffled(list(fresh.values()), "own_sgbench")
