"""Small inputs that once failed: how many of a folder pass now. Writes the part `cases` of results/engines.json.

    python -m benchmarks.cases FOLDER

A case is a program (`NAME.py` or `NAME.sh`), which exits with 0 if it passes, or a data file. Data files are
imported, which must not fail. JSON files are requests: a server with the embedded guard must answer them with 200
or 400, not fault, and be ready afterwards. A program and a data file of one name are one case; the program decides.
Programs that others import are named `*lib.py` and are no cases.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from starlette.testclient import TestClient

from benchmarks.engines import TARGET, write_part
from lockgate.decisions import LogOptions, read_decisions
from lockgate.gateway import EngineOptions, Gateway, GatewayOptions, create_app
from lockgate.guards import Guard

TREE = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the cases")
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    arguments = parser.parse_args()
    verdicts = {case.stem.split(".")[0]: passes(case) for case in cases_of(arguments.folder)}
    for name, passed in verdicts.items():
        print(f"{name}: {'passes' if passed else 'FAILS'}", flush=True)
    write_part(
        "cases",
        {"given": len(verdicts), "passed": sum(verdicts.values()), "names": sorted(verdicts)},
        arguments.output,
    )


def cases_of(folder: Path) -> list[Path]:
    """Return one file for each case: its program, or else its data."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix in (".py", ".sh"), path.name)):
        if path.suffix in (".py", ".sh", ".json", ".jsonl", ".zst", ".parquet") and not path.stem.endswith(
            "lib"
        ):
            found[path.name.split(".")[0]] = path
    return list(found.values())


def passes(case: Path) -> bool:
    """Run one case."""
    command = Path(sys.executable).parent / "lockgate"
    if case.suffix == ".json":
        return answers(json.loads(case.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as folder:
        words = {
            ".py": [sys.executable, case.name],
            ".sh": ["sh", case.name],
        }.get(case.suffix, [str(command), "import", case.name, "--out", f"{folder}/out.jsonl"])
        environment = {**os.environ, "LOCKGATE_TREE": str(TREE), "LG": str(command)}
        done = subprocess.run(words, cwd=case.parent, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def answers(request: object) -> bool:
    """Send a request to the embedded guard's server."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "decisions.db"
        options = GatewayOptions(LogOptions(log), engine=EngineOptions(kv_tokens=2048))
        with TestClient(
            create_app(Gateway.from_guard(Guard.load(), options)), base_url="http://localhost"
        ) as client:
            answer = client.post("/v1/chat/completions", json=request)
            ready = client.get("/readyz").json()["status"] == "ready"
        decisions = read_decisions(log)
    faults = [found for found in decisions if found.decision == "error"]
    return answer.status_code in (200, 400) and ready and not faults


if __name__ == "__main__":
    main()
