"""The searches: single words by their gradient (GCG), and free embeddings by gradient descent."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lockgate.errors import RedTeamError
from lockgate.redteam.whitebox._layout import Layout
from lockgate.redteam.whitebox._options import AttackOptions
from lockgate.redteam.whitebox._view import GuardView, Reading

# Share of a step's direction that the next step keeps.
_KEPT = 0.8


@dataclass(slots=True)
class Course:
    """What a search has seen so far, and what it has cost.

    Attributes:
        margins, scores, nats: after each step, as in `Found`.
        words: the best words.
    """

    words: tuple[int, ...]
    margins: list[float] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    nats: list[float | None] = field(default_factory=list)
    evaluations: int = 0
    started: float = field(default_factory=time.monotonic)
    seconds_to_success: float | None = None

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started

    def note(self, margin: float, score: float, nats: float | None, beyond: float) -> None:
        """Add a step."""
        self.margins.append(margin)
        self.scores.append(score if math.isfinite(score) else None)
        self.nats.append(nats)
        if margin <= -beyond and self.seconds_to_success is None:
            self.seconds_to_success = self.seconds

    def over(self, options: AttackOptions) -> bool:
        """Return whether the attack has succeeded or its time is over."""
        late = options.seconds is not None and self.seconds >= options.seconds
        return late or self.seconds_to_success is not None


@dataclass(frozen=True, slots=True)
class _Tried:
    """A choice of words and what came of it."""

    words: tuple[int, ...]
    margin: float
    score: float
    nats: float

    def loss(self, options: AttackOptions) -> float:
        loss = self.margin + options.fluency * self.nats
        return math.inf if math.isnan(loss) else loss


def search_words(
    view: GuardView, allowed: Sequence[int], options: AttackOptions, generator: torch.Generator
) -> Course:
    """Change words, step by step, where that lowers the margin and the price of odd words.

    Each step takes gradients at the best words so far, draws candidates from those that the gradient likes,
    reads them, and keeps the best if it is better.

    Args:
        allowed: tokens of words.
    """
    layout = view.layout
    course = Course(layout.initial)
    best = _try(view, [layout.initial], course)[0]
    course.note(best.margin, best.score, best.nats, options.beyond)
    numbers = torch.tensor(allowed)
    with torch.no_grad():
        table = view.probe.embed([list(allowed)])[0]
    for _ in range(options.steps):
        if course.over(options):
            break
        liked = numbers[_liked(view, best.words, numbers, table, course, options)]
        drawn = _draw(layout, best.words, liked, options, generator)
        found = min(_try(view, drawn, course), key=lambda tried: tried.loss(options), default=best)
        if found.loss(options) < best.loss(options):
            best = found
        course.note(best.margin, best.score, best.nats, options.beyond)
    course.words = best.words
    return course


def search_embeddings(view: GuardView, options: AttackOptions) -> Course:
    """Move the words' vectors down the soft margin, with momentum, and keep the lowest margin.

    Judges that read text still see the initial words.
    """
    layout = view.layout
    course = Course(layout.initial)
    texts = [layout.messages(layout.initial)]
    places = list(layout.positions)
    with torch.no_grad():
        start = view.probe.embed([layout.chat.token_ids])
    own = start[0, places]
    length = float(own.norm(dim=1).mean())
    moved = torch.zeros_like(own, requires_grad=True)
    speed = torch.zeros_like(own)
    best = math.inf
    for number in range(options.steps + 1):
        embeds = start.clone()
        embeds[0, places] = own + moved
        reading = view.read(embeds, texts)
        course.evaluations += 1
        margin = float(reading.margin[0].detach())
        if number == 0:
            _check(reading)
        if number == 0 or margin < best:
            best, score = margin, float(reading.score[0].detach())
        course.note(best, score, None, options.beyond)
        if course.over(options) or number == options.steps:
            break
        (gradient,) = torch.autograd.grad(reading.soft[0], moved)
        with torch.no_grad():
            # The word that matters most moves by `rate`, the others by less.
            steepest = gradient.norm(dim=1).max().clamp(min=1e-12)
            speed.mul_(_KEPT).add_(gradient / steepest, alpha=1 - _KEPT)
            moved -= options.rate * length * speed
            if options.epsilon is not None:
                radius = options.epsilon * length
                moved.mul_((radius / moved.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))
    return course


def nats_of(layout: Layout, words: Sequence[int], reading: Reading, row: int = 0) -> Tensor:
    """Return the mean of -log p of the words; gradients flow."""
    chosen = torch.tensor(words, device=reading.log_probs.device).unsqueeze(1)
    return -reading.log_probs[row].gather(1, chosen).mean()


@torch.no_grad()
def _try(view: GuardView, choices: Sequence[tuple[int, ...]], course: Course) -> list[_Tried]:
    layout, size = view.layout, view.rows_per_pass()
    found = []
    for start in range(0, len(choices), size):
        part = choices[start : start + size]
        embeds = view.probe.embed([layout.ids(words) for words in part])
        reading = view.read(embeds, [layout.messages(words) for words in part])
        course.evaluations += len(part)
        for row, words in enumerate(part):
            nats = float(nats_of(layout, words, reading, row))
            found.append(_Tried(words, float(reading.margin[row]), float(reading.score[row]), nats))
    return found


def _liked(
    view: GuardView,
    words: tuple[int, ...],
    numbers: Tensor,
    table: Tensor,
    course: Course,
    options: AttackOptions,
) -> Tensor:
    """Return, for each place, which of the allowed words promise the lowest loss `[words, topk]`."""
    layout, places = view.layout, list(view.layout.positions)
    embeds = view.probe.embed([layout.ids(words)]).detach().requires_grad_()
    reading = view.read(embeds, [layout.messages(words)])
    course.evaluations += 1
    _check(reading)
    loss = reading.soft[0]
    if options.fluency:
        loss = loss + options.fluency * nats_of(layout, words, reading).to(loss)
    (gradient,) = torch.autograd.grad(loss, embeds)
    promise = gradient[0, places] @ table.T
    if options.fluency:
        # What a word itself costs; the gradient has what it does to the words after it.
        own = reading.log_probs[0, :, numbers.to(embeds.device)].detach()
        promise = promise - options.fluency / layout.size * own
    return promise.topk(min(options.topk, len(numbers)), dim=1, largest=False).indices.cpu()


def _draw(
    layout: Layout,
    words: tuple[int, ...],
    liked: Tensor,
    options: AttackOptions,
    generator: torch.Generator,
) -> list[tuple[int, ...]]:
    """Draw different candidates whose text becomes the same tokens again."""
    found: dict[tuple[int, ...], None] = {}
    most = min(options.swaps, layout.size)
    for _ in range(4 * options.batch):
        count = 1 + int(torch.randint(most, (), generator=generator))
        changed = list(words)
        for place in torch.randperm(layout.size, generator=generator)[:count].tolist():
            changed[place] = int(liked[place, int(torch.randint(liked.shape[1], (), generator=generator))])
        candidate = tuple(changed)
        if candidate != words and candidate not in found and layout.stable(candidate):
            found[candidate] = None
            if len(found) == options.batch:
                break
    return list(found)


def _check(reading: Reading) -> None:
    if not bool(reading.soft.isfinite().all()):
        raise RedTeamError("the guard gives no number for this exchange; there is nothing to follow")
