"""The estimate of a build: what it would ask for and read, before it sends a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockgate.assembly._plan import TrainingPlan
from lockgate.assembly._rows import possible_budget
from lockgate.calibration import required_n
from lockgate.constitution import Constitution
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.synthesis import Prices, estimate_tokens
from lockgate.synthesis.factory import (
    COMPLIANT,
    HARMLESS,
    PERMITTED,
    TWIN,
    FactoryPlan,
    SynthesisEstimate,
    estimate_synthesis,
)

# Tokens of a synthetic exchange besides its answer: the question and the turns' frames.
_QUESTION_TOKENS = 40
_ANSWERS = (COMPLIANT, PERMITTED, TWIN, HARMLESS)


@dataclass(frozen=True, slots=True)
class BuildEstimate:
    """Figures of a build in which nothing is refused or dropped.

    Attributes:
        synthesis: the factory's requests and tokens, each as the expected and as the largest number.
        training: number of training exchanges, and their tokens.
        calibration: number of calibration exchanges, and their tokens.
        mining: number of exchanges of the pool, and their tokens.
        prompts: number of distinct prompts for calibration.
        possible: the budget that they support, or None.
        wished: the wished budget.
    """

    synthesis: SynthesisEstimate
    training: tuple[int, int]
    calibration: tuple[int, int]
    mining: tuple[int, int]
    prompts: int
    possible: float | None
    wished: float

    def to_dict(self, prices: Prices | None = None) -> dict[str, Any]:
        """Return the JSON form. The cost of the factory's requests is null without prices."""
        return {
            "synthesis": self.synthesis.to_dict(prices),
            "training": dict(zip(("exchanges", "tokens"), self.training, strict=True)),
            "calibration": dict(zip(("exchanges", "tokens"), self.calibration, strict=True)),
            "mining": dict(zip(("exchanges", "tokens"), self.mining, strict=True)),
            "budget": {
                "possible": self.possible,
                "prompts": self.prompts,
                "wished": self.wished,
                "wished_needs": required_n(self.wished),
            },
        }


def estimate_build(
    constitution: Constitution,
    plan: FactoryPlan,
    training: TrainingPlan,
    *,
    benign: Sequence[Path] = (),
    data: Sequence[Path] = (),
    prompts: Sequence[Path] = (),
    mine: Sequence[Path] = (),
    judge: bool = False,
    judge_rows: Path | None = None,
) -> BuildEstimate:
    """Estimate a build in which nothing is refused or dropped.

    Raises:
        ConfigError, ExchangeError: The build would raise it for these files.
    """
    asked = estimate_synthesis(constitution, plan, seeds=prompts, judge=judge, judge_rows=judge_rows)
    answers = sum(count for name, count in asked.expected.requests_by_purpose.items() if name in _ANSWERS)
    copies = 1 + plan.augmentation.share
    synthetic = int(answers * copies * plan.split["train"])
    each = plan.answers.max_tokens + _QUESTION_TOKENS
    given = [row for path in data for row in read_exchanges(path)]
    traffic = [row for path in benign for row in read_exchanges(path)]
    pool = [row for path in mine for row in read_exchanges(path)]
    groups = {prompt_group(row) for row in traffic}
    trained = min(int(training.benign_share * len(groups)), training.max_benign)
    mean = _tokens(traffic, None) // len(traffic) if traffic else 0
    rows = min(training.max_rows, synthetic + len(given) + trained)
    room = min(len(given), max(0, rows - synthetic - trained))
    own = _tokens(given, training.max_tokens) * room // len(given) if given else 0
    return BuildEstimate(
        synthesis=asked,
        training=(rows, (rows - room - trained) * each + own + trained * min(mean, training.max_tokens)),
        calibration=(len(traffic) - trained, mean * (len(traffic) - trained)),
        mining=(len(pool), _tokens(pool, None)),
        prompts=len(groups) - trained,
        possible=possible_budget(len(groups) - trained, training.budget),
        wished=training.budget,
    )


def _tokens(rows: Sequence[Exchange], most: int | None) -> int:
    counts = (sum(estimate_tokens(message.content) for message in row.messages) for row in rows)
    return sum(count if most is None else min(count, most) for count in counts)
