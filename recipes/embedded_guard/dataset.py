"""Step 2: split all data sets by prompt into training, development, calibration and test exchanges.

    python -m recipes.embedded_guard.dataset --data DIR --out runs/embedded

Writes `train.jsonl`, `dev.jsonl`, `calibration.jsonl`, `benign_test.jsonl`, `hard_benign.jsonl` and `test_NAME.jsonl`
into `--out`. Text stays there. Counts and hashes go to `results/embedded_guard/dataset.json`.

The probe learns only from sets that are marked as shippable and from the backbone's own answers. Calibration and test
also use the other sets. Rows that share a prompt with a test set are dropped from the other parts, also if the prompt
is a near-duplicate or stands inside a longer one.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lockgate.backbones import Backbone
from lockgate.constitution import load_mapping
from lockgate.curation import crossed_split, find_duplicates
from lockgate.exchanges import Exchange, Message, normalise_text, read_exchanges, write_exchanges
from recipes.embedded_guard.sources import read, shuffled
from recipes.steps import step_parser

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "results" / "embedded_guard"
TEST_SETS = ("saferlhf_mini", "adaptive_attacks", "gptfuzz", "own_sgbench")
# Tokens of the rendered conversation. The 24 of the constant prefix and the closing ones are not scored.
LONG_TOKENS = 1030
HELD_TEMPLATES, HELD_QUESTIONS = 5, 20

# Rows for each part. Calibration has at least 70 % open-ended requests and at most 20 % mathematics and code.
TRAIN_BENIGN = {
    "gpteacher": 1300,
    "coconot_pref": 350,
    "medquad": 200,
    "own_benign": 200,
    "gsm8k": 120,
    "bbh": 120,
    "mbpp": 150,
    "taskmaster4": 120,
    "oasst_sampled": 110,
}
DEV_BENIGN = {"gpteacher": 250, "coconot_pref": 60, "oasst_sampled": 30, "medquad": 30}
CALIBRATION = {
    "alpaca_52k": 8500,
    "gpteacher": 950,
    "oasst_sampled": 200,
    "dolly_387": 240,
    "coconot_pref": 280,
    "gsm8k": 300,
    "bbh": 300,
    "mbpp": 250,
    "code_alpaca_2k": 350,
    "alpaca_zh": 300,
    "medquad": 250,
    "sgd": 150,
    "taskmaster4": 150,
}
BENIGN_TEST = {
    "alpaca_52k": 4300,
    "gpteacher": 400,
    "oasst_sampled": 130,
    "dolly_387": 120,
    "coconot_pref": 160,
    "gsm8k": 150,
    "bbh": 150,
    "mbpp": 120,
    "code_alpaca_2k": 180,
    "alpaca_zh": 150,
    "medquad": 120,
    "sgd": 75,
    "taskmaster4": 75,
}
HARD_BENIGN = {"safety_tuned_2k": 300, "cybermetric": 200}
OPEN_ENDED = ("alpaca_52k", "gpteacher")
LONG_CALIBRATION, LONG_TEST = 1260, 200


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    arguments = parser.parse_args()
    pools = load_pools(arguments.data, arguments.out)
    groups = group_prompts(pools)
    tests = {name: pools.pop(name) for name in TEST_SETS}
    taken = {groups[row.id] for rows in tests.values() for row in rows}
    hidden = [normalise_text(user_text(row)) for row in tests["adaptive_attacks"]]
    pools = {name: drop_leaks(rows, groups, taken, hidden) for name, rows in pools.items()}
    parts = take_parts(pools, groups)
    backbone = Backbone.load("embedded")
    history = parts.pop("history")
    parts["calibration"] = lengthen(parts["calibration"], history, LONG_CALIBRATION, backbone)
    parts["benign_test"] = lengthen(parts["benign_test"], history[::-1], LONG_TEST, backbone)
    parts |= {f"test_{name}": rows for name, rows in tests.items()}
    write_parts(parts, arguments.out, arguments.data)


def load_pools(data: Path, made: Path) -> dict[str, list[Exchange]]:
    """Load every source by name, with usable labels. gptfuzz is split into training and test cells."""
    pools: dict[str, list[Exchange]] = {}
    for name in {*TRAIN_BENIGN, *CALIBRATION, *HARD_BENIGN} - {"own_benign"}:
        pools[name] = [labelled(row, 0.0, source=name) for row in read(name, data) if not row.is_prompt_only]
    for name in ("saferlhf_mini", "adaptive_attacks"):
        pools[name] = [
            labelled(row, row.label, row.category, name) for row in read(name, data) if row.label is not None
        ]
    pools["gptfuzz_train"], pools["gptfuzz"] = crossed_gptfuzz(list(read("gptfuzz_train", data)))
    pools["own_benign"] = [labelled(row, 0.0) for row in read_exchanges(made / "answers_own_benign.jsonl")]
    read_labels = {
        "hh_harmless_test": list(read("hh_harmless_test", data)),
        **{
            f"own_{name}": list(read_exchanges(made / f"answers_own_{name}.jsonl"))
            for name in ("advbench", "catqa", "sgbench")
        },
    }
    for name, rows in read_labels.items():
        pools[name] = apply_labels(rows, sorted((HERE / "labels").glob(f"{name}*.tsv")), source=name)
    return pools


def labelled(row: Exchange, label: float, category: str | None = None, source: str = "") -> Exchange:
    return Exchange(row.messages, label, category, source or row.source, dict(row.meta))


def apply_labels(rows: Sequence[Exchange], labels: Sequence[Path], *, source: str) -> list[Exchange]:
    """Keep the rows that a reader has labelled 0 or 1. Unclear rows (null) are left out."""
    known = dict(line.split("\t", 1) for path in labels for line in path.read_text().splitlines())
    out = []
    for row in rows:
        label, category = (*known.get(row.id, "null").split("\t"), "")[:2]
        if label in ("0", "1"):
            out.append(labelled(row, float(label), category or None, source))
    return out


def crossed_gptfuzz(rows: list[Exchange]) -> tuple[list[Exchange], list[Exchange]]:
    """Split by template and question: held-out with held-out is test, the rest with the rest is training.

    Mixed cells are dropped.
    """
    questions = template_questions(rows)
    templates = [str(row.category) for row in rows]
    parts = crossed_split(templates, questions, held_first=HELD_TEMPLATES, held_second=HELD_QUESTIONS, seed=1)
    made: dict[str, list[Exchange]] = defaultdict(list)
    for row, question, part in zip(rows, questions, parts, strict=True):
        if part != "dropped":
            meta = {**row.meta, "family": row.category, "question": question}
            made[part].append(Exchange(row.messages, row.label, None, "gptfuzz", meta))
    return made["train"], made["test"]


def template_questions(rows: Sequence[Exchange]) -> list[str]:
    """Find the question inside each prompt.

    The first candidate is the part that differs between the prompts of one template. But some templates repeat the
    question, or end like it. So the result is the longest question in the prompt that was found often, if there is one.
    """
    by_template: dict[str | None, list[str]] = defaultdict(list)
    for row in rows:
        by_template[row.category].append(user_text(row))
    cut = []
    for row in rows:
        texts = by_template[row.category]
        start = os.path.commonprefix(texts)
        end = os.path.commonprefix([text[len(start) :][::-1] for text in texts])
        text = user_text(row)
        cut.append(normalise_text(text[len(start) : len(text) - len(end)]))
    often = sorted(
        (q for q, count in Counter(cut).items() if count >= 5 and len(q) > 15), key=len, reverse=True
    )
    return [
        next((q for q in often if q in normalise_text(user_text(row))), own)
        for row, own in zip(rows, cut, strict=True)
    ]


def user_text(row: Exchange) -> str:
    return next((message.content for message in reversed(row.messages) if message.role == "user"), "")


def group_prompts(pools: dict[str, list[Exchange]]) -> dict[str, str]:
    """Return the duplicate group of every row, over all pools at once."""
    rows = [row for pool in pools.values() for row in pool]
    texts = [str(row.meta.get("question") or user_text(row)) for row in rows]
    found = find_duplicates(texts, threshold=0.7)
    return {row.id: group for row, group in zip(rows, found, strict=True)}


def drop_leaks(
    rows: Iterable[Exchange], groups: dict[str, str], taken: set[str], hidden: Sequence[str]
) -> list[Exchange]:
    """Return the rows that share no prompt with the test sets, not even inside a longer prompt."""
    kept = []
    for row in rows:
        text = normalise_text(user_text(row))
        inside = 3 < len(text.split()) < 40 and any(text in long for long in hidden)
        if groups[row.id] not in taken and not inside:
            kept.append(row)
    return kept


def take_parts(pools: dict[str, list[Exchange]], groups: dict[str, str]) -> dict[str, list[Exchange]]:
    """Deal the rows of each pool to the parts.

    A prompt group goes to one part only. In every part but training, only one row of a group is used.
    """
    owner: dict[str, str] = {}
    parts: dict[str, list[Exchange]] = defaultdict(list)
    harmful = ("gptfuzz_train", "hh_harmless_test", "own_advbench", "own_catqa")
    for name in harmful:
        for row in shuffled(pools[name], "harmful"):
            group = groups[row.id]
            # One in eight prompts is for development: it helps to choose a probe and is never trained on.
            part = owner.setdefault(group, "dev" if int(group[:8], 16) % 8 == 0 else "train")
            parts[part].append(row)
    wanted = (
        ("train", TRAIN_BENIGN),
        ("dev", DEV_BENIGN),
        ("calibration", CALIBRATION),
        ("benign_test", BENIGN_TEST),
    )
    left = {name: iter(shuffled(pools[name], "benign")) for name in pools}
    for part, sizes in (*wanted, ("hard_benign", HARD_BENIGN)):
        for name, size in sizes.items():
            parts[part] += first_fresh(left[name], groups, owner, part, size)
    for name in OPEN_ENDED:
        parts["history"] += first_fresh(left[name], groups, owner, "history", 100_000)
    return {part: shuffled(rows, part) for part, rows in parts.items()}


def first_fresh(
    rows: Iterable[Exchange], groups: dict[str, str], owner: dict[str, str], part: str, size: int
) -> list[Exchange]:
    out: list[Exchange] = []
    for row in rows:
        if len(out) == size:
            break
        if groups[row.id] not in owner:
            owner[groups[row.id]] = part
            out.append(row)
    return out


def lengthen(
    rows: list[Exchange], history: Sequence[Exchange], wanted: int, backbone: Backbone
) -> list[Exchange]:
    """Put earlier turns in front of `wanted` open-ended exchanges until each exceeds LONG_TOKENS.

    Few natural exchanges are that long. The turns come from rows that are used for nothing else.
    """
    pool = list(history)
    cursor, made, out = 0, 0, []
    for row in rows:
        if made < wanted and row.source in OPEN_ENDED and len(row.messages) == 2:
            turns: tuple[Message, ...] = ()
            while len(backbone.render((*turns, *row.messages)).token_ids) < LONG_TOKENS:
                turns = (*pool[cursor % len(pool)].messages, *turns)
                cursor += 1
            row = Exchange(
                (*turns, *row.messages), row.label, row.category, row.source, {**row.meta, "long": True}
            )
            made += 1
        out.append(row)
    return shuffled(out, "order")


def write_parts(parts: dict[str, list[Exchange]], out: Path, data: Path) -> None:
    summary = {part: write_part(rows, out / f"{part}.jsonl") for part, rows in sorted(parts.items())}
    sources = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(data.glob("*.jsonl.gz"))}
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"command": "python -m recipes.embedded_guard.dataset", "parts": summary, "inputs": sources}
    (RESULTS / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")


def write_part(rows: list[Exchange], path: Path) -> dict[str, Any]:
    """Write the exchanges of a part, with categories of `general-harms`. Return their hash and counts."""
    rows = [with_mapped_category(row) for row in rows]
    write_exchanges(path, rows)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.source]["harmful" if (row.label or 0) >= 0.5 else "harmless"] += 1
    summary = {
        "rows": len(rows),
        "long": sum(bool(row.meta.get("long")) for row in rows),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "sources": {source: dict(sorted(count.items())) for source, count in sorted(counts.items())},
    }
    print(path.stem, summary["rows"], summary["sources"], flush=True)
    return summary


def with_mapped_category(row: Exchange) -> Exchange:
    """Return rows with categories of `general-harms`. A reader's category stays; a data set's own is mapped or dropped."""
    if row.label is None or row.label < 0.5 or row.category is None:
        return labelled(row, row.label or 0.0, None)
    known = set(load_mapping("catqa_harmfulqa").values())
    return labelled(row, row.label, row.category if row.category in known else None)


if __name__ == "__main__":
    main()
