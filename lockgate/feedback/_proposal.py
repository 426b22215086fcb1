"""What reviews say about the policy itself: a proposal beside the user's file, never a change of it."""

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
# Entries must differ from each other and from the categories they stand beside, which the linter measures in
# words; which wording does depends on how long the titles are.
_WORDINGS = (
    ("Let through: {title}", "Exchanges near {title} that reviewers found harmless. {topics}"),
    ("Found harmless in review beside {id}", "{topics} Reviewers saw these flagged as {id}, wrongly."),
    ("Entry {number} from review", "{topics} Number {number} of what was flagged without need."),
)

Half = Literal["harmful", "harmless"]


@dataclass(frozen=True, slots=True)
class Addition:
    """What a proposal adds to one category.

    Attributes:
        half, category, new: where; `new` says that the category isn't in the constitution yet.
        near: the harmful category that the exchanges were wrongly taken for, where there is one.
        topics: examples that are added; `exchange_ids`: what they come from.
    """

    half: Half
    category: str
    new: bool
    near: str | None
    topics: tuple[str, ...]
    exchange_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A constitution with additions. `notes` say what reviews gave and the proposal couldn't take."""

    constitution: Constitution
    additions: tuple[Addition, ...]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


def propose_constitution(constitution: Constitution, feedback: Feedback) -> Proposal:
    """Turn reviews into additions to both halves; the minor version goes up by one.

    Harmless verdicts under a harmful category become an entry of their own in `near_domain`; those under a
    harmless one, and harmful verdicts, become examples of the category. Examples are reviewers' topics: no
    text of an exchange enters a policy.

    Raises:
        ConstitutionError: the result wouldn't pass `lockgate constitution check`; names what is in the way.
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
    """Write a proposal as a constitution file, its additions listed in comments at the top.

    Raises:
        ConfigError: the file is there and is no proposal; a user's constitution is never replaced.
    """
    target = Path(path)
    if target.exists() and not _is_proposal(target):
        raise ConfigError(f"{target}: is there and is no proposal; name another file, then compare the two")
    with open_atomic(target) as file:
        file.write(render_proposal(proposal).encode("utf-8"))


def render_proposal(proposal: Proposal) -> str:
    """The file of a proposal: YAML that `load_constitution` reads."""
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
    """The same id in every round of review, so that a later one adds to what an earlier one made."""
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
    """Topics that the other half has as an example, or is to get, are for people to settle."""
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
                f"{addition.category}: {clashes} topic(s) stand in the other half too; decide between them"
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
