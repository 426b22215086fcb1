"""From a constitution to labelled exchanges: the one call that does all of it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lockgate.constitution import Constitution
from lockgate.synthesis._blocks import GeneratorSource
from lockgate.synthesis._engine import Engine
from lockgate.synthesis._pipeline import StepProgress
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._result import SynthesisResult


def synthesize(
    constitution: Constitution,
    generator: GeneratorSource,
    plan: FactoryPlan,
    out: str | Path,
    *,
    engine: Engine | None = None,
    seeds: Sequence[str | os.PathLike[str]] = (),
    evaluation: Sequence[str | os.PathLike[str]] = (),
    judge: GeneratorSource | None = None,
    judge_rows: str | os.PathLike[str] | None = None,
    progress: Callable[[StepProgress], None] | None = None,
) -> SynthesisResult:
    """Make labelled exchanges for a policy. Run again after any end, it goes on where it stopped.

    Args:
        generator: writes questions and answers; its completions are kept in `out`.
        out: folder of the data set, made if it isn't there.
        engine: where batches run (default: here).
        seeds: files of prompts that join the generated questions: exchanges with a `category` of the
            constitution each.
        evaluation: files whose items must not be met in the data.
        judge: a generator that checks labels; it must agree with the hand-labelled `judge_rows` first.
        progress: called after each batch of each step.

    Raises:
        ConfigError: a plan, file or category that doesn't fit the constitution.
        SynthesisError: the run can't go on (generator down, key refused, budget, disk); progress is kept.
    """
    raise NotImplementedError
