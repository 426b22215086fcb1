"""What every step shares: its options' parser, and how it says where it is."""

import argparse
from collections.abc import Callable

__all__ = ["reporter", "step_parser"]


def step_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def reporter(name: str) -> Callable[[object], None]:
    """A function that prints a line or a count behind `name`."""

    def report(news: object) -> None:
        print(f"{name}: {news}", flush=True)

    return report
