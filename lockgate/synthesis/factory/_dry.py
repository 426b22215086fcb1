"""What a run would ask for, found by running all steps with texts that pass every filter."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from lockgate.constitution import Constitution
from lockgate.exchanges import content_stems
from lockgate.synthesis._blocks import GeneratorSource
from lockgate.synthesis._generic import GenerateBlock
from lockgate.synthesis._pipeline import Pipeline
from lockgate.synthesis._requests import GenerationRequest, Outcome
from lockgate.synthesis._scripted import DryRunGenerator
from lockgate.synthesis._usage import Estimate, Prices
from lockgate.synthesis.factory._bound import bound_synthesis
from lockgate.synthesis.factory._disguise import REWORD
from lockgate.synthesis.factory._judge import Judge, read_judge_rows
from lockgate.synthesis.factory._kit import REFUSED, Kit, role_of
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._source import FROM_FILE, source_rows
from lockgate.synthesis.factory._steps import factory_blocks

_COUNT = re.compile(r"\b(\d+)\b(?=[^\d]*$)")
_BETWEEN = re.compile(r"-----\n(.*)\n-----", re.DOTALL)
_ONSETS, _VOWELS, _CODAS = "bdfgklmnprstvz", "aeiou", "lmnrst"
_ANSWER_WORDS = 40


@dataclass(frozen=True, slots=True)
class SynthesisEstimate:
    """What a run asks for.

    Attributes:
        expected: where nothing is refused, dropped, cached or asked for a second time, by the plan's shares.
        most: at most, with all attempts at a row and all draws of the plan taken. Requests and completion
            tokens are bounds, but for attempts whose reply is lost; prompt tokens are estimated from bytes.
    """

    expected: Estimate
    most: Estimate

    def to_dict(self, prices: Prices | None = None) -> dict[str, Any]:
        """JSON form: the expected figures, and those that are not exceeded under `at_most`."""
        return {**self.expected.to_dict(prices), "at_most": self.most.to_dict(prices)}


class _Recorder(DryRunGenerator):
    """Counts requests, and notes the longest prompt of each purpose, in tokens."""

    def __init__(self) -> None:
        super().__init__(write_stand_in)
        self.longest: dict[str, int] = {}

    def note(self, request: GenerationRequest) -> None:
        """Count a request that has no answer."""
        self.estimate.add(request)
        self._measure(request)

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        for request in requests:
            self._measure(request)
        yield from super().stream(requests)

    def _measure(self, request: GenerationRequest) -> None:
        tokens = request.estimated_prompt_tokens
        self.longest[request.purpose] = max(tokens, self.longest.get(request.purpose, 0))


def estimate_synthesis(
    constitution: Constitution,
    plan: FactoryPlan,
    *,
    seeds: Sequence[str | os.PathLike[str]] = (),
    judge: bool = False,
    judge_rows: str | os.PathLike[str] | None = None,
) -> SynthesisEstimate:
    """Requests and tokens of a run that finds nothing in its cache.

    Args:
        judge: whether a judge reads the rows, `judge_rows` what it is measured on before.

    Raises:
        ConfigError: what `synthesize` would raise for these arguments.
    """
    kit = Kit(constitution, plan)
    generator = _Recorder()
    source = list(source_rows(constitution, plan, seeds))
    with tempfile.TemporaryDirectory() as folder:
        blocks = factory_blocks(kit, GeneratorSource(generator.name, lambda: generator))
        result = Pipeline(blocks, Path(folder)).run(source)
        for number, row in enumerate(result.rows() if judge else ()):
            if role_of(row) != REFUSED and ("augmentations" not in row.meta or REWORD in row.meta):
                generator.note(Judge(kit).ask(row, number))
    most = bound_synthesis(
        kit,
        given=Counter(str(row.category) for row in source if row.meta.get("origin") == FROM_FILE),
        attempts={block.name: block.attempts for block in blocks if isinstance(block, GenerateBlock)},
        prompts=generator.longest,
        judge=judge,
    )
    for number, row in enumerate(read_judge_rows(judge_rows) if judge and judge_rows else ()):
        request = Judge(kit).ask(row, number)
        generator.estimate.add(request)
        most.add(request)
    return SynthesisEstimate(generator.estimate, most)


def write_stand_in(request: GenerationRequest) -> str:
    """A text that the step which asks finds usable: on topic, of words that no other text has."""
    rng = Random(request.key("stand-in"))  # noqa: S311
    asked = next(m.content for m in reversed(request.messages) if m.role == "user")
    if request.purpose in ("questions", "outline"):
        found = _COUNT.search(asked)
        count = int(found.group(1)) if found else 1
        return "\n".join(f"{number}. {_question(asked, rng)}" for number in range(1, count + 1))
    if request.purpose == "twin-question":
        return _question(asked, rng)
    if request.purpose in ("paraphrase", "translation"):
        between = _BETWEEN.search(asked)
        return f"{between.group(1) if between else asked} {_word(rng)}"
    words = [_word(rng) for _ in range(_ANSWER_WORDS)]
    return f"{' '.join(sorted(_topical(asked)))} and the {' '.join(words)} to be."


def _question(asked: str, rng: Random) -> str:
    topical = sorted(_topical(asked))
    chosen = rng.sample(topical, min(8, len(topical)))
    return f"What about {' '.join([*chosen, *(_word(rng) for _ in range(8))])}?"


def _topical(asked: str) -> frozenset[str]:
    stems = content_stems(asked)
    return frozenset(word for word in re.findall(r"[a-z]{3,}", asked.casefold()) if word[:5] in stems)


def _word(rng: Random) -> str:
    syllables = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(2))
    return "".join(syllables)
