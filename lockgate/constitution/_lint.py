"""Checks of a constitution file, each finding with its line and what to do about it."""

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
    """One remark about a constitution file; `line` counts from 1. Errors keep the file from loading."""

    line: int
    level: Level
    message: str
    remedy: str


class Checked(NamedTuple):
    """What a file holds, and what is to be said about it. None when there are errors."""

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
    """Check a constitution file and return the findings in the order of their lines; none when it is clean.

    Errors: no valid YAML, duplicate or unknown keys, missing or wrong values, duplicate ids, an empty half,
    categories that say the same, one thing both harmful and harmless. Warnings: an empty bucket, a category
    without examples, categories that are similar.

    Raises:
        ConstitutionError: the file can't be opened.
    """
    return check_file(Path(path)).findings


def lint_text(text: str) -> list[Finding]:
    """`lint_constitution` of YAML text, before it becomes a file."""
    try:
        return _check(parse_document(text)).findings
    except DocumentError as error:
        return [Finding(error.line, "error", error.message, error.remedy)]


def check_file(path: Path) -> Checked:
    """Lint a file and build its `Constitution`."""
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
        # Errors without a place are those of the model as a whole; the checks below name them line by line.
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
    """Whatever can be read as a category, also in a file that doesn't follow the schema."""
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
        message = f"{_dotted(place)}: this key stands twice"
        yield Finding(document.line(place), "error", message, "keep one of the two")


def _duplicate_ids(document: Document, categories: list[_Category]) -> Iterator[Finding]:
    seen: dict[str, _Category] = {}
    for category in categories:
        identifier = category.value.get("id")
        if not isinstance(identifier, str):
            continue
        # The two spellings would be told apart by code and by nobody else.
        folded = identifier.replace("_", "-")
        if folded in seen:
            first = seen[folded]
            line = document.line((*first.place, "id"))
            halves = " and stands in both halves" if first.harmful != category.harmful else ""
            message = (
                f"{_dotted(category.place)}: duplicate id `{identifier}`, first used in line {line}{halves}"
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
            remedy = "add `examples`: topics, two or more"
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
        shared = f", {overlap.shared_examples} example(s) in both" if overlap.shared_examples else ""
        where = f"line {document.line(first.place)}"
        message = (
            f"{_dotted(second.place)}: {what}: {second.label} and {first.label} ({where}) "
            f"say {'the same' if same else 'similar things'} ({overlap.similarity:.0%} of words{shared})"
        )
        remedy = "say what sets them apart" + (", or keep it in one half" if crossed else ", or merge them")
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
