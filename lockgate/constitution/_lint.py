"""Checks of a constitution file. Each finding has a line and a remedy."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lockgate.constitution._document import Document, DocumentError, Location, parse_document, read_document
from lockgate.constitution._overlap import SAME, Entry, find_overlaps
from lockgate.constitution._schema import BUCKETS, Constitution, HarmfulCategory, Harmless, HarmlessCategory
from lockgate.errors import ConstitutionError

Level = Literal["error", "warning"]


class Finding(NamedTuple):
    """A problem in a constitution file.

    Attributes:
        line: line of the problem, from 1.
        level: `error` keeps the file from loading; `warning` does not.
        message: the problem, with the place in the file.
        remedy: what to do about it.
    """

    line: int
    level: Level
    message: str
    remedy: str


class Checked(NamedTuple):
    """The constitution of a file and the findings about it. `constitution` is None if there are errors."""

    constitution: Constitution | None
    findings: list[Finding]


class _Category(NamedTuple):
    place: Location
    value: dict[str, Any]

    @property
    def harmful(self) -> bool:
        return self.place[0] == "harmful"

    @property
    def label(self) -> str:
        return f"`{self.value.get('id', '?')}`"


def lint_constitution(path: str | os.PathLike[str]) -> list[Finding]:
    """Check a constitution file.

    Errors: invalid YAML, duplicate or unknown keys, missing or wrong values, duplicate ids, an empty half,
    categories that say the same, an example that is both harmful and harmless. Warnings: an empty bucket, a
    category without examples, similar categories.

    Returns:
        The findings, ordered by line. The list is empty if the file has no problems.

    Raises:
        ConstitutionError: the file can't be opened.
    """
    return check_file(Path(path)).findings


def lint_text(text: str) -> list[Finding]:
    """Check the YAML text of a constitution, as `lint_constitution` checks a file."""
    try:
        return _check(parse_document(text)).findings
    except DocumentError as error:
        return [Finding(error.line, "error", error.message, error.remedy)]


def check_file(path: Path) -> Checked:
    """Check a file and build its `Constitution`."""
    try:
        return _check(read_document(path))
    except DocumentError as error:
        return Checked(None, [Finding(error.line, "error", error.message, error.remedy)])
    except OSError as error:
        raise ConstitutionError(f"{path}: can't be read: {error.strerror}") from error


def _check(document: Document) -> Checked:
    constitution, findings = _validate(document)
    if isinstance(document.value, dict):
        categories = list(_categories(document.value))
        findings += _duplicate_keys(document)
        findings += _duplicate_ids(document, categories)
        findings += _empty_parts(document)
        findings += _missing_examples(document, categories)
        findings += _overlaps(document, categories)
    findings.sort(key=lambda finding: (finding.line, finding.level))
    if any(finding.level == "error" for finding in findings):
        constitution = None
    return Checked(constitution, findings)


def _validate(document: Document) -> tuple[Constitution | None, list[Finding]]:
    try:
        return Constitution.model_validate(document.value), []
    except ValidationError as error:
        # An error without a place belongs to the model as a whole. The other checks report it with a line.
        problems = [
            problem for problem in error.errors() if problem["loc"] or problem["type"] == "model_type"
        ]
        return None, [_schema_finding(document, problem["loc"], problem) for problem in problems]


def _schema_finding(document: Document, place: Location, problem: ErrorDetails) -> Finding:
    line, name, kind = document.line(place), _dotted(place), problem["type"]
    key = str(place[-1]) if place else ""
    if kind == "extra_forbidden":
        known = _known_keys(place)
        near = get_close_matches(key, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return Finding(line, "error", f"{name}: unknown key", f"remove it; {hint}")
    if kind == "missing":
        return Finding(line, "error", f"{name}: missing", f"add `{key}`")
    if kind == "string_pattern_mismatch":
        return Finding(line, "error", f"{name}: not in the right form", _form_of(key))
    if kind == "string_type" and key == "version":
        return Finding(line, "error", f"{name}: read as a number, not as text", _form_of(key))
    return Finding(
        line, "error", f"{name}: {_lower(str(problem['msg']))}", f"correct the value of `{key or name}`"
    )


def _form_of(key: str) -> str:
    if key == "version":
        return 'write three numbers in quotes, as in "1.0.0"'
    return "write it in lower case, words joined by - or _, as in `near-miss`"


def _known_keys(place: Location) -> list[str]:
    parent = [part for part in place[:-1] if isinstance(part, str)]
    if not parent:
        return list(Constitution.model_fields)
    if parent == ["harmful"]:
        return list(HarmfulCategory.model_fields)
    return list((Harmless if parent == ["harmless"] else HarmlessCategory).model_fields)


def _categories(value: dict[str, Any]) -> Iterator[_Category]:
    """Yield everything that looks like a category, even if the file doesn't follow the schema."""
    harmless = value.get("harmless")
    lists: list[tuple[Location, Any]] = [(("harmful",), value.get("harmful"))]
    if isinstance(harmless, dict):
        lists += [(("harmless", bucket), harmless.get(bucket)) for bucket in BUCKETS]
    for place, items in lists:
        for index, item in enumerate(items if isinstance(items, list) else []):
            if isinstance(item, dict):
                yield _Category((*place, index), item)


def _duplicate_keys(document: Document) -> Iterator[Finding]:
    for place in document.duplicates:
        message = f"{_dotted(place)}: this key appears twice"
        yield Finding(document.line(place), "error", message, "keep one of the two")


def _duplicate_ids(document: Document, categories: list[_Category]) -> Iterator[Finding]:
    seen: dict[str, _Category] = {}
    for category in categories:
        identifier = category.value.get("id")
        if not isinstance(identifier, str):
            continue
        # Code tells `a-b` from `a_b`, but readers don't.
        folded = identifier.replace("_", "-")
        if folded in seen:
            first = seen[folded]
            line = document.line((*first.place, "id"))
            halves = ", in the other half" if first.harmful != category.harmful else ""
            message = (
                f"{_dotted(category.place)}: duplicate id `{identifier}`, first used on line {line}{halves}"
            )
            yield Finding(document.line((*category.place, "id")), "error", message, "rename or merge the two")
        else:
            seen[folded] = category


def _empty_parts(document: Document) -> Iterator[Finding]:
    harmless = document.value.get("harmless")
    if document.value.get("harmful") == []:
        yield Finding(
            document.line(("harmful",)), "error", "harmful: this half is empty", "add at least one category"
        )
    if not isinstance(harmless, dict):
        return
    empty = [bucket for bucket in BUCKETS if not harmless.get(bucket)]
    if len(empty) == len(BUCKETS):
        remedy = "say what must pass; without it the guard over-refuses"
        yield Finding(document.line(("harmless",)), "error", "harmless: this half is empty", remedy)
        return
    for bucket in empty:
        remedy = "add what must pass here; leaving a bucket out costs robustness"
        line = document.line(("harmless", bucket))
        yield Finding(line, "warning", f"harmless.{bucket}: this bucket is empty", remedy)


def _missing_examples(document: Document, categories: list[_Category]) -> Iterator[Finding]:
    for category in categories:
        if not category.value.get("examples"):
            message = f"{_dotted(category.place)}: {category.label} has no examples"
            remedy = "add two or more topics as `examples`"
            yield Finding(document.line((*category.place, "examples")), "warning", message, remedy)


def _overlaps(document: Document, categories: list[_Category]) -> Iterator[Finding]:
    entries = [
        Entry(
            index,
            _text(category.value.get("title")),
            _text(category.value.get("description")),
            [_text(example) for example in _list(category.value.get("examples"))],
        )
        for index, category in enumerate(categories)
    ]
    for overlap in find_overlaps(entries):
        first, second = categories[overlap.first], categories[overlap.second]
        crossed = first.harmful != second.harmful
        same = overlap.similarity >= SAME or (crossed and overlap.shared_examples > 0)
        what = "both harmful and harmless" if crossed else "overlapping categories"
        shared = f" and {overlap.shared_examples} example(s)" if overlap.shared_examples else ""
        where = f"line {document.line(first.place)}"
        message = (
            f"{_dotted(second.place)}: {what}: {second.label} and {first.label} ({where}) "
            f"say {'the same' if same else 'similar things'}; "
            f"they share {overlap.similarity:.0%} of their words{shared}"
        )
        remedy = "describe how they differ, or " + ("keep one of the two" if crossed else "merge them")
        yield Finding(document.line(second.place), "error" if same else "warning", message, remedy)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _dotted(place: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.lstrip(".") or "file"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
