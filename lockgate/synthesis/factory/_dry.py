"""What a run would ask for, found by running all steps with texts that pass every filter: an upper figure."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from lockgate.constitution import Constitution
from lockgate.exchanges import content_stems
from lockgate.synthesis._blocks import GeneratorSource
from lockgate.synthesis._pipeline import Pipeline
from lockgate.synthesis._requests import GenerationRequest
from lockgate.synthesis._scripted import DryRunGenerator
from lockgate.synthesis._usage import Estimate
from lockgate.synthesis.factory._disguise import REWORD
from lockgate.synthesis.factory._judge import Judge
from lockgate.synthesis.factory._kit import REFUSED, Kit, role_of
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._source import source_rows
from lockgate.synthesis.factory._steps import factory_blocks

_COUNT = re.compile(r"\b(\d+)\b(?=[^\d]*$)")
_BETWEEN = re.compile(r"-----\n(.*)\n-----", re.DOTALL)
_ONSETS, _VOWELS, _CODAS = "bdfgklmnprstvz", "aeiou", "lmnrst"
_ANSWER_WORDS = 40


def estimate_synthesis(
    constitution: Constitution,
    plan: FactoryPlan,
    *,
    seeds: Sequence[str | os.PathLike[str]] = (),
    judge: bool = False,
) -> Estimate:
    """Requests and tokens of a run in which nothing is refused, cached or dropped.

    Raises:
        ConfigError: what `synthesize` would raise for these arguments.
    """
    kit = Kit(constitution, plan)
    generator = DryRunGenerator(write_stand_in)
    with tempfile.TemporaryDirectory() as folder:
        blocks = factory_blocks(kit, GeneratorSource(generator.name, lambda: generator))
        result = Pipeline(blocks, Path(folder)).run(source_rows(constitution, plan, seeds))
        for number, row in enumerate(result.rows() if judge else ()):
            if role_of(row) != REFUSED and ("augmentations" not in row.meta or REWORD in row.meta):
                generator.estimate.add(Judge(kit).ask(row, number))
    return generator.estimate


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
