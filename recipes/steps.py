"""Shared by all steps: the parser of their options, and their progress messages."""

import argparse
from collections.abc import Callable

__all__ = ["reporter", "step_parser"]


def step_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser whose help shows `description` with its line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def reporter(name: str) -> Callable[[object], None]:
    """Return a function that prints a line or a count with `name` in front."""

    def report(news: object) -> None:
        print(f"{name}: {news}", flush=True)

    return report
