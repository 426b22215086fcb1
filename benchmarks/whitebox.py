"""Attacks on a guard by those who know its weights: words and free embeddings that gradients find.

    python -m benchmarks.whitebox --guard FOLDER --queries stage-magic --state FOLDER
    python -m benchmarks.whitebox --guard FOLDER --queries stage-magic --state FOLDER --other seed-1=FOLDER
    python -m benchmarks.whitebox --guard FOLDER --queries stage-magic --state FOLDER --attack probe-tokens \\
        --steps 20 --batch 16 --suffix 12 --filler 3 --fluency 0.05

An attack is a target and a space: guard-tokens, guard-embeddings, probe-tokens, probe-embeddings and, if the guard
has an exchange classifier, classifier-tokens and classifier-embeddings. Each runs on every query with the same
budget. Finished queries are kept in --state, so an interrupted run goes on. Words that were found on the guard are
then shown to the --other guards. Writes results/whitebox.json: ids and numbers, no text.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from benchmarks.engines import write_part
from lockgate.evaluation import collect_provenance
from lockgate.guards import Guard
from lockgate.redteam import Query, load_queries
from lockgate.redteam.whitebox import (
    AttackOptions,
    Space,
    Target,
    Transferred,
    attack_guard,
    summarise_found,
    transfer,
)

OUTPUT = Path(__file__).parents[1] / "results" / "whitebox.json"
DEFAULTS = AttackOptions()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guard", default="embedded", help="guard that is attacked")
    parser.add_argument("--backbone", help="its backbone; by default the embedded one")
    parser.add_argument("--queries", default="stage-magic", help="a set of queries of the package, or a file")
    parser.add_argument("--first", type=int, help="queries that are attacked; by default all")
    parser.add_argument("--attack", action="append", metavar="TARGET-SPACE", help="by default all that fit")
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=GUARD", help="shown what was found"
    )
    parser.add_argument(
        "--state", type=Path, required=True, help="folder for finished queries, with their words"
    )
    for name in ("prefix", "suffix", "filler", "gaps", "steps", "batch", "swaps", "topk", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(DEFAULTS, name))
    for name in ("fluency", "temperature", "rate", "epsilon", "beyond", "limit", "seconds"):
        parser.add_argument(f"--{name}", type=float, default=getattr(DEFAULTS, name))
    parser.add_argument("--name", default="attacks", help="part of the result file that is written")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="result file")
    arguments = parser.parse_args()
    guard = Guard.load(arguments.guard, backbone=arguments.backbone)
    queries = load_queries(arguments.queries).queries[: arguments.first]
    others = {
        name: Guard.load(path, backbone=guard.backbone)
        for name, _, path in (one.partition("=") for one in arguments.other)
    }
    names = [field for field in asdict(DEFAULTS) if hasattr(arguments, field)]
    options = AttackOptions(**{name: getattr(arguments, name) for name in names})
    attacks = arguments.attack or attacks_on(guard)
    found = measure(guard, queries, attacks, options, arguments.state, others)
    found["provenance"] = collect_provenance(
        ["python", "-m", "benchmarks.whitebox"], seeds={"attack": options.seed}, inputs=[]
    )
    write_part(arguments.name, found, arguments.output)


def attacks_on(guard: Guard) -> list[str]:
    """Return the attacks that fit a guard."""
    targets = [one for one in get_args(Target) if one != "classifier" or guard.classifier is not None]
    return [f"{target}-{space}" for target in targets for space in get_args(Space)]


def measure(
    guard: Guard,
    queries: Sequence[Query],
    attacks: Sequence[str],
    options: AttackOptions,
    state: Path,
    others: Mapping[str, Guard],
) -> dict[str, Any]:
    """Run the attacks. Return their figures, and those of the other guards."""
    results: dict[str, Any] = {}
    for name in attacks:
        target, _, space = name.partition("-")
        own = replace(options, target=target, space=space)  # type: ignore[arg-type]  # AttackOptions checks it
        found = attack_guard(guard, queries, own, state=state / f"{name}.jsonl")
        results[name] = summarise_found(found)
        if space == "tokens":
            shown = transfer([one for one in found if one.words], queries, others)
            results[name]["transfer"] = {other: figures(shown, other) for other in others}
        print(name, {key: value for key, value in results[name].items() if key != "queries"}, flush=True)
    budget = {key: value for key, value in asdict(options).items() if key not in ("target", "space")}
    return {
        "guard": {"name": guard.record.name, "sha256": guard.sha256},
        "queries": len(queries),
        "budget": budget,
        "attacks": results,
    }


def figures(shown: Sequence[Transferred], guard: str) -> dict[str, Any]:
    """Return what the words did to one of the other guards."""
    own = [one for one in shown if one.guard == guard]
    return {
        "n": len(own),
        "caught": sum(one.caught for one in own),
        "success": sum(one.success for one in own),
        "margins": [[finite(one.before), finite(one.after)] for one in own],
    }


def finite(value: float) -> float | None:
    """Round a margin. One that is not finite becomes None: stage 2 was not asked."""
    return round(value, 6) if math.isfinite(value) else None


if __name__ == "__main__":
    main()
