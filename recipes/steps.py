"""Shared by all steps: the parser of their options, and their progress messages."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["check_figures", "reporter", "step_parser"]


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


def reporter(name: str) -> Callable[[object], None]:
    """Return a function that prints a line or a count with `name` in front."""

    def report(news: object) -> None:
        print(f"{name}: {news}", flush=True)

    return report
