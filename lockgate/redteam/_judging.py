"""How often a judge is wrong: its error rates on texts that people have labelled."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

from pydantic import Field, ValidationError, model_validator

from lockgate.calibration import clopper_pearson
from lockgate.errors import NoVerdict, RedTeamError
from lockgate.exchanges import Message
from lockgate.redteam._grades import Grade, Grader
from lockgate.redteam._queries import Query, Strict, load_queries

_CASES = Path(__file__).parent / "shipped" / "judge_cases.jsonl"

Part = Literal["tune", "test", "late"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text to grade.

    Attributes:
        query: what was asked for.
        plain: the answer as the attacker read it.
        messages: the conversation before the answer, if the judge may see it.
    """

    query: Query
    plain: str
    messages: tuple[Message, ...] = ()


@runtime_checkable
class BatchGrader(Protocol):
    """A judge that is faster with many texts at once."""

    def grade_all(self, candidates: Sequence[Candidate]) -> list[Grade | NoVerdict]:
        """Grade texts. A text without a verdict has the error in its place."""


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """A text with the label that people gave it.

    Attributes:
        id: unique id.
        query: what was asked for.
        kind: how the text was made, such as `full`, `partial` or `salad`.
        text: what is judged.
        labels: one label, or two that were given at different times and in different order.
        success: the label that counts: whether the text answers the question in at least half of the detail
            of a full answer.
        late: whether it was written after the rubrics were finished.
    """

    id: str
    query: Query
    kind: str
    text: str
    labels: tuple[bool, ...]
    success: bool
    late: bool = False

    @property
    def part(self) -> Part:
        """What the case may be used for.

        Rubrics were changed with the `tune` cases in view, and are tested on the others. Hashes of ids divide
        `tune` from `test`. The `late` cases were written after the rubrics were finished.
        """
        if self.late:
            return "late"
        return "tune" if hashlib.sha256(self.id.encode()).digest()[0] % 2 == 0 else "test"


class _Record(Strict):
    id: str
    set: str
    query: str
    kind: str
    labels: tuple[bool, ...] = Field(min_length=1, max_length=2)
    success: bool
    late: bool = False
    text: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.success not in self.labels:
            raise ValueError("success is none of the labels")
        return self


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its exact 95 % interval (Clopper-Pearson)."""

    count: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, n: int) -> "Rate":
        interval = clopper_pearson(count, n)
        return cls(count, n, interval.lower, interval.upper)

    @property
    def rate(self) -> float | None:
        """The share. None if there is nothing to share."""
        return self.count / self.n if self.n else None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"count": self.count, "n": self.n, "rate": self.rate, "ci": [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class JudgeErrors:
    """A judge's errors on labelled texts.

    Attributes:
        judge: the judge's name.
        n: all texts.
        false_success: texts called a success, of those that are none and got a verdict.
        missed: texts not called a success, of those that are one and got a verdict.
        no_verdict: texts without a verdict, of all.
        wrong: wrong verdicts and texts by kind.
    """

    judge: str
    n: int
    false_success: Rate
    missed: Rate
    no_verdict: Rate
    wrong: Mapping[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "judge": self.judge,
            "n": self.n,
            "false_success": self.false_success.to_dict(),
            "missed": self.missed.to_dict(),
            "no_verdict": self.no_verdict.to_dict(),
            "kinds": {kind: {"wrong": wrong, "n": n} for kind, (wrong, n) in self.wrong.items()},
        }


def grade_all(grader: Grader, candidates: Sequence[Candidate]) -> list[Grade | NoVerdict]:
    """Grade texts with any judge: all at once if it can, or one after the other."""
    if isinstance(grader, BatchGrader):
        return grader.grade_all(candidates)
    found: list[Grade | NoVerdict] = []
    for candidate in candidates:
        try:
            found.append(grader.grade(candidate.query, candidate.plain))
        except NoVerdict as error:
            found.append(error)
    return found


def judge_errors(grader: Grader, cases: Sequence[JudgeCase]) -> JudgeErrors:
    """Compare a judge's verdicts with labels."""
    grades = grade_all(grader, [Candidate(case.query, case.text) for case in cases])
    told: Counter[tuple[bool, bool]] = Counter()
    kinds: dict[str, list[bool]] = {}
    for case, grade in zip(cases, grades, strict=True):
        if isinstance(grade, NoVerdict):
            continue
        told[case.success, grade.success] += 1
        kinds.setdefault(case.kind, []).append(case.success != grade.success)
    return JudgeErrors(
        judge=grader.name,
        n=len(cases),
        false_success=Rate.of(told[False, True], told[False, True] + told[False, False]),
        missed=Rate.of(told[True, False], told[True, False] + told[True, True]),
        no_verdict=Rate.of(len(cases) - told.total(), len(cases)),
        wrong={kind: (sum(wrong), len(wrong)) for kind, wrong in sorted(kinds.items())},
    )


def label_agreement(cases: Sequence[JudgeCase]) -> Rate:
    """Return the share of texts whose two labels agree, of those that have two."""
    twice = [case.labels for case in cases if len(case.labels) == 2]
    return Rate.of(sum(first == second for first, second in twice), len(twice))


@cache
def load_cases(path: Path = _CASES) -> tuple[JudgeCase, ...]:
    """Read labelled texts, one JSON object a line. The default are those of the package.

    Raises:
        RedTeamError: a line is no labelled text, or its query is unknown. The message names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RedTeamError(f"{path}: can't be read as UTF-8 ({type(error).__name__})") from None
    cases = tuple(_read_case(f"{path}, line {number}", line) for number, line in enumerate(lines, 1))
    if repeated := _repeated(case.id for case in cases):
        raise RedTeamError(f"{path}: two lines have the id {repeated}")
    return cases


def _read_case(where: str, line: str) -> JudgeCase:
    try:
        record = _Record.model_validate(json.loads(line))
    except json.JSONDecodeError:
        raise RedTeamError(f"{where}: expected a JSON object") from None
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "line"
        raise RedTeamError(f"{where}: {place}: {problem['msg']}") from None
    queries = {query.id: query for query in load_queries(record.set).queries}
    if record.query not in queries:
        raise RedTeamError(f"{where}: query: {record.set} has none with this id; it has {', '.join(queries)}")
    query = queries[record.query]
    return JudgeCase(record.id, query, record.kind, record.text, record.labels, record.success, record.late)


def _repeated(ids: Iterable[str]) -> str | None:
    return next((id_ for id_, count in Counter(ids).items() if count > 1), None)
