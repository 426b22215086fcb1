"""Step 8: rows for the text voice of the second stage, and more sets to choose and to test it on.

    python -m recipes.embedded_guard.voice_rows --data DIR --out runs/embedded

Writes these files into `--out`:

- `voice_train.jsonl`: the training exchanges, those of `data/near_policy`, the training part of newer public attacks,
  and more harmless exchanges of shippable sets;
- `voice_dev.jsonl`: the development part of the newer attacks;
- `traffic_dev.jsonl`: harmless exchanges to choose weights with, since few development exchanges are harmless;
- `test_NAME.jsonl` of the newer attacks, and `over_refusal.jsonl`.

The newer attacks are split by goal. `attack_artifacts` and `past_tense` do not name their goals, so each of their
prompts counts for the goal of `ablated_runs` that its words are most like. Rows that are like none are left out.
Rows that share a prompt with another part are dropped from the later one.

The lengths of the benign answers go to `results/embedded_guard/scores/answer_tokens.parquet`.
"""

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.backbones import Backbone
from lockgate.exchanges import (
    Exchange,
    Message,
    PromptPrints,
    normalise_text,
    prompt_text,
    read_exchanges,
)
from recipes.embedded_guard.dataset import RESULTS, labelled, user_text, write_part
from recipes.embedded_guard.sources import read, shuffled
from recipes.embedded_guard.two_stages import OLDER
from recipes.steps import step_parser

NEAR = Path(__file__).parents[2] / "data" / "near_policy"
ATTACKS = ("attack_artifacts", "ablated_runs", "past_tense")
# These hold harm only. Each of their requests also gets a refusal, so that no request is label-pure.
PURE = ("best_of_n", "derta_malicious")
# Share of the goals, of 20.
DEV_GOALS, TEST_GOALS = 3, 5
LIKE = 0.2
MORE_BENIGN = {
    "medquad": 1500,
    "oasst_sampled": 600,
    "coconot_pref": 100,
    "gsm8k": 300,
    "bbh": 300,
    "taskmaster4": 300,
}
TRAFFIC_DEV = {
    "alpaca_52k": 1000,
    "gpteacher": 400,
    "code_alpaca_2k": 350,
    "alpaca_zh": 350,
    "sgd": 200,
    "safety_tuned_2k": 550,
    "cybermetric": 150,
}


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder with the parts of `dataset`")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    data, out = arguments.data, arguments.out
    known = {part: list(read_exchanges(out / f"{part}.jsonl")) for part in ("train", *OLDER)}
    held = PromptPrints.of(row for part in OLDER for row in known[part])
    held |= PromptPrints.of(read(name="sgbench", data=data))
    turns = {
        normalise_text(m.content)
        for part in OLDER
        for row in known[part]
        for m in row.messages
        if m.role == "user"
    }
    made: dict[str, list[Exchange]] = {"over_refusal": list(read_exchanges(NEAR / "over_refusal_test.jsonl"))}
    parts = split_attacks(data)
    for name in ATTACKS:
        made[f"test_{name}"] = fresh(parts["test"][name], held)
    held |= prints_of(made)
    made["voice_dev"] = fresh([row for name in ATTACKS for row in parts["dev"][name]], held)
    trained = PromptPrints.of(known["train"])
    made["traffic_dev"] = [
        row
        for name, size in TRAFFIC_DEV.items()
        for row in fresh(harmless(name, data), held | trained)[:size]
    ]
    held |= prints_of(made)
    more = [
        row
        for name, size in MORE_BENIGN.items()
        for row in unread(fresh(harmless(name, data), held | trained), turns)[:size]
    ]
    near = [row for name in ("train", "deflections") for row in read_exchanges(NEAR / f"{name}.jsonl")]
    attacks = [row for name in ATTACKS for row in parts["train"][name]]
    pure = [labelled(row, 1.0, row.category, name) for name in PURE for row in read(name, data)]
    write_lengths(known)
    made["voice_train"] = known["train"] + fresh([*near, *more, *attacks, *paired(pure, attacks)], held)
    write(made, out)


def harmless(name: str, data: Path) -> list[Exchange]:
    rows = [row for row in read(name, data) if not row.is_prompt_only and (row.label or 0) < 0.5]
    return shuffled([labelled(row, 0.0, source=name) for row in rows], "voice")


def fresh(rows: Sequence[Exchange], held: PromptPrints) -> list[Exchange]:
    """Return the rows whose prompts are not held, nor nearly."""
    matches = held.find([prompt_text(row) for row in rows])
    return [row for row, match in zip(rows, matches, strict=True) if match is None]


def unread(rows: Iterable[Exchange], turns: set[str]) -> list[Exchange]:
    """Return the rows that are no turn of a longer exchange either."""
    return [row for row in rows if normalise_text(user_text(row)) not in turns]


def prints_of(parts: dict[str, list[Exchange]]) -> PromptPrints:
    return PromptPrints.of(row for rows in parts.values() for row in rows)


def split_attacks(data: Path) -> dict[str, dict[str, list[Exchange]]]:
    """Deal the labelled rows of each newer set by goal: part -> set -> rows."""
    sets = {
        name: [
            labelled(row, row.label, row.category, name) for row in read(name, data) if row.label is not None
        ]
        for name in ATTACKS
    }
    goals = Goals(row for row in sets["ablated_runs"] if not str(row.category).startswith("harmless"))
    dealt: dict[str, dict[str, list[Exchange]]] = {
        part: defaultdict(list) for part in ("train", "dev", "test")
    }
    for name, rows in sets.items():
        for row, goal in zip(rows, goals.of(rows, ordinary=name == "ablated_runs"), strict=True):
            if goal is not None:
                dealt[part_of(goal)][name].append(row)
    return dealt


def part_of(goal: str) -> str:
    place = int(hashlib.sha256(goal.encode()).hexdigest(), 16) % 20
    return "test" if place < TEST_GOALS else "dev" if place < TEST_GOALS + DEV_GOALS else "train"


class Goals:
    """The goals that attacks share, found again by their words."""

    def __init__(self, plain: Iterable[Exchange]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._goals = sorted({normalise_text(user_text(row)) for row in plain})
        self._words = TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True).fit(
            self._goals
        )
        self._table = self._words.transform(self._goals)

    def of(self, rows: Sequence[Exchange], *, ordinary: bool) -> Iterator[str | None]:
        """Yield the goal of each row, or None. With `ordinary`, a row without one is its own."""
        texts = [normalise_text(user_text(row)) for row in rows]
        likeness = (self._words.transform(texts) @ self._table.T).toarray()
        for text, row in zip(texts, likeness, strict=True):
            best = int(np.argmax(row))
            yield self._goals[best] if row[best] >= LIKE else text if ordinary else None


def paired(harmful: Sequence[Exchange], answered: Sequence[Exchange]) -> Iterator[Exchange]:
    """Yield each harmful row, and its request with a harmless answer to another harmful request."""
    requests = {user_text(row) for row in answered if (row.label or 0) >= 0.5}
    refusals = [
        row.messages[-1].content
        for row in answered
        if (row.label or 0) < 0.5 and user_text(row) in requests and len(row.messages[-1].content) < 800
    ]
    for row in harmful:
        pick = int(row.id, 16) % len(refusals)
        yield row
        yield labelled(
            Exchange((*row.messages[:-1], Message("assistant", refusals[pick]))), 0.0, source=row.source
        )


def write_lengths(known: dict[str, list[Exchange]]) -> None:
    """Write how many tokens each answer has, in the order of the scores tables."""
    backbone = Backbone.load("embedded")
    columns: dict[str, list[Any]] = {"part": [], "answer_tokens": []}
    for part in ("calibration", "benign_test"):
        for row in known[part]:
            chat = backbone.render(row.messages)
            columns["part"].append(part)
            columns["answer_tokens"].append(chat.answer_end - chat.answer_start)
    table = pa.table(columns).cast(pa.schema([("part", pa.string()), ("answer_tokens", pa.int32())]))
    pq.write_table(table, RESULTS / "scores" / "answer_tokens.parquet", compression="zstd")


def write(made: dict[str, list[Exchange]], out: Path) -> None:
    summary = {part: write_part(rows, out / f"{part}.jsonl") for part, rows in sorted(made.items())}
    content = {"command": "python -m recipes.embedded_guard.voice_rows", "parts": summary}
    (RESULTS / "voice_rows.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
