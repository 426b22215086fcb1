"""A guard's score of an exchange as a function of embeddings, with the same numbers as in serving.

The *margin* is how far the guard is from letting an exchange through. It is above 0 exactly if the exchange
is flagged. With one stage it is the largest smoothed logit less the threshold. With two stages a block passes
if nothing near it escalates, or if its mixed score is low. So its margin is the smaller of both, and that of
the exchange is the largest of its blocks. The soft margin replaces maximum and minimum by smooth ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lockgate.cascade import Cascade
from lockgate.classifiers import block_ends
from lockgate.errors import RedTeamError
from lockgate.exchanges import Exchange, Message
from lockgate.guards import ClassifierStage, Guard, Panel, Voice, regions_of
from lockgate.redteam.whitebox._layout import Layout
from lockgate.redteam.whitebox._options import AttackOptions
from lockgate.redteam.whitebox._reader import ProbeReader, VerdictReader

# Tokens of a pass without gradients.
_TOKENS_PER_PASS = 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guard says about some exchanges.

    Attributes:
        margin: `[rows]`; above 0 if the exchange is flagged.
        score: `[rows]`, the score that decides, as `ExchangeScore.mixed_max` has it. For a target that is a
            part of a guard: the largest reading or verdict of this part.
        soft: `[rows]`, the soft margin; gradients flow.
        log_probs: `[rows, words, vocab]`, log-probabilities of what may stand in each place of a word.
    """

    margin: Tensor
    score: Tensor
    soft: Tensor
    log_probs: Tensor


class GuardView:
    """A guard that reads one exchange with different words in its slots.

    Raises:
        RedTeamError: the target is a classifier and the guard has none, or the backbone is quantised.
    """

    def __init__(self, guard: Guard, layout: Layout, options: AttackOptions) -> None:
        self.layout = layout
        self._target, self._limit, self._soft = options.target, options.limit, options.temperature
        self._stages = guard.stages
        self._cascade = guard.stages.cascade
        chat = layout.chat
        self._end = max(chat.answer_end, chat.prefix_length + 1)
        self._start = chat.prefix_length
        self._stride = 8 if self._cascade is None else self._cascade.stride
        self.probe = ProbeReader(guard.backbone, guard.head)
        self._voices = _voices(guard, options)
        self._readers: dict[str, VerdictReader] = {}
        self._ends = block_ends(chat.answer_end - chat.answer_start, self._stride)
        for voice in self._voices:
            if isinstance(voice.stage, ClassifierStage):
                self._readers[voice.name] = VerdictReader(
                    voice.stage.classifier, chat.answer_start, self._ends
                )
        self._plan(guard.head.gamma)

    def _plan(self, gamma: float) -> None:
        """Lay out what doesn't depend on the words: the moving average, and which tokens count where."""
        chat, limits = self.layout.chat, self._stages.thresholds
        count = self._end - self._start
        ages = torch.arange(count).unsqueeze(1) - torch.arange(count).unsqueeze(0)
        weights = gamma * (1 - gamma) ** ages.clamp(min=0).double() * (ages >= 0)
        self._average = weights / weights.sum(1, keepdim=True)
        regions = regions_of(chat)
        places = torch.arange(self._start, self._end)
        armed = torch.arange(count) >= min(limits.min_tokens, count) - 1
        self._counts = armed & (places >= regions.prompt_start)
        prompts = limits.flag_on == "both"
        if self._cascade is None and not prompts:
            self._counts &= places >= regions.answer_start
        answered = (places - regions.answer_start + 1).clamp(min=0)
        self._blocks = (answered + self._stride - 1) // self._stride
        if not self._counts.any():
            raise RedTeamError("no token of this exchange can be flagged")
        # Before the first token that counts, no block can be judged.
        self._judged = torch.arange(len(self._ends)) >= self._blocks[self._counts].min()
        self._judged[0] &= prompts

    def rows_per_pass(self) -> int:
        """Return how many exchanges are read in one pass without gradients."""
        return max(1, _TOKENS_PER_PASS // max([self._end, *(r.tokens for r in self._readers.values())]))

    def read(self, embeds: Tensor, texts: Sequence[Sequence[Message]]) -> Reading:
        """Read exchanges `[rows, tokens, hidden]`, where `tokens` are those of the layout.

        Args:
            texts: the exchanges as messages, for judges of text.
        """
        logits, hidden = self.probe.read(embeds[:, : self._end])
        smoothed = logits[:, self._start :].cpu() @ self._average.T
        before = [position - 1 for position in self.layout.positions]
        log_probs = self.probe.log_probs(hidden[:, before])
        if self._target == "classifier":
            verdicts = self._verdicts(embeds, texts)[:, self._judged]
            score = verdicts.max(1).values
            return Reading(score - self._limit, score, self._smooth(verdicts) - self._limit, log_probs)
        if self._cascade is None:
            counted = smoothed[:, self._counts]
            score, limit = counted.max(1).values, self._stages.decides - self._stages.tolerance
            return Reading(score - limit, score, self._smooth(counted) - limit, log_probs)
        if self._target == "probe":
            rises = torch.tensor([self._cascade.rise(int(number)) for number in self._blocks])
            counted = (smoothed - rises)[:, self._counts]
            score, limit = counted.max(1).values, self._cascade.escalate
            return Reading(score - limit, score, self._smooth(counted) - limit, log_probs)
        verdicts = self._verdicts(embeds, texts)
        margin, score = self._decide(self._cascade, smoothed, verdicts, soft=False)
        soft, _ = self._decide(self._cascade, smoothed, verdicts, soft=True)
        return Reading(margin, score, soft, log_probs)

    def _decide(
        self, cascade: Cascade, smoothed: Tensor, verdicts: Tensor, *, soft: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the margin and the largest mixed score of the blocks that stage 2 is asked about."""
        columns = []
        for number in range(len(self._ends)):
            own = smoothed[:, self._counts & (self._blocks == number)]
            if own.shape[1] == 0:
                columns.append(torch.full((len(smoothed),), -math.inf, dtype=torch.float64))
            else:
                most = self._smooth(own) if soft else own.max(1).values
                columns.append(most - cascade.rise(number))
        readings = torch.stack(columns, 1)
        # A block is judged if it or one of the `calm_blocks` before it is above the threshold.
        near = torch.stack(
            [
                readings[:, max(0, number - cascade.calm_blocks) : number + 1].max(1).values
                for number in range(len(self._ends))
            ],
            1,
        )
        alarm = (near - cascade.escalate)[:, self._judged]
        first = (readings - cascade.probe_mean) / cascade.probe_std
        second = (verdicts - cascade.classifier_mean) / cascade.classifier_std
        # Numbers that are missing flag: a stage that fails lets nothing through.
        mixed = (cascade.weight * first + (1 - cascade.weight) * second).nan_to_num(
            math.inf, math.inf, math.inf
        )
        mixed = mixed[:, self._judged]
        score = torch.where(alarm > 0, mixed, -math.inf).max(1).values
        over, above = alarm / cascade.probe_std, mixed - (cascade.flag - cascade.tolerance)
        if not soft:
            return torch.minimum(over, above).max(1).values, score
        lower = -self._soft * torch.logaddexp(-over / self._soft, -above / self._soft)
        return self._smooth(lower), score

    def _verdicts(self, embeds: Tensor, texts: Sequence[Sequence[Message]]) -> Tensor:
        """Return the second stage's logits `[rows, blocks]`."""
        total = torch.zeros(len(embeds), len(self._ends), dtype=torch.float64)
        for voice in self._voices:
            if voice.name in self._readers:
                found = self._readers[voice.name].read(embeds)
            else:
                rows = voice.stage.read_blocks([Exchange(tuple(t)) for t in texts], stride=self._stride)
                found = torch.tensor([row.logits for row in rows], dtype=torch.float64)
            total = total + voice.weight * (found - voice.mean) / voice.std
        return total

    def _smooth(self, values: Tensor) -> Tensor:
        """Return a smooth maximum of each row. It is above the maximum by at most `log(n)` temperatures."""
        return self._soft * torch.logsumexp(values / self._soft, 1)


def _voices(guard: Guard, options: AttackOptions) -> tuple[Voice, ...]:
    """Return the judges that a target needs; a single judge is a voice that changes nothing."""
    second = guard.stages.second
    if options.target == "classifier":
        if guard.classifier is None:
            raise RedTeamError(
                f"guard {guard.record.name} has no exchange classifier; attack the guard or the probe"
            )
        return (Voice("classifier", ClassifierStage(guard.classifier)),)
    if options.target == "probe" or second is None:
        return ()
    return second.voices if isinstance(second, Panel) else (Voice("judge", second),)
