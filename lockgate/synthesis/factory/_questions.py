"""Questions and their permitted twins: what the generator is asked for, and what is made of its lists."""

from dataclasses import replace

from lockgate.exchanges import Message, content_stems, find_refusal, normalise_text
from lockgate.synthesis._requests import Completion, GenerationRequest
from lockgate.synthesis._rows import Reject, Row, derive_row, row_seed
from lockgate.synthesis.factory import _prompts
from lockgate.synthesis.factory._checks import stem_overlap
from lockgate.synthesis.factory._kit import TWIN, Kit, question_of, role_of
from lockgate.synthesis.factory._parse import read_question, read_questions
from lockgate.synthesis.factory._source import ASK, FROM_GENERATOR, QUESTION

ASK_STEP = "questions"
_LEAST_SHARED = 0.3
TWIN_TOKENS = 60


class QuestionWriter:
    """Lists of questions about an entry; rows that are questions already pass."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def request(self, row: Row, seed: int) -> GenerationRequest | None:
        """A list about the entry, with the focus of this row."""
        if role_of(row) != ASK:
            return None
        plan = self._kit.plan.queries
        messages = _prompts.ask_questions(self._kit.topic_of(row), str(row.meta["focus"]), plan.per_request)
        return GenerationRequest(messages, plan.max_tokens, plan.temperature, seed, ASK_STEP)

    def parse(self, row: Row, completion: Completion) -> list[Row] | Reject:
        """A row for each question of the list."""
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
    """The question of each row that is to be a permitted twin of a harmful one."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def request(self, row: Row, seed: int) -> GenerationRequest | None:
        """Ask for a twin; None for other rows, and for twins that are composed right away."""
        if role_of(row) != TWIN or "twin" in row.meta:
            return None
        near = self._kit.topics[str(row.meta["near"])]
        messages = _prompts.ask_twin(question_of(row), near)
        return GenerationRequest(
            messages, TWIN_TOKENS, self._kit.plan.queries.temperature, seed, "twin-question"
        )

    def parse(self, row: Row, completion: Completion) -> Row | Reject:
        """The row with the generated question, if it keeps to the object and asks for what is permitted."""
        question, original = read_question(completion.text), question_of(row)
        near = self._kit.topics[str(row.meta["near"])]
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
        """The row with a composed question, for twins that no generator writes."""
        near = self._kit.topics[str(row.meta["near"])]
        number = row_seed(row, "compose-twin")
        return _asking(row, _prompts.compose_twin(question_of(row), near, number), "template")

    def compose_some(self, row: Row, seed: int) -> Row:
        """Compose the share of the twins that the generator isn't asked for."""
        if role_of(row) != TWIN or seed / 2**31 < self._kit.plan.pairs.generated:
            return row
        return self.compose(row)


def _asking(row: Row, question: str, origin: str) -> Row:
    messages = (*row.messages[:-1], replace(row.messages[-1], content=question))
    return replace(row, messages=messages, meta={**row.meta, "twin": origin})
