"""Answers: what the generator is asked for by role, and what is made of its text."""

import re
from dataclasses import replace

from lockgate.exchanges import Message
from lockgate.synthesis._requests import Completion, GenerationRequest
from lockgate.synthesis._rows import Reject, Row
from lockgate.synthesis.factory import _prompts
from lockgate.synthesis.factory._checks import AnswerCheck
from lockgate.synthesis.factory._kit import (
    COMPLIANT,
    HARMLESS,
    PERMITTED,
    TWIN,
    Kit,
    role_of,
)

_SENTENCE_END = re.compile(r"[.!?][\"”)]?(?=\s|$)")
_LEAST_LEFT = 0.5


class AnswerWriter:
    """Asks for the answer of each row by its role; the exchange keeps the question alone, never the hints."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._check = AnswerCheck(kit)

    def request(self, row: Row, seed: int) -> GenerationRequest | None:
        """The question with what the policy says about such answers; None for rows that have one already."""
        if role_of(row) not in (COMPLIANT, PERMITTED, TWIN, HARMLESS):
            return None
        topic, plan = self._kit.topic_of(row), self._kit.plan.answers
        near = row.meta.get("near")
        text = _prompts.ask_answer(
            row.messages[-1].content, role_of(row), topic, self._kit.topics[near] if near else None
        )
        messages = (*row.messages[:-1], replace(row.messages[-1], content=text))
        return GenerationRequest(messages, plan.max_tokens, plan.temperature, seed, role_of(row))

    def parse(self, row: Row, completion: Completion) -> Row | Reject:
        """The exchange, if its answer is what its role promises."""
        made = replace(row, messages=(*row.messages, Message("assistant", trim_answer(completion))))
        return self._check(made) or made


def trim_answer(completion: Completion) -> str:
    """The text, up to its last whole sentence where it was cut and that leaves most of it."""
    text = completion.text.strip()
    if completion.finish_reason != "length":
        return text
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends and ends[-1] >= _LEAST_LEFT * len(text) else text
