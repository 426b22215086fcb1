"""Step 1: choose the parts of the study from the parts that the recipe `embedded_guard` has prepared.

    python -m recipes.reproduce_ccpp.dataset --embedded runs/embedded --out runs/four_systems

Reads the JSONL parts in `--embedded`. Writes `train`, `dev`, `calibration`, `benign_test`, `hard_benign`, `test_NAME` and
`long_NAME` as JSONL into `--out`. Counts and hashes go to `results/four_systems/dataset.json`.

Calibration and test take the first exchanges of at most LIMIT rendered tokens, in file order. Unused calibration rows
fill up the test part; none of them shares a prompt with either part. Of the harmful sets, every harmful exchange that
fits is taken, then harmless ones of the same sets in turn. Exchanges longer than LIMIT go to `long_NAME`: nearly all with
a jailbreak template are.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockgate.backbones import Backbone, RenderedChat
from lockgate.curation import find_duplicates
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from recipes.steps import step_parser

RESULTS = Path(__file__).parents[2] / "results" / "four_systems"
HARMFUL_SETS = ("saferlhf_mini", "own_sgbench", "gptfuzz", "adaptive_attacks")
# Answers to harmful requests, refused or not. The labels judge the answers.
HARMFUL_REQUESTS = frozenset({"own_advbench", "own_catqa", "own_sgbench", "gptfuzz"})
# Red-team dialogues: nobody has judged the requests, and a harmless answer says nothing about its request.
UNKNOWN_REQUESTS = frozenset({"hh_harmless_test"})

Render = Callable[[Sequence[Message]], RenderedChat]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The number of exchanges in each part, and the longest exchange allowed, in rendered tokens."""

    calibration: int = 6000
    benign_test: int = 6000
    harmful: int = 1500
    limit: int = 384


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument(
        "--embedded", type=Path, default=Path("runs/embedded"), help="folder with the parts of embedded_guard"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    arguments = parser.parse_args()
    parts = choose_parts(arguments.embedded, Backbone.load("embedded").render, Sizes())
    write_parts(parts, arguments.out, arguments.embedded, Sizes())


def choose_parts(source: Path, render: Render, sizes: Sizes) -> dict[str, list[tuple[Exchange, int]]]:
    """Choose the rows of each part. Returns them with their numbers of rendered tokens.

    Raises:
        ExchangeError: too few exchanges fit, or two parts share a prompt.
    """

    def measured(name: str) -> list[tuple[Exchange, int]]:
        rows = (marked(row) for row in read_exchanges(source / f"{name}.jsonl"))
        return [(row, len(render(row.messages).token_ids)) for row in rows]

    parts = {name: measured(name) for name in ("train", "dev", "hard_benign")}
    fitting = [item for item in measured("calibration") if item[1] <= sizes.limit]
    parts["calibration"], left = fitting[: sizes.calibration], fitting[sizes.calibration :]
    test = [item for item in measured("benign_test") if item[1] <= sizes.limit][: sizes.benign_test]
    wanted = sizes.benign_test - len(test)
    parts["benign_test"] = test + first_fresh(left, [*parts["calibration"], *test], wanted)
    for name in ("calibration", "benign_test"):
        if len(parts[name]) < getattr(sizes, name):
            raise ExchangeError(
                f"{source / name}.jsonl: {len(parts[name])} exchanges of at most {sizes.limit} tokens, "
                f"expected {getattr(sizes, name)}; run the steps of recipes/embedded_guard first"
            )
    sets = {name: measured(f"test_{name}") for name in HARMFUL_SETS}
    short = {name: [item for item in rows if item[1] <= sizes.limit] for name, rows in sets.items()}
    parts |= {f"test_{name}": rows for name, rows in choose_judged(short, sizes.harmful).items()}
    long = {name: [item for item in rows if item[1] > sizes.limit] for name, rows in sets.items()}
    parts |= {f"long_{name}": rows for name, rows in long.items() if rows}
    check_disjoint({name: [row for row, _ in rows] for name, rows in parts.items()})
    return parts


def marked(row: Exchange) -> Exchange:
    """Return the row with `meta.harmful_request`, from which a classifier of prompts learns. None means not known."""
    asked: bool | None = row.source in HARMFUL_REQUESTS or (row.label or 0.0) >= 0.5
    if not asked and row.source in UNKNOWN_REQUESTS:
        asked = None
    meta = {**row.meta, "harmful_request": asked}
    return Exchange(row.messages, row.label, row.category, row.source, meta)


def user_text(row: Exchange) -> str:
    return next((message.content for message in reversed(row.messages) if message.role == "user"), "")


def first_fresh(
    pool: Sequence[tuple[Exchange, int]], taken: Sequence[tuple[Exchange, int]], wanted: int
) -> list[tuple[Exchange, int]]:
    """Return the first rows of the pool with new prompts: not among the rows taken, and not repeated."""
    if wanted <= 0:
        return []
    groups = find_duplicates([user_text(row) for row, _ in (*taken, *pool)])
    used = set(groups[: len(taken)])
    found: list[tuple[Exchange, int]] = []
    for item, group in zip(pool, groups[len(taken) :], strict=True):
        if len(found) < wanted and group not in used:
            used.add(group)
            found.append(item)
    return found


def choose_judged(
    sets: dict[str, list[tuple[Exchange, int]]], size: int
) -> dict[str, list[tuple[Exchange, int]]]:
    """Return all harmful rows, at most `size`, filled up with harmless ones of the sets in turn. Each set keeps its order."""

    def ids(harmful: bool) -> Iterator[tuple[str, int]]:
        places = {
            name: [i for i, (row, _) in enumerate(rows) if ((row.label or 0.0) >= 0.5) == harmful]
            for name, rows in sets.items()
        }
        for turn in range(max(map(len, places.values()), default=0)):
            yield from ((name, found[turn]) for name, found in places.items() if turn < len(found))

    chosen = set([*ids(True), *ids(False)][:size])
    return {name: [item for i, item in enumerate(rows) if (name, i) in chosen] for name, rows in sets.items()}


def check_disjoint(parts: dict[str, list[Exchange]]) -> None:
    """Check that calibration and test share no prompt with each other or with training.

    Raises:
        ExchangeError: two parts hold near-duplicates of one prompt.
    """
    kinds = {name: "test" if name.startswith(("test_", "long_")) else name for name in parts}
    rows = [(kinds[name], row) for name, found in parts.items() for row in found]
    owner: dict[str, str] = {}
    groups = find_duplicates([str(row.meta.get("question") or user_text(row)) for _, row in rows])
    for (kind, _), group in zip(rows, groups, strict=True):
        if owner.setdefault(group, kind) != kind:
            raise ExchangeError(
                f"{owner[group]} and {kind} share a prompt; run python -m recipes.embedded_guard.dataset again"
            )


def write_parts(
    parts: dict[str, list[tuple[Exchange, int]]],
    out: Path,
    source: Path,
    sizes: Sizes,
    results: Path = RESULTS,
) -> None:
    """Write the parts, and a record with counts and with hashes of input and output."""
    out.mkdir(parents=True, exist_ok=True)
    summary = {}
    for part, rows in sorted(parts.items()):
        path = out / f"{part}.jsonl"
        write_exchanges(path, [row for row, _ in rows])
        summary[part] = {
            "rows": len(rows),
            "tokens": sum(tokens for _, tokens in rows),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "sources": count_labels(row for row, _ in rows),
        }
        print(part, summary[part]["rows"], summary[part]["tokens"], summary[part]["sources"])
    inputs = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("train", "dev", "hard_benign", "calibration", "benign_test")
        for path in [source / f"{name}.jsonl"]
    } | {
        f"test_{name}.jsonl": hashlib.sha256((source / f"test_{name}.jsonl").read_bytes()).hexdigest()
        for name in HARMFUL_SETS
    }
    content = {
        "command": "python -m recipes.reproduce_ccpp.dataset",
        "limit_tokens": sizes.limit,
        "parts": summary,
        "inputs": dict(sorted(inputs.items())),
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")


def count_labels(rows: Iterable[Exchange]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        kind = "harmful" if (row.label or 0.0) >= 0.5 else "harmless"
        counts.setdefault(row.source, Counter())[kind] += 1
    return {source: dict(sorted(count.items())) for source, count in sorted(counts.items())}


if __name__ == "__main__":
    main()
