"""What a classifier is trained on: exchanges as tokens, cut points, and the packing of steps."""

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
    """One exchange to learn from; `label` is that of what the classifier reads."""

    exchange: Exchange
    label: float


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Tokens of one example, as the training reads them.

    Attributes:
        ids: the conversation, cut to the last `max_tokens` behind the template's prefix.
        answer_start: where the answer begins; what is cut away is prompt first.
        cuts: tokens read at each verdict, ascending; the last is the end.
    """

    ids: list[int]
    answer_start: int
    cuts: list[int]
    label: float


def select_examples(exchanges: Sequence[Exchange], reads: Reads) -> list[Example]:
    """Exchanges that can train a classifier, with their labels.

    A classifier of exchanges or answers learns from answered exchanges. One of prompts learns from each
    distinct prompt (all turns before the answer) once; a prompt is harmful if its exchange is, if
    `meta.harmful_request` says so, or if any exchange with the same prompt is harmful.

    Raises:
        TrainingError: no usable exchange, or labels of one class only.
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
        # A harmless answer to a request that nobody has judged says nothing about the prompt.
        if not asked and (row.label is None or (request is None and row.label < 0.5)):
            continue
        group = _conversation_hash(row)
        first.setdefault(group, row)
        labels[group] = max(labels.get(group, 0.0), row.label or 0.0, 1.0 if asked else 0.0)
    return [Example(row, labels[group]) for group, row in first.items()]


def _conversation_hash(exchange: Exchange) -> str:
    """Of all that stands before the answer: the same last turn may be harmless behind other turns."""
    before = exchange.messages if exchange.is_prompt_only else exchange.messages[:-1]
    turns = [{**message.to_dict(), "content": text_hash(message.content)} for message in before]
    return hashlib.sha256(json.dumps(turns, sort_keys=True).encode()).hexdigest()


def make_row(
    backbone: Backbone, example: Example, reads: Reads, *, max_tokens: int, cuts: int, seed: Sequence[int]
) -> Row:
    """Render and cut one example; `seed` decides its cut points.

    Raises:
        TrainingError: the template refuses the exchange; names its id.
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
    """Up to `count` distinct cuts from `start` (before the answer) to `end`, which is always one of them."""
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
    """Steps of one packed row each, over as many examples as there are or until `tokens` tokens are planned.

    A pass goes through all examples in an order of its own. Tokens are those of conversations: suffixes are
    not counted in the budget, but they are in the size of a step.

    Args:
        make: the row of an example's number in a pass.
        harmful_share: of the examples drawn; each label then has passes of its own.
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
    """Index and pass of one example after the other, without end."""
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
    """SHA-256 of ids and labels in order."""
    content = [[example.exchange.id, example.label] for example in examples]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
