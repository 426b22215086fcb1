"""A small pipeline about stage magic. Tests of the executor use all or parts of it."""

from collections.abc import Callable
from dataclasses import replace

from lockgate.exchanges import Exchange, Message
from lockgate.synthesis import (
    Completion,
    DedupStep,
    FilterStep,
    GenerateStep,
    GenerationRequest,
    Generator,
    GeneratorSource,
    MapStep,
    Reject,
    Row,
    SplitStep,
    Step,
    derive_row,
    row_id,
)

TOPICS = ("a vanishing coin", "the linking rings", "a card trick", "the floating cane")


def topic_rows(count: int) -> list[Exchange]:
    """Prompt-only rows; some are equal, so that only their order tells them apart."""
    return [
        Exchange((Message("user", TOPICS[i % len(TOPICS)]),), category="stage-magic", source="topics")
        for i in range(count)
    ]


def ask_query(row: Row, seed: int) -> GenerationRequest:
    text = f"Write a question about {row.messages[0].content}."
    return GenerationRequest((Message("user", text),), 30, seed=seed, purpose="query")


def read_query(row: Row, completion: Completion) -> Row | Reject:
    if completion.text.endswith("0"):
        return Reject("off_topic")
    return derive_row(row, "queries", messages=(Message("user", completion.text),))


def two_of_it(row: Row, seed: int) -> list[Row]:
    """The row, and a second one whose text is sometimes the first one's again."""
    text = row.messages[0].content
    second = text if seed % 3 == 0 else f"{text}, please"
    return [
        derive_row(row, "variants", number, messages=(Message("user", words),))
        for number, words in enumerate((text, second))
    ]


def drop_some(row: Row) -> str | None:
    return "too_plain" if row_id(row).startswith("0") else None


def prompt_text(row: Row) -> str:
    return row.messages[0].content


def ask_answer(row: Row, seed: int) -> GenerationRequest:
    return GenerationRequest(row.messages, 40, seed=seed, purpose="answer")


def read_answer(row: Row, completion: Completion) -> Row:
    messages = (*row.messages, Message("assistant", completion.text))
    return replace(row, messages=messages, label=1.0)


def split_keys(row: Row) -> list[str]:
    return [f"duplicates/{row.meta['duplicate_group']}"]


def stage_steps(name: str, make: Callable[[], Generator], *, batch_rows: int = 5) -> list[Step]:
    source = GeneratorSource(name, make)
    steps: list[Step] = [
        GenerateStep(
            "queries", source, request=ask_query, parse=read_query, attempts=2, batch_rows=batch_rows
        ),
        MapStep("variants", two_of_it),
        FilterStep("plain", drop_some),
        DedupStep("duplicates", prompt_text),
        GenerateStep("answers", source, request=ask_answer, parse=read_answer, batch_rows=batch_rows),
        SplitStep("split", split_keys, {"train": 0.75, "test": 0.25}),
    ]
    for step in steps[1:3]:
        step.batch_rows = batch_rows
    return steps
