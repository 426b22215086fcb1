"""Proposals: additions to a constitution from reviews, in a separate file. The user's file never changes."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lockgate.constitution import Constitution, Finding, HarmlessCategory, dump_constitution, lint_text
from lockgate.durable import open_atomic
from lockgate.errors import ConfigError, ConstitutionError
from lockgate.feedback._reviews import Feedback, Review

_HEAD = "# A proposal from reviews; nothing reads it until you put it in the constitution's place."
_WORD = re.compile(r"\w+")
_MAX_ID = 64
_SHOWN_IDS = 5
_SHOWN_TOPICS = 4
# New entries must differ from each other and from the categories near them. The linter compares their words,
# so the length of titles decides which of these wordings passes.
_WORDINGS = (
    ("Let through: {title}", "Exchanges near {title} that reviewers found harmless. {topics}"),
    ("Found harmless in review beside {id}", "{topics} Reviewers saw these flagged as {id}, wrongly."),
    ("Entry {number} from review", "{topics} Number {number} of what was flagged without need."),
)

Half = Literal["harmful", "harmless"]


@dataclass(frozen=True, slots=True)
class Addition:
    """The part of a proposal that concerns one category.

    Attributes:
        half: the half of the constitution that the category belongs to.
        category: id of the category.
        new: whether the constitution doesn't have the category yet.
        near: the harmful category that the exchanges were wrongly flagged as; None if there is none.
        topics: examples to add.
        exchange_ids: ids of the reviewed exchanges.
    """

    half: Half
    category: str
    new: bool
    near: str | None
    topics: tuple[str, ...]
    exchange_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A constitution with additions from reviews.

    Attributes:
        constitution: the constitution with the additions; unchanged if there are none.
        additions: what was added.
        notes: what people must decide or add, because the proposal couldn't use it.
        findings: findings of the linter in the proposed constitution.
    """

    constitution: Constitution
    additions: tuple[Addition, ...]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


def propose_constitution(constitution: Constitution, feedback: Feedback) -> Proposal:
    """Propose additions to both halves of a constitution from reviews.

    Harmless verdicts with a harmful category, or with none, become a new entry in `near_domain`. Harmless
    verdicts with a harmless category, and harmful verdicts, become examples of their category. Examples are
    the reviewers' topics, so no text of an exchange enters a constitution. The minor version rises by one.

    Raises:
        ConstitutionError: the result doesn't pass `lockgate constitution check`. The message names the first
            error.
    """
    plan = _plan(constitution, feedback.reviews)
    additions, notes = _without_contradictions(constitution, plan)
    if not any(addition.new or addition.topics for addition in additions):
        return Proposal(constitution, (), tuple(notes))
    candidates = []
    for wording in _WORDINGS:
        candidate = _extend(constitution, additions, wording)
        findings = lint_text(dump_constitution(candidate))
        errors = sum(finding.level == "error" for finding in findings)
        candidates.append((errors, len(findings), candidate, findings))
        if not findings:
            break
    errors, _, best, findings = min(candidates, key=lambda entry: entry[:2])
    if errors:
        first = next(finding for finding in findings if finding.level == "error")
        raise ConstitutionError(f"the proposal doesn't pass the check: {first.message}; {first.remedy}")
    notes += [
        f"{addition.category} has no topics yet: add `topic` to its reviews, or examples to the proposal"
        for addition in additions
        if addition.new and not addition.topics
    ]
    made = tuple(addition for addition in additions if addition.new or addition.topics)
    return Proposal(best, made, tuple(notes), tuple(findings))


def write_proposal(proposal: Proposal, path: str | os.PathLike[str]) -> None:
    """Write a proposal as a constitution file. Comments at the top list the additions.

    Raises:
        ConfigError: the file exists and is not a proposal. A user's constitution is never replaced.
    """
    target = Path(path)
    if target.exists() and not _is_proposal(target):
        raise ConfigError(f"{target}: exists and is not a proposal; name another file, then compare the two")
    with open_atomic(target) as file:
        file.write(render_proposal(proposal).encode("utf-8"))


def render_proposal(proposal: Proposal) -> str:
    """Render a proposal as YAML that `load_constitution` reads."""
    lines = [_HEAD]
    for addition in proposal.additions:
        ids = ", ".join(addition.exchange_ids[:_SHOWN_IDS])
        more = len(addition.exchange_ids) - _SHOWN_IDS
        new, rest = " (new)" if addition.new else "", f" and {more} more" if more > 0 else ""
        lines.append(
            f"# {addition.half} {addition.category}{new}: {len(addition.topics)} examples from "
            f"{len(addition.exchange_ids)} exchanges: {ids}{rest}"
        )
    return "\n".join(lines) + "\n" + dump_constitution(proposal.constitution)


def _is_proposal(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().rstrip() == _HEAD.encode()


def _plan(constitution: Constitution, reviews: Sequence[Review]) -> list[Addition]:
    groups: dict[tuple[Half, str | None], list[Review]] = defaultdict(list)
    for review in reviews:
        groups[review.verdict, review.category].append(review)
    harmless = {category.id for part in constitution.buckets.values() for category in part}
    used = {_folded(category) for category in constitution.category_ids}
    plan = []
    for (half, category), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        near = category if half == "harmless" and category in constitution.category_ids else None
        name = category
        if half == "harmless" and (near is not None or category is None):
            name = _entry_id(near, used)
            used.add(_folded(name))
        topics = tuple(dict.fromkeys(topic for review in group for topic in review.topics))
        ids = tuple(review.exchange.id for review in group)
        new = half == "harmless" and name not in harmless
        plan.append(Addition(half, name or "", new, near, topics, ids))
    return plan


def _entry_id(near: str | None, used: set[str]) -> str:
    """Return an id that is the same in every round of review, so that later rounds extend the same entry."""
    for number in range(1, len(used) + 2):
        tail = "reviewed-harmless" if number == 1 else f"reviewed-harmless-{number}"
        name = tail if near is None else f"{near[: _MAX_ID - len(tail) - 1].rstrip('-_')}-{tail}"
        if _folded(name) not in used:
            break
    return name


def _folded(name: str) -> str:
    return name.replace("_", "-")


def _without_contradictions(
    constitution: Constitution, plan: Sequence[Addition]
) -> tuple[list[Addition], list[str]]:
    """Drop topics that are, or would become, examples in the other half too. Notes leave them to people."""
    halves = {category.id: "harmful" for category in constitution.harmful}
    taken: dict[str, set[str]] = {"harmful": set(), "harmless": set()}
    for category in constitution.categories:
        taken[halves.get(category.id, "harmless")] |= {_fold(example) for example in category.examples}
    planned = {half: {_fold(topic) for a in plan if a.half == half for topic in a.topics} for half in taken}
    kept, notes = [], []
    for addition in plan:
        if not addition.category:
            count = len(addition.exchange_ids)
            notes.append(f"{count} harmful exchanges have no category; add `category` to their reviews")
            continue
        other = "harmless" if addition.half == "harmful" else "harmful"
        crossed = taken[other] | planned[other]
        fresh: dict[str, str] = {}
        for topic in addition.topics:
            if _fold(topic) and _fold(topic) not in crossed | taken[addition.half]:
                fresh.setdefault(_fold(topic), topic)
        clashes = sum(_fold(topic) in crossed for topic in addition.topics)
        if clashes:
            notes.append(
                f"{addition.category}: {clashes} topic(s) are in the other half too; decide between them"
            )
        taken[addition.half] |= set(fresh)
        if not addition.topics and not addition.new:
            notes.append(f"{addition.category}: its reviews have no `topic`, so nothing is proposed for it")
        kept.append(
            Addition(
                addition.half,
                addition.category,
                addition.new,
                addition.near,
                tuple(fresh.values()),
                addition.exchange_ids,
            )
        )
    return kept, notes


def _extend(
    constitution: Constitution, additions: Sequence[Addition], wording: tuple[str, str]
) -> Constitution:
    content = constitution.model_dump()
    titles = {category.id: category.title for category in constitution.categories}
    lists: list[Any] = [content["harmful"], *content["harmless"].values()]
    places: Mapping[str, Any] = {entry["id"]: entry for part in lists for entry in part}
    for number, addition in enumerate(additions, 1):
        if not addition.new:
            places[addition.category]["examples"] += addition.topics
            continue
        topics = f"About {'; '.join(addition.topics[:_SHOWN_TOPICS])}." if addition.topics else ""
        near = addition.near or "other things"
        words = {"title": titles.get(near, near), "id": near, "number": number, "topics": topics}
        entry = HarmlessCategory(
            id=addition.category,
            title=wording[0].format(**words),
            description=wording[1].format(**words),
            examples=list(addition.topics),
        )
        content["harmless"]["near_domain"].append(entry.model_dump())
    major, minor, _ = constitution.version.split(".")
    return Constitution.model_validate({**content, "version": f"{major}.{int(minor) + 1}.0"})


def _fold(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
