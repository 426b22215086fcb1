"""A judge whose verdicts are kept in a file, so that no conversation is judged twice."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lockgate.durable import hash_json
from lockgate.errors import JudgeError
from lockgate.exchanges import PromptPrints
from lockgate.judges._file import JudgeFile, Price
from lockgate.judges._judge import Judge, JudgeReading, Talk

# Verdicts that are asked for together, and then written. An interruption loses at most these.
_PORTION = 64


@dataclass(frozen=True, slots=True)
class JudgeCost:
    """What verdicts cost.

    Attributes:
        verdicts: number of verdicts.
        seconds: their time, added up. Requests that run at once count in full.
        prompt_tokens, completion_tokens: tokens that the judge read and wrote.
    """

    verdicts: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "JudgeCost") -> "JudgeCost":
        return JudgeCost(
            self.verdicts + other.verdicts,
            self.seconds + other.seconds,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def __sub__(self, other: "JudgeCost") -> "JudgeCost":
        return JudgeCost(
            self.verdicts - other.verdicts,
            self.seconds - other.seconds,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
        )

    def money(self, price: Price | None) -> float | None:
        """Return the price of the tokens; None if no price is known."""
        return None if price is None else price.cost(self.prompt_tokens, self.completion_tokens)


class KeptJudge:
    """A judge that remembers its verdicts in a folder, by hashes. The file holds no text.

    It is made for long readings: where `Judge` gives a reading without a verdict, this raises.

    Attributes:
        cost: what all verdicts given by this object cost when they were made, also those from the file.
        asked: number of verdicts that the judge itself was asked for.

    Raises:
        JudgeError: the file of an earlier run is damaged.
    """

    def __init__(self, judge: Judge, folder: Path) -> None:
        self._judge = judge
        self.cost, self.asked = JudgeCost(), 0
        self._path = folder / f"{judge.sha256[:16]}.verdicts.jsonl"
        self._known = _read(self._path)

    @property
    def file(self) -> JudgeFile:
        """See `Judge.file`."""
        return self._judge.file

    @property
    def sha256(self) -> str:
        """See `Judge.sha256`."""
        return self._judge.sha256

    @property
    def training_prompts(self) -> PromptPrints | None:
        """See `Judge.training_prompts`."""
        return self._judge.training_prompts

    def judge(self, talks: Sequence[Talk]) -> list[JudgeReading]:
        """Judge conversations, those that are known from the file.

        Raises:
            JudgeError: the judge gives no verdict. What it has judged is kept.
        """
        keys = [hash_json([message.to_dict() for message in talk]) for talk in talks]
        new = {key: talk for key, talk in zip(keys, talks, strict=True) if key not in self._known}
        wanted = list(new.items())
        for start in range(0, len(wanted), _PORTION):
            self._ask(wanted[start : start + _PORTION])
        found = [self._known[key] for key in keys]
        for reading in found:
            self.cost += JudgeCost(1, reading.seconds, reading.prompt_tokens, reading.completion_tokens)
        return found

    def _ask(self, wanted: Sequence[tuple[str, Talk]]) -> None:
        readings = self._judge.judge([talk for _, talk in wanted])
        given = [(key, reading) for (key, _), reading in zip(wanted, readings, strict=True) if reading.given]
        with self._path.open("ab") as file:
            _end_line(file)
            for key, reading in given:
                file.write(json.dumps([key, _row(reading)]).encode() + b"\n")
        self._known |= dict(given)
        self.asked += len(given)
        failed = [reading for reading in readings if not reading.given]
        if failed:
            raise JudgeError(
                f"judge {self.file.shown} gave no verdict on {len(failed)} of {len(readings)} conversations: "
                f"{failed[0].error or 'the logit is no finite number'}. What it has judged is kept; run the "
                "same command again"
            )

    def check(self) -> None:
        """See `Judge.check`."""
        self._judge.check()

    def close(self) -> None:
        """See `Judge.close`."""
        self._judge.close()


def _row(reading: JudgeReading) -> list[float]:
    return [reading.logit, reading.seconds, reading.prompt_tokens, reading.completion_tokens]


def _end_line(file: BinaryIO) -> None:
    """End a line that a killed run left open, so that the next one can be read."""
    if file.tell() == 0:
        file.seek(0, os.SEEK_END)
    if file.tell():
        file.write(b"\n")


def _read(path: Path) -> dict[str, JudgeReading]:
    """Read the verdicts of earlier runs. A line that was cut off is left out."""
    known: dict[str, JudgeReading] = {}
    if not path.exists():
        return known
    for line in path.read_bytes().splitlines():
        try:
            key, (logit, seconds, read, written) = json.loads(line)
            reading = JudgeReading(float(logit), None, float(seconds), int(read), int(written))
        except (ValueError, TypeError):
            continue
        if isinstance(key, str) and len(key) == 64 and math.isfinite(reading.logit):
            known[key] = reading
    return known
