"""Gather what other benchmarks say about running a server for years into `results/operate.json`.

    python -m benchmarks.operate

Takes `results/kills.json` (`benchmarks.kills`) and `results/decision_log.json` (`benchmarks.decision_log`). The part
`sequential` is written by `benchmarks.sequential` itself.
"""

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
TARGET = RESULTS / "operate.json"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    TARGET.write_text(json.dumps(gathered(_read("operate")), indent=1) + "\n")


def gathered(known: dict[str, Any]) -> dict[str, Any]:
    """Return the figures with those of the other files in them."""
    kills, log = _read("kills")["kills"], _read("decision_log")["databases"]
    return {
        **known,
        "kills": {name: {"runs": part["runs"], "lost": part["lost"]} for name, part in kills.items()},
        "log_ms": log["sqlite"]["request"]["added_ms"],
        "records_per_s": {name: part["records_per_s"] for name, part in log.items()},
    }


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


if __name__ == "__main__":
    main()
