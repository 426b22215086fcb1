"""How a step says where it is."""

from collections.abc import Callable

__all__ = ["reporter"]


def reporter(name: str) -> Callable[[object], None]:
    """A function that prints a line or a count behind `name`."""

    def report(news: object) -> None:
        print(f"{name}: {news}", flush=True)

    return report
