"""Settings of a white-box attack."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lockgate.errors import ConfigError

Target = Literal["guard", "probe", "classifier"]
Space = Literal["tokens", "embeddings"]


@dataclass(frozen=True, slots=True)
class AttackOptions:
    """What is attacked, where words may stand, and what the attack may cost.

    Attributes:
        target: `guard` is the whole guard as it serves. `probe` is stage 1 alone; with two stages, it passes
            where nothing would be escalated. `classifier` is the exchange classifier alone, at every block.
        space: `tokens` changes words; `embeddings` changes the words' vectors freely, which no text reaches.
        prefix, suffix: words before and after the prompt's own text.
        filler: words in each gap between sentences of the answer.
        gaps: largest number of gaps with filler.
        steps: largest number of steps.
        batch: candidates of a step, in token space.
        swaps: largest number of words that a candidate changes.
        topk: words that are tried in a place: those that the gradient likes best.
        fluency: what a nat per word costs, in units of the margin. 0: any words.
        temperature: logits of the soft maximum through which gradients flow.
        rate: step of the embeddings, as a share of the mean length of a word's vector.
        epsilon: radius of the ball around each word's vector, in mean lengths; None: no ball.
        beyond: a success lies this far below the threshold.
        limit: threshold of the verdict where `target` is `classifier`.
        most_tokens: longest exchange. A pass with gradients takes about 3 MB for each token of a model with
            135 million parameters.
        seconds: time after which no new step begins, for each query; None: no limit. With a limit, results
            depend on the machine.
        seed: seed of all choices.
    """

    target: Target = "guard"
    space: Space = "tokens"
    prefix: int = 0
    suffix: int = 16
    filler: int = 0
    gaps: int = 4
    steps: int = 50
    batch: int = 32
    swaps: int = 3
    topk: int = 64
    fluency: float = 0.0
    temperature: float = 0.25
    rate: float = 0.1
    epsilon: float | None = None
    beyond: float = 0.0
    limit: float = 0.0
    most_tokens: int = 1024
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("target", get_args(Target)), ("space", get_args(Space))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}"
                )
        for name, least in (
            ("prefix", 0),
            ("suffix", 0),
            ("filler", 0),
            ("gaps", 0),
            ("steps", 0),
            ("batch", 1),
            ("swaps", 1),
            ("topk", 1),
            ("most_tokens", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name}: expected a whole number from {least} on, found {getattr(self, name)}"
                )
        if not (0 <= self.fluency < math.inf and 0 <= self.beyond < math.inf and math.isfinite(self.limit)):
            raise ConfigError("fluency, beyond, limit: expected finite numbers; the first two from 0 on")
        positive = (self.temperature, self.rate, self.epsilon, self.seconds)
        if not all(value is None or 0 < value < math.inf for value in positive):
            raise ConfigError("temperature, rate, epsilon, seconds: expected finite numbers above 0")
