"""Run the factory in child processes that each die at a chosen moment, and then run it to its end.

Called with one JSON argument: folder and cases, as in `fault_runner`. Exit statuses go into `status.json` of
the folder. A moment is a share of the events of an undisturbed run, which the first case is, or a negative
number that counts from the last. A moment "no room" is a run whose files may not grow.
"""

import json
import resource
import sys
from pathlib import Path

from factory_runs import run_factory, tiny_plan
from fault_runner import Clock, in_child

from lockgate.errors import SynthesisError

PLAN = tiny_plan(
    queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1}, batch_rows=6
)
# Enough for the first steps, too little for those that write all rows into one file.
_FILE_LIMIT = 30_000


def run_without_room(folder: Path) -> str:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, limits[1]))
    try:
        run_factory(folder / "out", PLAN)
    except SynthesisError as error:
        return str(error)
    return "no error"


def resolve(moment: str | float, events: int) -> int | str:
    if isinstance(moment, str):
        return moment
    return events + int(moment) if moment < 0 else max(2, round(moment * events))


def run_case(folder: Path, moments: list[int | str]) -> list[int]:
    folder.mkdir()

    def attempt(moment: int | str | None) -> None:
        if moment == "no room":
            error = run_without_room(folder)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            (folder / "error.txt").write_text(error)
            return
        clock = Clock(moment if isinstance(moment, int) else None)
        sys.addaudithook(clock.hear)
        run_factory(folder / "out", PLAN)
        (folder / "events.txt").write_text(str(clock.count))

    return [in_child(lambda moment=moment: attempt(moment)) for moment in [*moments, None]]


def main() -> None:
    task = json.loads(sys.argv[1])
    root, events = Path(task["folder"]), 0
    status = {}
    for name, case in task["cases"].items():
        status[name] = run_case(root / name, [resolve(moment, events) for moment in case])
        events = events or int((root / name / "events.txt").read_text())
    (root / "status.json").write_text(json.dumps(status))


if __name__ == "__main__":
    main()
