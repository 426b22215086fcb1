"""An engine with a guard of two stages, and its decisions."""

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from classifying import FaultyVerdicts, tiny_classifier
from logs import decisions_in
from serving import scoring_for

from lockgate.cascade import Cascade, Thresholds
from lockgate.guards import Stages

LOUD = Cascade(-math.inf, math.inf, 0.0)
CALM = Cascade(math.inf, math.inf, 0.0)


@dataclass(frozen=True, eq=False)
class CalmForSome(Stages):
    """Stages whose second one is never asked about some of the conversations."""

    calm: tuple = ()

    def new_state(self, regions, lowered=0.0):
        if regions in self.calm:
            return Stages(self.head, self.thresholds, CALM, self.second).new_state(regions, lowered)
        return Stages(self.head, self.thresholds, self.cascade, self.second).new_state(regions, lowered)


@dataclass(frozen=True, eq=False)
class Faulty:
    """A second stage whose sources of verdicts are kept in `made`, to be put out of order."""

    kind: type
    classifier: object
    made: list = field(default_factory=list)

    def open_verdicts(self, kv_tokens):
        self.made.append(self.kind(self.classifier, kv_tokens))
        return self.made[-1]


def thresholds_of(flag_on="answer", min_tokens=4):
    return Thresholds(math.inf, min_tokens=min_tokens, flag_on=flag_on)


def staged(
    backbone, head, cascade=LOUD, *, flag_on="answer", min_tokens=4, kind=FaultyVerdicts, calm=(),
    judge="verdict",
):  # fmt: skip
    """A guard's share of the engine with two stages; streams of the jobs in `calm` never call the second."""
    second = Faulty(kind, tiny_classifier(backbone.name.removeprefix("tiny-"), judge))
    stages = CalmForSome(head, thresholds_of(flag_on, min_tokens), cascade, second, calm)
    return replace(scoring_for(backbone, head), stages=stages), second.made


def decisions(folder):
    return decisions_in(Path(folder) / "decisions.db")


def until(condition) -> None:
    """Let other threads run until something holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()
