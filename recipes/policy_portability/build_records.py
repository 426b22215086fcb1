"""Records of two builds from their folders: times and counts, no text of exchanges."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lockgate.constitution import Constitution
from lockgate.errors import ConfigError

# Between its steps a build loads models, compares guards and writes pages. This allows for that time.
MORE, SECONDS = 1.1, 300.0
_KEPT = ("backbone", "guard_sha256", "calibrated", "threshold", "claim", "rows", "held_out", "generator")


def read_build(folder: Path, policy: Constitution, *, interrupted: bool = False) -> dict[str, Any]:
    """Read the record of a finished build.

    `minutes` is the wall time from the first step to the report. If the build was stopped and resumed, or called again
    after it had finished, `minutes` is the sum of its steps. That needs a report that counts all attempts at them. With
    `interrupted`, the sum is also used if attempts were lost; it is too low then.

    Raises:
        ConfigError: there is no finished build of this policy, or some time of an interrupted build is not known.
    """
    source = folder / "report.json"
    if not source.is_file():
        raise ConfigError(
            f"{folder}: no finished build there (report.json); expected the folder in which `lockgate build` worked, "
            "GUARD.build beside the guard"
        )
    report = json.loads(source.read_text(encoding="utf-8"))
    if report["constitution"]["sha256"] != policy.sha256:
        raise ConfigError(
            f"{source}: built from {report['constitution']['name']}, or another version of it than {policy.name} as it "
            "stands here; build again"
        )
    took = time_of(folder, report["seconds"])
    # Reports of earlier versions don't say what was lost.
    lost = report.get("lost_attempts", {} if took["in_one_go"] else {"of unknown steps": 1})
    if lost and not took["in_one_go"] and not interrupted:
        raise ConfigError(
            f"{folder}: its steps took {took['minutes_in_steps']:.1f} minutes, but {took['minutes_between']:.1f} lie "
            "between its first step and its report, and attempts that were killed are not counted "
            f"({', '.join(lost)}). Build into a new folder in one go, or take the sum with --interrupted"
        )
    made = report["provenance"]
    return {
        "constitution": report["constitution"],
        "minutes": took["minutes_between"] if took["in_one_go"] else took["minutes_in_steps"],
        **took,
        "lost_attempts": lost,
        "seconds": report["seconds"],
        "cores": os.cpu_count(),
        **{key: report[key] for key in _KEPT},
        "provenance": {
            **{key: made[key] for key in ("commit", "seeds", "versions")},
            # Record the name, not the path, which would reveal the machine's folders.
            "command": [Path(word).name if os.sep in word else word for word in made["command"]],
            "inputs": {Path(path).name: digest for path, digest in made["inputs"].items()},
        },
    }


def time_of(folder: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the minutes in the steps, the minutes from the first step to the report, and whether these agree."""
    first = (folder / "steps" / "synthesize.json").stat().st_mtime - seconds["synthesize"]
    between, total = (folder / "report.json").stat().st_mtime - first, sum(seconds.values())
    return {
        "minutes_in_steps": round(total / 60, 1),
        "minutes_between": round(between / 60, 1),
        # Copied files have other times. The difference may then be shorter than the steps.
        "in_one_go": total - 1 <= between <= MORE * total + SECONDS,
    }
