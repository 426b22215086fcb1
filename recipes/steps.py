"""Shared by all steps: the parser of their options, and their progress messages."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.durable import open_atomic
from lockgate.errors import LockgateError

__all__ = [
    "METADATA",
    "check_figures",
    "check_part",
    "facts_of",
    "figures_of_table",
    "reporter",
    "step_parser",
    "update_summary",
]

# The key of a table's metadata that holds facts about how it was made.
METADATA = b"lockgate"


def step_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser whose help shows `description` with its line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def check_figures(found: Mapping[str, Any], summary: Path) -> None:
    """End with an error if the figures in a result file are others than those `found`."""
    kept = json.loads(summary.read_text())
    differing = sorted(key for key in found.keys() | kept.keys() if found.get(key) != kept.get(key))
    if differing:
        sys.exit(f"{summary.name} differs from the table: {', '.join(differing)}")
    print("every figure follows from the table")


def update_summary(found: Mapping[str, Any], summary: Path) -> None:
    """Put a step's figures into a result file that several steps share. Figures of the others stay."""
    kept = json.loads(summary.read_text()) if summary.exists() else {}
    with open_atomic(summary) as file:
        file.write((json.dumps(_merged(kept, found), indent=1) + "\n").encode())


def check_part(found: Mapping[str, Any], summary: Path) -> None:
    """End with an error if a shared result file has other figures than a step's own."""
    kept = json.loads(summary.read_text())
    differing = sorted(key for key in found if _merged(kept, {key: found[key]}) != kept)
    if differing:
        sys.exit(f"{summary.name} differs from the table: {', '.join(differing)}")
    print("every figure follows from the table")


def _merged(kept: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, with the found values where both have one. Only `policy` and `judges` are shared inside."""
    made = {**kept, **found}
    for key in ("policy", "judges"):
        old, new = kept.get(key), found.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = {**old, **new}
            for name in old.keys() & new.keys():
                if isinstance(old[name], Mapping) and isinstance(new[name], Mapping) and name != "keywords":
                    inner[name] = {**old[name], **new[name]}
            made[key] = inner
    return made


def figures_of_table(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], pa.Table],
    compute: Callable[[Path], dict[str, Any]],
) -> dict[str, Any] | None:
    """Make the table of a step and put its figures into the result file that it shares with others.

    Args:
        options: has `check`, `table` and `summary`. With `check` nothing is measured, only compared.

    Returns:
        The figures; None with `check`.
    """
    if options.check:
        check_part(compute(options.table), options.summary)
        return None
    try:
        table = measure(options)
    except LockgateError as error:
        sys.exit(str(error))
    with open_atomic(options.table) as file:
        pq.write_table(table, file, compression="zstd")
    found = compute(options.table)
    update_summary(found, options.summary)
    return found


def facts_of(table: pa.Table) -> dict[str, Any]:
    """Return what a table's metadata says about how it was made."""
    found: dict[str, Any] = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
    return found


def reporter(name: str) -> Callable[[object], None]:
    """Return a function that prints a line or a count with `name` in front."""

    def report(news: object) -> None:
        print(f"{name}: {news}", flush=True)

    return report
