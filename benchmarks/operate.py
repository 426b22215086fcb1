"""Gather what other benchmarks say about running a server for years into `results/operate.json`.

    python -m benchmarks.operate

Takes `results/kills.json` (`benchmarks.kills`), `results/decision_log.json` (`benchmarks.decision_log`) and
`results/dashboard_pages.json` (`benchmarks.dashboard_pages`). A part whose file is not there stays as it is. The part
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
    files = ("operate", "kills", "decision_log", "dashboard_pages")
    TARGET.write_text(json.dumps(gathered(*map(_read, files)), indent=1) + "\n")


def gathered(
    known: dict[str, Any], kills: dict[str, Any], log: dict[str, Any], pages: dict[str, Any]
) -> dict[str, Any]:
    """Return the figures with those of the other files in them. An empty one changes nothing."""
    found = dict(known)
    if kills:
        parts = kills["kills"].items()
        found["kills"] = {name: {"runs": part["runs"], "lost": part["lost"]} for name, part in parts}
    if log:
        databases = log["databases"]
        # By how much the percentiles of a request are higher, with intervals, and from how many requests.
        request = databases["sqlite"]["request"]
        about = {name: request[name] for name in ("rounds", "requests", "n", "confidence") if name in request}
        found["log_ms"] = {**request["added_ms"], **about}
        found["records_per_s"] = {name: part["records_per_s"] for name, part in databases.items()}
    if pages:
        found |= {name: pages[name] for name in ("pages", "axe_violations")}
    return found


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
