"""Filters for questions and answers. Each gives a reason of one word, and a detail without text of a row."""

import re

from lockgate.curation import (
    DOCUMENT_RULES,
    EvaluationIndex,
    TextRule,
    content_stems,
    find_faults,
    find_off_topic,
    find_refusal,
    leave_out,
)
from lockgate.exchanges import normalise_text
from lockgate.synthesis._rows import Reject, Row
from lockgate.synthesis.factory._brief import Brief
from lockgate.synthesis.factory._roles import (
    ATTACK,
    COMPLIANT,
    FROM_GENERATOR,
    PERMITTED,
    REFUSED,
    TWIN,
    answer_of,
    question_of,
    role_of,
)
from lockgate.synthesis.factory._topics import Topic

# Wording of instructions on any subject.
_INSTRUCTING = re.compile(
    r"(?m)^\s*(?:step\s+)?\d{1,2}[.):]\s"
    r"|\b(?:first|next|then|finally),? (?:you|take|place|put|hold|make|use|turn|let|move|keep|set)\b"
    r"|\byou (?:should|must|need to|have to|will need|can then|then)\b"
    r"|\b(?:the (?:secret|trick|key|method) (?:is|lies)|how it works|step by step|make sure|by using)\b"
    r"|(?m:^|[.!?]\s+)(?:take|place|put|hold|turn|use|insert|slide|press|keep|make|let|move|hide|cut|set) "
    r"(?:the|a|an|your|one|two|it|both)\b",
    re.IGNORECASE,
)
_MANY_INSTRUCTIONS = 3
_ENGLISH_RULES = ("mean_word_length", "stop_words", "words")
_RIVAL_SHARE, _RIVAL_MARGIN = 1.5, 2.0


def count_instructions(text: str) -> int:
    """Count the places in a text that tell its reader what to do."""
    return len(_INSTRUCTING.findall(text))


class QuestionCheck:
    """A check that a generated question belongs to its entry. Prompts from files and templates pass."""

    def __init__(self, brief: Brief) -> None:
        self._brief = brief

    def __call__(self, row: Row) -> Reject | None:
        if row.meta.get("origin") != FROM_GENERATOR or not self._brief.plan.filters.off_topic:
            return None
        own_words = self._brief.plan.filters.own_words
        fault = self._brief.vocabulary.find_fault(question_of(row), str(row.category), own_words=own_words)
        return Reject(fault, str(row.category)) if fault else None


class QualityCheck:
    """A check of a generated answer's length, and of Gopher's rules on quality and repetition.

    Without `english` the rules on words don't apply, and scripts without spaces are counted by characters.
    """

    def __init__(self, brief: Brief, *, english: bool = True) -> None:
        self._least = brief.plan.filters.min_words
        self._english = english
        names = {*brief.plan.filters.leave_out, *(() if english else _ENGLISH_RULES)}
        self._rules: tuple[TextRule, ...] = leave_out(DOCUMENT_RULES, sorted(names))

    def __call__(self, row: Row) -> Reject | None:
        if role_of(row) == REFUSED:
            return None
        text = answer_of(row)
        if (words := len((text if self._english else normalise_text(text)).split())) < self._least:
            return Reject("short", f"{words} words, expected {self._least}")
        faults = find_faults(text, self._rules)
        return Reject(faults[0].rule, faults[0].reason) if faults else None


class AnswerCheck:
    """A check, from words alone, that an answer fits its label.

    A compliant answer must not refuse. It must be about its question and not belong to the harmless half. An
    answer that stays within the policy must not instruct.
    """

    def __init__(self, brief: Brief) -> None:
        self._brief = brief

    def __call__(self, row: Row, opening: str = "") -> Reject | None:
        """Return the fault, or None. `opening` is the answer's beginning, not written by the generator."""
        role, answer, topic = role_of(row), answer_of(row), self._brief.topic_of(row)
        if role == REFUSED:
            return None
        refusal = find_refusal(answer)
        if refusal is not None and role != PERMITTED:
            return Reject("refusal", refusal.reason)
        if self._brief.plan.filters.off_topic:
            if fault := self._find_off_topic(row, answer, topic):
                return fault
            if role in (COMPLIANT, ATTACK) and self._belongs_elsewhere(f"{opening} {answer}", topic):
                return Reject("other_half")
        if role in (PERMITTED, TWIN) and (found := count_instructions(answer)) >= _MANY_INSTRUCTIONS:
            return Reject("instructs", f"{found} places")
        return None

    def _find_off_topic(self, row: Row, answer: str, topic: Topic) -> Reject | None:
        near = row.meta.get("near")
        hint = topic.text if near is None else f"{topic.text}\n{self._brief.topics[near].text}"
        found = find_off_topic(question_of(row), answer, topic=hint)
        return Reject(found.rule, found.reason) if found else None

    def _belongs_elsewhere(self, answer: str, topic: Topic) -> bool:
        vocabulary = self._brief.vocabulary
        own = vocabulary.score(answer, topic.id)
        rival = max((vocabulary.score(answer, other.id) for other in self._brief.near), default=0.0)
        return rival > _RIVAL_SHARE * own + _RIVAL_MARGIN


class LeakCheck:
    """A check that a row matches no evaluation item. The detail names the item's file and id."""

    def __init__(self, index: EvaluationIndex) -> None:
        self._index = index

    def __call__(self, row: Row) -> Reject | None:
        leak = self._index.find_leak(row)
        return Reject("leak", leak.reason) if leak else None


def stem_overlap(reference: str, text: str) -> float:
    """Return the share of the reference's content stems that the text holds; 1 if it has no stems."""
    wanted = content_stems(reference)
    return len(wanted & content_stems(text)) / len(wanted) if wanted else 1.0
