"""Run a build in child processes that each die at a chosen moment, and then run it to its end.

Called with one JSON argument: folder, backbone and cases, as in `fault_runner`. Exit statuses go into
`status.json` of the folder. A moment is one of the renames of files or folders, which are then not yet in
place: a share of them from 0 to 1, or the new name. Or it is the name of a step during which the process
ends. The first case has no moment and tells how many renames there are.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from build_runs import QUICK, build, labelled_row, traffic_row, write_rows
from factory_runs import tiny_plan
from fault_runner import in_child

# With a choice of the fit and a text voice.
TRAINING = replace(QUICK, folds=2, decays=(30.0,))
PLAN = tiny_plan(queries={"harmful_per_category": 5, "near_domain": 7, "everyday": 1, "out_of_scope": 1})


def sources(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Traffic and labelled rows, the same for every case."""
    return {
        "benign": (write_rows(folder / "traffic.jsonl", [traffic_row(i) for i in range(80)]),),
        "data": (write_rows(folder / "data.jsonl", [labelled_row(i, float(i % 2)) for i in range(40)]),),
    }


def attempt(folder: Path, backbone: Path, moment: int | str | None) -> None:
    renames = 0

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal renames
        if event == "os.rename":
            renames += 1
            if moment in (renames, os.path.basename(arguments[1])):
                os._exit(9)

    def watch(state) -> None:
        if state.step == moment:
            os._exit(9)

    sys.addaudithook(hear)
    build(folder, backbone, TRAINING, factory=PLAN, watch=watch, **sources(folder))
    (folder / "renames.txt").write_text(str(renames))


def resolve(moment: str | float, renames: int) -> str | int:
    return moment if isinstance(moment, str) else round(moment * renames)


def main() -> None:
    torch.set_num_threads(1)
    task = json.loads(sys.argv[1])
    status, renames = {}, 0
    for name, moments in task["cases"].items():
        folder = Path(task["folder"]) / name
        folder.mkdir()
        chosen = [resolve(moment, renames) for moment in moments]
        status[name] = [
            in_child(lambda moment=moment, folder=folder: attempt(folder, Path(task["backbone"]), moment))
            for moment in [*chosen, None]
        ]
        renames = renames or int((folder / "renames.txt").read_text())
    Path(task["folder"], "status.json").write_text(json.dumps(status))


if __name__ == "__main__":
    main()
