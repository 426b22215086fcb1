"""Training data of a classifier: exchanges as tokens, their cut points, and the packing of steps."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lockgate.backbones import Backbone
from lockgate.classifiers import Reads, render_for
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange, text_hash


@dataclass(frozen=True, slots=True)
class Example:
    """One training exchange. `label` is for the part that the classifier reads."""

    exchange: Exchange
    label: float


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Tokens of one example.

    Attributes:
        ids: tokens of the conversation. A long one loses tokens behind the template's prefix, the oldest
            first.
        answer_start: index in `ids` of the answer's first token.
        cuts: number of tokens read at each verdict, ascending. The last one is the end.
        label: the example's label.
    """

    ids: list[int]
    answer_start: int
    cuts: list[int]
    label: float


def select_examples(exchanges: Sequence[Exchange], reads: Reads) -> list[Example]:
    """Select the exchanges that can train a classifier, and label them.

    A classifier that reads exchanges or answers learns from answered exchanges. A classifier that reads
    prompts learns from each distinct prompt (all turns before the answer) once. A prompt is harmful if
    `meta.harmful_request` is true, or if any exchange with this prompt is harmful.

    Raises:
        TrainingError: no exchange is usable, or all have the same label.
    """
    if reads == "prompt":
        found = _prompts(exchanges)
    else:
        found = [
            Example(row, row.label) for row in exchanges if row.label is not None and not row.is_prompt_only
        ]
    harmful = sum(example.label >= 0.5 for example in found)
    if harmful in (0, len(found)):
        what = "prompts" if reads == "prompt" else "exchanges with an answer"
        raise TrainingError(
            f"{len(found)} labelled {what}, {harmful} of them harmful: a classifier needs both labels"
        )
    return found


def _prompts(exchanges: Sequence[Exchange]) -> list[Example]:
    first: dict[str, Exchange] = {}
    labels: dict[str, float] = {}
    for row in exchanges:
        request = row.meta.get("harmful_request", False)
        asked = request is True
        # A harmless answer says nothing about its prompt if nobody has judged the request.
        if not asked and (row.label is None or (request is None and row.label < 0.5)):
            continue
        group = _conversation_hash(row)
        first.setdefault(group, row)
        labels[group] = max(labels.get(group, 0.0), row.label or 0.0, 1.0 if asked else 0.0)
    return [Example(row, labels[group]) for group, row in first.items()]


def _conversation_hash(exchange: Exchange) -> str:
    """Hash all turns before the answer: the same last turn may be harmless after other turns."""
    before = exchange.messages if exchange.is_prompt_only else exchange.messages[:-1]
    turns = [{**message.to_dict(), "content": text_hash(message.content)} for message in before]
    return hashlib.sha256(json.dumps(turns, sort_keys=True).encode()).hexdigest()


def make_row(
    backbone: Backbone, example: Example, reads: Reads, *, max_tokens: int, cuts: int, seed: Sequence[int]
) -> Row:
    """Render one example and draw its cut points.

    Args:
        backbone: backbone with the chat template.
        example: example to render.
        reads: part of the exchange that the classifier reads.
        max_tokens: a longer conversation loses tokens behind the template's prefix.
        cuts: number of verdicts.
        seed: seed of the cut points.

    Raises:
        TrainingError: the template refuses the exchange. The message names its id.
    """
    try:
        chat = render_for(backbone, reads, example.exchange.messages)
    except Exception as error:
        raise TrainingError(f"exchange {example.exchange.id}: {error}") from error
    ids, start = list(chat.token_ids[: max(chat.answer_end, 1)]), min(chat.answer_start, chat.answer_end)
    if (surplus := len(ids) - max_tokens) > 0:
        prefix = min(chat.prefix_length, max_tokens - 1)
        ids = ids[:prefix] + ids[prefix + surplus :]
        start = max(prefix, start - surplus)
    return Row(ids, start, _draw_cuts(max(1, start), len(ids), cuts, seed), example.label)


def _draw_cuts(start: int, end: int, count: int, seed: Sequence[int]) -> list[int]:
    """Draw up to `count` distinct cuts from `start` (before the answer) to `end`. `end` is always a cut."""
    if end <= start or count <= 1:
        return [max(end, start)]
    random = np.random.default_rng([abs(value) for value in seed])
    drawn = random.choice(end - start, size=min(count - 1, end - start), replace=False)
    return [*sorted(int(value) + start for value in drawn), end]


def plan_steps(
    examples: Sequence[Example],
    make: Callable[[int, int], Row],
    *,
    suffix: int,
    tokens_per_step: int,
    tokens: int | None,
    seed: int,
    harmful_share: float | None = None,
) -> list[list[Row]]:
    """Plan the training steps: which rows are packed into each.

    A pass goes through all examples in an order of its own.

    Args:
        examples: training examples.
        make: function that makes a row from the index of an example and the number of the pass.
        suffix: tokens of the suffix that is read at each verdict.
        tokens_per_step: size of a step at most, suffixes included. A longer row is a step of its own.
        tokens: conversation tokens to plan, suffixes not included. None plans one pass over the examples.
        seed: seed of the order.
        harmful_share: share of harmful examples among those drawn. Each label then has its own passes.
            None draws from all examples alike.
    """
    steps: list[list[Row]] = []
    step: list[Row] = []
    size, total = 0, 0
    for drawn, (index, number) in enumerate(_draw_examples(examples, harmful_share, seed)):
        if total >= tokens if tokens is not None else drawn == len(examples):
            break
        row = make(index, number)
        length = len(row.ids) + suffix * len(row.cuts)
        if step and size + length > tokens_per_step:
            steps.append(step)
            step, size = [], 0
        step.append(row)
        size += length
        total += len(row.ids)
    return [*steps, step]


def _draw_examples(
    examples: Sequence[Example], harmful_share: float | None, seed: int
) -> Iterator[tuple[int, int]]:
    """Yield the index and the pass of one example after the other, without end."""
    if harmful_share is None:
        yield from _passes(list(range(len(examples))), [abs(seed)])
        return
    sides = [
        _passes(
            [i for i, example in enumerate(examples) if (example.label >= 0.5) is harmful], [abs(seed), kind]
        )
        for kind, harmful in enumerate((False, True))
    ]
    random = np.random.default_rng([abs(seed), len(sides)])
    while True:
        yield next(sides[int(random.random() < harmful_share)])


def _passes(indices: Sequence[int], seed: Sequence[int]) -> Iterator[tuple[int, int]]:
    for number in itertools.count():
        for place in np.random.default_rng([*seed, number]).permutation(len(indices)):
            yield indices[int(place)], number


def hash_examples(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of the examples' ids and labels, in order."""
    content = [[example.exchange.id, example.label] for example in examples]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
