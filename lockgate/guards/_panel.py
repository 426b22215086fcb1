"""A second stage of several voices: one logit from a weighted sum of standardised verdicts."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import tee
from typing import TYPE_CHECKING, Any

from lockgate.backbones import Backbone, RenderedChat
from lockgate.classifiers import BlockScores, ExchangeClassifier
from lockgate.classifiers.text import TextBaseline
from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange
from lockgate.guards._record import VoiceRecord
from lockgate.guards._text_stage import TextStage
from lockgate.guards._verdicts import ClassifierStage, SecondStage, VerdictSession, VerdictSource

if TYPE_CHECKING:
    from lockgate.judges import Judge


@dataclass(frozen=True, slots=True)
class Voice:
    """One judge of a panel.

    Attributes:
        name: its name in errors, records and traces.
        stage: the judge.
        mean, std: its logits are standardised with these.
        weight: its weight in the sum.

    Raises:
        ConfigError: a number is not finite, the standard deviation is not positive or the weight is negative.
    """

    name: str
    stage: SecondStage
    mean: float = 0.0
    std: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(f"voice {self.name}: expected a finite mean and a standard deviation above 0")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(
                f"voice {self.name}: weight: expected a finite number >= 0, found {self.weight}"
            )


def mix(voices: Sequence[Voice], logits: Sequence[float]) -> float:
    """Return the panel's logit: the sum of `weight * (logit - mean) / std`.

    Infinite if a voice has failed, whatever its weight, so that the stream is flagged.
    """
    if not all(map(math.isfinite, logits)):
        return math.inf
    return sum(
        voice.weight * (logit - voice.mean) / voice.std for voice, logit in zip(voices, logits, strict=True)
    )


class PanelSession:
    """One conversation before all voices."""

    def __init__(self, members: Sequence[VerdictSession]) -> None:
        self.members = tuple(members)
        self.costs = [0] * len(self.members)  # of the newest verdict

    @property
    def length(self) -> int:
        """Conversation tokens known so far."""
        return self.members[0].length

    def cost(self, new_tokens: int) -> int:
        """Return the number of tokens that all voices together will read."""
        return sum(member.cost(new_tokens) for member in self.members)

    def close(self) -> None:
        """Give the memory of all voices back, even if one of them fails."""
        _close(self.members)


class PanelVerdicts:
    """The verdicts of a panel, as a `VerdictSource`."""

    def __init__(self, voices: Sequence[Voice], sources: Sequence[VerdictSource]) -> None:
        self._voices, self._sources = voices, sources

    @property
    def reads_in_pieces(self) -> bool:
        """Whether all voices can read a prompt in pieces."""
        return all(source.reads_in_pieces for source in self._sources)

    def open(self, chat: RenderedChat, capacity: int) -> PanelSession:
        """Open a session of each voice, or of none if one of them fails."""
        with ExitStack() as stack:
            members = []
            for source in self._sources:
                members.append(source.open(chat, capacity))
                stack.callback(members[-1].close)
            stack.pop_all()
        return PanelSession(members)

    def judge(self, asks: Sequence[tuple[PanelSession, Sequence[int]]]) -> list[float]:
        """Return the panel's logits after the new tokens of some conversations."""
        for session, token_ids in asks:
            session.costs = [member.cost(len(token_ids)) for member in session.members]
        columns = [
            source.judge([(session.members[index], token_ids) for session, token_ids in asks])
            for index, source in enumerate(self._sources)
        ]
        return [mix(self._voices, logits) for logits in zip(*columns, strict=True)]

    def flops(self, session: PanelSession, cost: int) -> float:
        """Return the FLOPs of all voices for the newest verdict."""
        parts = zip(self._sources, session.members, session.costs, strict=True)
        return sum(source.flops(member, own) for source, member, own in parts)

    def close(self) -> None:
        """Close all sources, even if one of them fails."""
        _close(self._sources)


@dataclass(frozen=True, slots=True)
class Panel:
    """A second stage that mixes several.

    Raises:
        ConfigError: there is no voice, two have one name, or all weights are 0.
    """

    voices: tuple[Voice, ...]

    def __post_init__(self) -> None:
        names = [voice.name for voice in self.voices]
        if len(set(names)) < len(names):
            raise ConfigError(f"voices: two have the same name among {', '.join(names)}")
        if not any(voice.weight for voice in self.voices):
            raise ConfigError("voices: expected at least one with a weight above 0")

    def open_verdicts(self, kv_tokens: int) -> PanelVerdicts:
        """Open a source of each voice. Each gets memory for `kv_tokens` tokens."""
        with ExitStack() as stack:
            sources: list[VerdictSource] = []
            for voice in self.voices:
                sources.append(voice.stage.open_verdicts(kv_tokens))
                stack.callback(sources[-1].close)
            stack.pop_all()
        return PanelVerdicts(self.voices, sources)

    def read_blocks(self, exchanges: Iterable[Exchange], *, stride: int) -> Iterator[BlockScores]:
        """Judge whole exchanges at the end of every block, in input order.

        Raises:
            ConfigError: the voices judge different blocks.
        """
        copies = tee(exchanges, len(self.voices))
        readings = (
            voice.stage.read_blocks(copy, stride=stride)
            for voice, copy in zip(self.voices, copies, strict=True)
        )
        for row in zip(*readings, strict=True):
            yield self._mixed(row)

    def _mixed(self, row: Sequence[BlockScores]) -> BlockScores:
        first = row[0]
        if any(scores.ends != first.ends for scores in row):
            raise ConfigError(f"exchange {first.number}: the voices judge different blocks")
        logits = zip(*(scores.logits for scores in row), strict=True)
        return BlockScores(
            first.number,
            first.exchange,
            first.ends,
            [mix(self.voices, block) for block in logits],
            sum(scores.tokens for scores in row),
            sum(scores.flops for scores in row),
            sum(scores.cpu_s for scores in row),
            {voice.name: scores.logits for voice, scores in zip(self.voices, row, strict=True)},
        )


def second_stage(
    backbone: Backbone,
    classifier: ExchangeClassifier | None,
    text: TextBaseline | None,
    voices: Sequence[VoiceRecord] | None,
    judge: "Judge | None" = None,
) -> SecondStage | None:
    """Make the second stage of a guard from its judges and their voices. None: there is no judge."""
    if judge is not None:
        from lockgate.judges import JudgeStage

        return JudgeStage(judge, backbone)
    judges: dict[str, SecondStage] = {}
    if classifier is not None:
        judges["classifier"] = ClassifierStage(classifier)
    if text is not None:
        judges["text"] = TextStage(text, backbone)
    if voices is None:
        return next(iter(judges.values()), None)
    return Panel(
        tuple(Voice(voice.kind, judges[voice.kind], voice.mean, voice.std, voice.weight) for voice in voices)
    )


def _close(parts: Sequence[Any]) -> None:
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.close)
