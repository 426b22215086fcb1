"""Questions: the first rows of a run, requests for generated questions, and their permitted twins.

The readers of generated lists are here too. Generators number, quote and introduce lists in many ways.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from lockgate.constitution import Constitution
from lockgate.curation import content_stems, find_refusal
from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange, Message, normalise_text, read_exchanges
from lockgate.synthesis._requests import Completion, GenerationRequest
from lockgate.synthesis._rows import Reject, Row, derive_row, row_seed
from lockgate.synthesis.factory import _prompts
from lockgate.synthesis.factory._brief import Brief, count_lists, count_questions
from lockgate.synthesis.factory._checks import stem_overlap
from lockgate.synthesis.factory._phrases import compose_questions
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._roles import (
    ASK,
    FROM_FILE,
    FROM_GENERATOR,
    FROM_TEMPLATE,
    QUESTION,
    TWIN,
    question_of,
    role_of,
)
from lockgate.synthesis.factory._topics import Topic, list_topics

ASK_STEP = "questions"
_LEAST_SHARED = 0.3
TWIN_TOKENS = 60
_ITEM = re.compile(r"^\s*(?:\(?\d{1,3}\s*[.):]\)?|[-*•‣–]|Q\d*\s*[:.])\s*(?P<text>.*)$", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:\*\*|__)?(?:question|title|topic|q|stage)\s*\d*(?:\*\*|__)?\s*[:.]\s*", re.IGNORECASE
)
_MARKS = "*_`\"“”«»' "
_END = re.compile(r"[.?!…)\"”]\s*$")
_MIN_WORDS, _MAX_WORDS, _MAX_CHARACTERS = 3, 60, 400
# First words of requests that are no questions.
_ASKING_TEXT = (
    "i i'd i'm i've my we our tell explain describe give write show list help name suggest compare "
    "teach walk share find create make let please can could would will do does did is are was were "
    "am should may might how what what's when where which who whom whose why in for if imagine "
    "summarise summarize recommend draft outline translate discuss define calculate propose provide "
    "plan prepare advise reveal"
)
_ASKING = frozenset(_ASKING_TEXT.split())


def source_rows(
    constitution: Constitution, plan: FactoryPlan, seeds: Sequence[str | os.PathLike[str]] = ()
) -> Iterator[Exchange]:
    """Yield the first rows: the user's prompts, then requests for questions, then composed questions.

    Of two near-duplicates the earlier one stays.

    Raises:
        ConfigError: A prompt's category is not in the constitution.
    """
    topics = list_topics(constitution)
    counts = count_questions(constitution, plan)
    for path in seeds:
        yield from _read_seeds(path, {topic.id: topic for topic in topics})
    for topic in topics:
        for number in range(count_lists(counts[topic.id], plan)):
            focus = topic.examples[number % len(topic.examples)] if topic.examples else topic.title
            text = f"{topic.title}: {focus}"
            yield _row(topic, text, ASK, {"number": number, "focus": focus})
    if plan.queries.templates == "fill":
        for topic in topics:
            rng = Random(f"{plan.seed}/templates/{topic.id}")  # noqa: S311
            # Filters drop some questions, so more are composed than needed.
            for composed in compose_questions(topic, 2 * counts[topic.id], rng):
                origin = {"origin": FROM_TEMPLATE, "phrase": composed.phrase}
                yield _row(topic, composed.text, QUESTION, origin)


def _read_seeds(path: str | os.PathLike[str], topics: Mapping[str, Topic]) -> Iterator[Exchange]:
    for number, seed in enumerate(read_exchanges(path), 1):
        topic = topics.get(seed.category or "")
        if topic is None:
            raise ConfigError(
                f"{os.fspath(path)}: row {number}: category: expected an id of the constitution; a prompt "
                "without one can't be labelled"
            )
        asked = [place for place, message in enumerate(seed.messages) if message.role == "user"]
        if not asked or not seed.messages[asked[-1]].content.strip():
            raise ConfigError(f"{os.fspath(path)}: row {number}: no user message with text")
        row = _row(topic, "", QUESTION, {"origin": FROM_FILE})
        yield Exchange(seed.messages[: asked[-1] + 1], None, topic.id, "file", row.meta)


def _row(topic: Topic, text: str, role: str, meta: Mapping[str, Any]) -> Exchange:
    own = {"kind": topic.kind, "role": role, **meta}
    return Exchange((Message("user", text),), None, topic.id, "synthesis", own)


class QuestionWriter:
    """Requests and parser for lists of questions about an entry. Rows with a question pass."""

    def __init__(self, brief: Brief) -> None:
        self._brief = brief

    def request(self, row: Row, seed: int) -> GenerationRequest | None:
        """Return the request for a list about the row's entry, with the row's focus."""
        if role_of(row) != ASK:
            return None
        plan = self._brief.plan.queries
        messages = _prompts.ask_questions(self._brief.topic_of(row), str(row.meta["focus"]), plan.per_request)
        return GenerationRequest(messages, plan.max_tokens, plan.temperature, seed, ASK_STEP)

    def parse(self, row: Row, completion: Completion) -> list[Row] | Reject:
        """Return a row for each question of the list."""
        questions = read_questions(completion.text, finished=completion.finish_reason == "stop")
        if not questions:
            refused = find_refusal(completion.text) is not None
            return Reject("refusal" if refused else "no_questions", str(row.category))
        meta = {"role": QUESTION, "origin": FROM_GENERATOR}
        return [
            derive_row(row, ASK_STEP, number, messages=(Message("user", question),), meta=meta)
            for number, question in enumerate(questions)
        ]


class TwinWriter:
    """Requests and parser for the questions of permitted twins."""

    def __init__(self, brief: Brief) -> None:
        self._brief = brief

    def request(self, row: Row, seed: int) -> GenerationRequest | None:
        """Return the request for a twin; None for other rows and for composed twins."""
        if role_of(row) != TWIN or "twin" in row.meta:
            return None
        near = self._brief.topics[str(row.meta["near"])]
        messages = _prompts.ask_twin(question_of(row), near)
        return GenerationRequest(
            messages, TWIN_TOKENS, self._brief.plan.queries.temperature, seed, "twin-question"
        )

    def parse(self, row: Row, completion: Completion) -> Row | Reject:
        """Return the row with the generated question, if it keeps the object and is permitted."""
        question, original = read_question(completion.text), question_of(row)
        near = self._brief.topics[str(row.meta["near"])]
        if question is None or find_refusal(completion.text) is not None:
            return Reject("no_twin")
        if normalise_text(question) == normalise_text(original):
            return Reject("twin_unchanged")
        if stem_overlap(original, question) < _LEAST_SHARED:
            return Reject("twin_off_topic")
        if not (content_stems(question) - content_stems(original)) & content_stems(near.text):
            return Reject("twin_not_permitted")
        return _asking(row, question, "generator")

    def compose(self, row: Row, reject: Reject | None = None) -> Row:
        """Return the row with a composed question, for twins without a generated one."""
        near = self._brief.topics[str(row.meta["near"])]
        number = row_seed(row, "compose-twin")
        return _asking(row, _prompts.compose_twin(question_of(row), near, number), "template")

    def compose_some(self, row: Row, seed: int) -> Row:
        """Compose the share of the twins that the plan doesn't ask the generator for."""
        if role_of(row) != TWIN or seed / 2**31 < self._brief.plan.pairs.generated:
            return row
        return self.compose(row)


def _asking(row: Row, question: str, origin: str) -> Row:
    messages = (*row.messages[:-1], replace(row.messages[-1], content=question))
    return replace(row, messages=messages, meta={**row.meta, "twin": origin})


def read_list(text: str, *, finished: bool = True) -> list[str]:
    """Read the items of a numbered or bulleted list; without any marks, the lines. Leave out a cut item.

    Text before the first mark is an introduction. Later lines without a mark are left out.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and not finished and not _END.search(lines[-1]):
        lines.pop()
    marked = [found.group("text") for line in lines if (found := _ITEM.match(line))]
    items = (_LABEL.sub("", item.strip()).strip(_MARKS) for item in marked or lines)
    return [item for item in items if item]


def read_questions(text: str, *, finished: bool = True) -> list[str]:
    """Read the items of a list that ask for something, each once, in their order."""
    questions: dict[str, str] = {}
    for item in read_list(text, finished=finished):
        question = re.sub(r"\s+", " ", item)
        if is_question(question):
            questions.setdefault(normalise_text(question), question)
    return list(questions.values())


def is_question(text: str) -> bool:
    """Tell whether a line asks for something and has a usual length."""
    words = text.split()
    if not _MIN_WORDS <= len(words) <= _MAX_WORDS or len(text) > _MAX_CHARACTERS:
        return False
    first = words[0].casefold().strip(",.:;!?")
    # "I'm sorry, but ..." begins like a request.
    return (text.endswith("?") or first in _ASKING) and find_refusal(text) is None


def read_question(text: str) -> str | None:
    """Read the one question that a text is or begins with. Return None without one."""
    for line in read_list(text):
        if is_question(line):
            return re.sub(r"\s+", " ", line)
    return None
