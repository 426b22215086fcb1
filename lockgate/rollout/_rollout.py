"""A guard that takes over in a running server, with the link that names it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lockgate.errors import LockgateError
from lockgate.rollout._link import Entry, GuardLink
from lockgate.rollout._shelf import Shelf


class StaleChange(LockgateError):
    """Something has changed since somebody decided. Nothing else has."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants, who looked at things as they were then.

    Attributes:
        running: hash of the guard that ran then.
        sha256: hash of the guard that is to take over.
        by: who it is.
    """

    running: str
    sha256: str
    by: str


class Rollout:
    """Changes the guard of a server together with the link that a restart follows.

    Args:
        shelf: the guards that may take over.
        link: the link that the server's config file names.
        running: tells the hash of the guard that runs; None in mode `off`.
        take_over: lets the bundle in a folder take over in the server, and records who wanted it. It raises
            a LockgateError if the old guard goes on.
        pause: keeps the server from following its config file meanwhile.
    """

    def __init__(
        self,
        shelf: Shelf,
        link: Path,
        running: Callable[[], str | None],
        take_over: Callable[[Path, str], object],
        pause: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.shelf = shelf
        self._link, self._running, self._take_over, self._pause = link, running, take_over, pause

    def link(self) -> GuardLink:
        """Return the link as it is now. Raises ConfigError: it is none."""
        return GuardLink(self._link)

    def promote(self, name: str, wish: Wish) -> Entry:
        """Let a guard of the shelf take over.

        Raises:
            StaleChange: the shelf has no such guard any more, or another guard runs than the wish says.
            LockgateError: the guard can't take over, or has changed. The old one goes on, and the link is as
                it was.
        """
        with self._pause():
            self._check(wish)
            found = self.shelf.guard(name)
            if found is None:
                raise StaleChange(f"{self.shelf.folder} has no guard {name} any more.")
            return self.link().promote(
                found.folder, sha256=wish.sha256, by=wish.by, then=lambda entry: self._follow(entry, wish)
            )

    def back(self, wish: Wish) -> Entry:
        """Let the guard before take over again. Raises as `promote` does."""
        with self._pause():
            self._check(wish)
            return self.link().back(
                sha256=wish.sha256, by=wish.by, then=lambda entry: self._follow(entry, wish)
            )

    def _check(self, wish: Wish) -> None:
        if self._running() != wish.running:
            raise StaleChange("Another guard runs now than when the page was made.")

    def _follow(self, entry: Entry, wish: Wish) -> None:
        # The link may have named another guard than the one that runs. Then only the link changes.
        if entry.sha256 != wish.running:
            self._take_over(Path(entry.guard), wish.by)
