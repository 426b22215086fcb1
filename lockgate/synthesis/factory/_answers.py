"""Answers: the request for each role, and the exchange made from the completion."""

import re
from dataclasses import replace
from random import Random

from lockgate.exchanges import Message
from lockgate.synthesis._requests import Completion, GenerationRequest
from lockgate.synthesis._rows import Reject, Row, row_id
from lockgate.synthesis.factory import _prompts
from lockgate.synthesis.factory._brief import Brief
from lockgate.synthesis.factory._checks import AnswerCheck, QualityCheck
from lockgate.synthesis.factory._roles import COMPLIANT, HARMLESS, PERMITTED, TWIN, question_of, role_of
from lockgate.synthesis.factory._templates import join_opening, write_opening
from lockgate.synthesis.factory._topics import Topic

_SENTENCE_END = re.compile(r"[.!?][\"”)]?(?=\s|$)")
_LEAST_LEFT = 0.5


class AnswerWriter:
    """Requests and parser for the answer of each row, by its role. The exchange never keeps the hints."""

    def __init__(self, brief: Brief) -> None:
        self._brief = brief
        self._check = AnswerCheck(brief)
        self._quality = QualityCheck(brief)

    def request(self, row: Row, seed: int) -> GenerationRequest | None:
        """Return the question with the policy's words about such answers; None for rows with an answer."""
        role = role_of(row)
        if role not in (COMPLIANT, PERMITTED, TWIN, HARMLESS):
            return None
        plan = self._brief.plan.answers
        topic, near = self._topics(row)
        before = row.messages[:-1]
        if plan.openings:
            subject = _prompts.name_subject(self._brief.constitution.name, near or topic)
            asked = _prompts.ask_continued(question_of(row), subject, self._opening(row)[0])
        else:
            text = _prompts.ask_answer(question_of(row), role, topic, near)
            asked = (replace(row.messages[-1], content=text),)
        return GenerationRequest((*before, *asked), plan.max_tokens, plan.temperature, seed, role)

    def parse(self, row: Row, completion: Completion) -> Row | Reject:
        """Return the exchange if its answer fits its role."""
        text = trim_answer(completion)
        # The beginning is ours, so only the generator's text is checked. A fault found here is tried again; a
        # fault found in a later step costs the row and its twin.
        written = _answered(row, text)
        opening, rng = self._opening(row)
        if fault := self._check(written, opening) or self._quality(written):
            return fault
        return _answered(row, join_opening(opening, text, rng))

    def _opening(self, row: Row) -> tuple[str, Random]:
        rng = Random(f"{self._brief.plan.seed}/opening/{row_id(row)}")  # noqa: S311
        if not self._brief.plan.answers.openings:
            return "", rng
        topic, near = self._topics(row)
        return write_opening(role_of(row), topic, near, rng), rng

    def _topics(self, row: Row) -> tuple[Topic, Topic | None]:
        near = row.meta.get("near")
        return self._brief.topic_of(row), self._brief.topics[near] if near else None


def trim_answer(completion: Completion) -> str:
    """Return the text. If it was cut, end it at its last whole sentence, unless that removes too much."""
    text = completion.text.strip()
    if completion.finish_reason != "length":
        return text
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends and ends[-1] >= _LEAST_LEFT * len(text) else text


def _answered(row: Row, text: str) -> Row:
    return replace(row, messages=(*row.messages, Message("assistant", text)))
