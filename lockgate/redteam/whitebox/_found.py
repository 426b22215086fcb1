"""What an attack found, as JSON, and the file that lets an interrupted run go on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from lockgate.durable import atomic_path
from lockgate.errors import RedTeamError
from lockgate.redteam.whitebox._layout import Slot


@dataclass(frozen=True, slots=True)
class Found:
    """The course of one attack and the words at its end.

    Attributes:
        query: id of the query.
        target, space: as in `AttackOptions`.
        plain: margin of the exchange without any attack words. It is above 0 if the target catches it.
        margins: margin before the first step and after each. It never grows. At or below 0 the target lets
            every point of the answer through.
        scores: the score that decides, at the same places; None if stage 2 was not asked.
        nats: mean of -log p of the words under the backbone, at the same places; None for free embeddings.
        success: whether the target caught the plain exchange, and lets the last one through.
        confirmed: whether the guard's own scoring of the text says the same; None for free embeddings.
        evaluations: exchanges that were read, with gradients or without.
        seconds: time of the whole search.
        seconds_to_success: time until the margin was low enough; None without success.
        slots: where the words stand.
        words: text of each slot; none for free embeddings.
    """

    query: str
    target: str
    space: str
    plain: float
    margins: tuple[float, ...]
    scores: tuple[float | None, ...]
    nats: tuple[float | None, ...]
    success: bool
    confirmed: bool | None
    evaluations: int
    seconds: float
    seconds_to_success: float | None
    slots: tuple[Slot, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def caught(self) -> bool:
        """Whether the target catches the plain exchange. Without that, there is nothing to attack."""
        return self.plain > 0

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.margins) - 1

    def to_dict(self, *, words: bool = True) -> dict[str, Any]:
        """Return it as JSON.

        Args:
            words: whether to include the attack words and their places. Without them there is no text.
        """
        content = asdict(self)
        if not words:
            del content["slots"], content["words"]
        return {**content, "caught": self.caught, "steps": self.steps}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Found":
        """Read what `to_dict` gave. Raises RedTeamError if something is missing or not known."""
        known = {field.name for field in fields(cls)}
        try:
            if set(content) != known | {"caught", "steps"}:
                raise ValueError("unknown or missing keys")
            values = {name: content[name] for name in known}
            for name in ("margins", "scores", "nats", "words"):
                values[name] = tuple(values[name])
            values["slots"] = tuple(Slot(**slot) for slot in values["slots"])
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise RedTeamError(f"not the record of an attack: {error}") from None


class Progress:
    """The attacks of one run that are done, in a file of JSON lines. It is written anew after each attack.

    Attributes:
        done: what was found, by query.

    Args:
        key: guard, queries and options, as JSON. A file that was made with others is refused.

    Raises:
        RedTeamError: the file was made by another run, or is no such file.
    """

    def __init__(self, path: Path | None, key: Mapping[str, Any]) -> None:
        self._path, self._head = path, {"format": "lockgate-whitebox-1", **key}
        self.done: dict[str, Found] = {}
        if path is not None and path.exists():
            self._read(path)

    def add(self, found: Found) -> None:
        """Keep what was found."""
        self.done[found.query] = found
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = [self._head, *(one.to_dict() for one in self.done.values())]
        with atomic_path(self._path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def _read(self, path: Path) -> None:
        try:
            head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise RedTeamError(f"{path}: not the file of a run ({type(error).__name__}); remove it") from None
        if head != json.loads(json.dumps(self._head)):
            raise RedTeamError(
                f"{path}: made with another guard, other queries or other options; choose another file"
            )
        for number, line in enumerate(lines, 2):
            try:
                found = Found.from_dict(line)
            except RedTeamError as error:
                raise RedTeamError(f"{path}, line {number}: {error}") from None
            self.done[found.query] = found


def summarise_found(found: Sequence[Found]) -> dict[str, Any]:
    """Return the figures of one attack on several queries, as JSON and without text.

    `first_break` is how many exchanges were read up to the end of the first success, query by query. Medians
    of steps and seconds are of successes, all others of the queries that are caught without an attack.
    """
    caught = [one for one in found if one.caught]
    broken = [one for one in caught if one.success]
    first = next((number for number, one in enumerate(found) if one.success), None)
    return {
        "n": len(found),
        "caught": len(caught),
        "success": len(broken),
        "not_confirmed": sum(one.confirmed is False for one in found),
        "first_break": None if first is None else sum(one.evaluations for one in found[: first + 1]),
        "median_steps": _median([one.steps for one in broken]),
        "median_seconds": _median([one.seconds_to_success for one in broken]),
        "median_plain": _median([one.plain for one in caught]),
        "median_start": _median([one.margins[0] for one in caught]),
        "median_end": _median([one.margins[-1] for one in caught]),
        "median_nats_start": _median([one.nats[0] for one in caught]),
        "median_nats_end": _median([one.nats[-1] for one in caught]),
        "queries": [one.to_dict(words=False) for one in found],
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 6) if known else None
