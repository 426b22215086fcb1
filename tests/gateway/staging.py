"""An engine whose guard has two stages, and what it has decided."""

import json
import math
import os
import time
from pathlib import Path

from classifying import FaultyVerdicts, tiny_classifier
from serving import REFUSAL, scoring_for

from lockgate.cascade import Cascade, CascadeState, StreamState, Thresholds
from lockgate.gateway import Scoring

LOUD = Cascade(-math.inf, math.inf, 0.0)
CALM = Cascade(math.inf, math.inf, 0.0)


def thresholds_of(flag_on="answer", min_tokens=4):
    return Thresholds(math.inf, min_tokens=min_tokens, flag_on=flag_on)


def staged(
    backbone, head, cascade=LOUD, *, flag_on="answer", min_tokens=4, kind=FaultyVerdicts, calm=(),
    judge="verdict",
):  # fmt: skip
    """A guard's share of the engine with two stages; streams of the jobs in `calm` never call the second."""
    made = []

    def new_state(regions):
        chosen = CALM if regions in calm else cascade
        stream = StreamState(thresholds_of(flag_on, min_tokens), head.gamma, regions, head.category_ids)
        return CascadeState(chosen, stream)

    def second_stage(kv_tokens):
        made.append(kind(tiny_classifier(backbone.name.removeprefix("tiny-"), judge), kv_tokens))
        return made[-1]

    good = scoring_for(backbone, head)
    scoring = Scoring(good.tap, new_state, REFUSAL, good.guard, cascade.escalate, second_stage)
    return scoring, made


def decisions(folder):
    return [json.loads(line) for line in (Path(folder) / "decisions.jsonl").read_text().splitlines()]


def until(condition) -> None:
    """Let other threads run until something holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()
