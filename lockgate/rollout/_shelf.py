"""The guards of a folder, from which one can take over."""

from dataclasses import dataclass
from pathlib import Path

from lockgate.constitution import Constitution
from lockgate.durable import file_sha256
from lockgate.errors import ConfigError, LockgateError
from lockgate.guards import GuardRecord, read_bundle

_Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class OnShelf:
    """A folder that holds a guard.

    Attributes:
        name: the folder's own name.
        sha256: hash of its `guard.yaml`; "" if it can't be read.
        record, constitution: what the bundle says; None if it is damaged.
        problem: what is wrong with it; None if nothing is.
    """

    name: str
    folder: Path
    sha256: str = ""
    record: GuardRecord | None = None
    constitution: Constitution | None = None
    problem: str | None = None


class Shelf:
    """The guards in a folder. Links in it, also to guards elsewhere, are not of them.

    Bundles are read in full, so that damage shows. What has not changed is not read again.

    Args:
        folder: a folder of bundles, each a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[_Signature, OnShelf]] = {}

    def guards(self) -> list[OnShelf]:
        """Return the guards, the newest first. Raises ConfigError: the folder can't be read."""
        try:
            own = [place for place in self.folder.iterdir() if self._holds(place)]
            own.sort(key=lambda place: (-(place / "guard.yaml").stat().st_mtime_ns, place.name))
        except OSError as error:
            raise ConfigError(f"{self.folder}: {error.strerror or 'not readable'}") from None
        return [self._look(place) for place in own]

    def guard(self, name: str) -> OnShelf | None:
        """Return the guard of that name, or None if the folder has none. Raises ConfigError."""
        return next((found for found in self.guards() if found.name == name), None)

    @staticmethod
    def _holds(place: Path) -> bool:
        hidden = place.name.startswith(".")
        return not hidden and not place.is_symlink() and (place / "guard.yaml").is_file()

    def _look(self, place: Path) -> OnShelf:
        files = sorted(file for file in place.rglob("*") if file.is_file())
        signature = tuple(
            (str(file), found.st_mtime_ns, found.st_size) for file in files for found in (file.stat(),)
        )
        known = self._read.get(place)
        if known is None or known[0] != signature:
            known = self._read[place] = (signature, _look(place))
        return known[1]


def _look(place: Path) -> OnShelf:
    try:
        digest = file_sha256(place / "guard.yaml")
        bundle = read_bundle(place)
    except LockgateError as error:
        return OnShelf(place.name, place, problem=str(error))
    return OnShelf(place.name, place, digest, bundle.record, bundle.constitution)
