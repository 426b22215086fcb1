"""The estimate of a run: the expected requests and tokens, and an upper bound.

The expected figures come from a run of all steps with texts that pass every filter. The bound takes every
draw of the plan and every attempt. Its requests and completion tokens are true bounds. Its prompt tokens are
estimated from bytes: each prompt counts as the longest of its kind in the first run, with generated text at
full length.
"""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from lockgate.constitution import Constitution
from lockgate.curation import content_stems
from lockgate.synthesis._generic import GenerateStep
from lockgate.synthesis._pipeline import Pipeline
from lockgate.synthesis._requests import GenerationRequest, Outcome
from lockgate.synthesis._scripted import DryRunGenerator
from lockgate.synthesis._step import GeneratorSource
from lockgate.synthesis._usage import Estimate, Prices
from lockgate.synthesis.augmentations import REWORDED_TOKENS
from lockgate.synthesis.factory._brief import Brief, count_lists
from lockgate.synthesis.factory._disguise import REWORD
from lockgate.synthesis.factory._judge import Judge, read_judge_rows
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._questions import ASK_STEP, TWIN_TOKENS, source_rows
from lockgate.synthesis.factory._roles import (
    ATTACK,
    COMPLIANT,
    DIALOGUE,
    FROM_FILE,
    HARMLESS,
    PERMITTED,
    REFUSED,
    TWIN,
    role_of,
)
from lockgate.synthesis.factory._steps import ANSWER_STEP, factory_steps
from lockgate.synthesis.factory._tasks import TaskPlanner

_COUNT = re.compile(r"\b(\d+)\b(?=[^\d]*$)")
_BETWEEN = re.compile(r"-----\n(.*)\n-----", re.DOTALL)
_ONSETS, _VOWELS, _CODAS = "bdfgklmnprstvz", "aeiou", "lmnrst"
_ANSWER_WORDS = 40
_ANSWERED = (COMPLIANT, PERMITTED, TWIN, HARMLESS)
# Twins belong to pairs, and pairs are never copied.
_COPIED = (COMPLIANT, PERMITTED, HARMLESS)


@dataclass(frozen=True, slots=True)
class SynthesisEstimate:
    """Requests and tokens of a run.

    Attributes:
        expected: figures by the plan's shares, if nothing is refused, dropped, cached or asked for twice.
        most: upper figures, with all draws of the plan and all attempts. Requests and completion tokens are
            bounds, apart from lost replies. Prompt tokens are estimated from bytes.
    """

    expected: Estimate
    most: Estimate

    def to_dict(self, prices: Prices | None = None) -> dict[str, Any]:
        """Return the JSON form: the expected figures, and the upper figures under `at_most`."""
        return {**self.expected.to_dict(prices), "at_most": self.most.to_dict(prices)}


class _Recorder(DryRunGenerator):
    """A generator that counts requests and keeps the length of the longest prompt by purpose, in tokens."""

    def __init__(self) -> None:
        super().__init__(write_stand_in)
        self.longest: dict[str, int] = {}

    def note(self, request: GenerationRequest) -> None:
        """Count a request and its prompt's length."""
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
    """Estimate the requests and tokens of a run with an empty cache.

    Args:
        constitution: the policy.
        plan: the plan of the data set.
        seeds: files of the user's prompts.
        judge: whether a judge reads the rows.
        judge_rows: file of hand-labelled rows that the judge is measured on.

    Raises:
        ConfigError: `synthesize` would raise it for these arguments.
    """
    brief = Brief(constitution, plan)
    generator = _Recorder()
    source = list(source_rows(constitution, plan, seeds))
    with tempfile.TemporaryDirectory() as folder:
        steps = factory_steps(brief, GeneratorSource(generator.name, lambda: generator))
        result = Pipeline(steps, Path(folder)).run(source)
        for number, row in enumerate(result.rows() if judge else ()):
            if role_of(row) != REFUSED and ("augmentations" not in row.meta or REWORD in row.meta):
                generator.note(Judge(brief).ask(row, number))
    most = bound_synthesis(
        brief,
        given=Counter(str(row.category) for row in source if row.meta.get("origin") == FROM_FILE),
        attempts={step.name: step.attempts for step in steps if isinstance(step, GenerateStep)},
        prompts=generator.longest,
        judge=judge,
    )
    for number, row in enumerate(read_judge_rows(judge_rows) if judge and judge_rows else ()):
        request = Judge(brief).ask(row, number)
        generator.estimate.add(request)
        most.add(request)
    return SynthesisEstimate(generator.estimate, most)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Requests of one kind. `length`: tokens of a completion. `held`: generated tokens in a prompt."""

    purpose: str
    count: int
    length: int
    held: int = 0


def bound_synthesis(
    brief: Brief,
    *,
    given: Mapping[str, int],
    attempts: Mapping[str, int],
    prompts: Mapping[str, int],
    judge: bool = False,
) -> Estimate:
    """Return the upper bound of requests and tokens, without the rows that a judge is measured on.

    Args:
        brief: policy and plan.
        given: number of the user's prompts by entry.
        attempts: attempts of the generating steps, by name.
        prompts: tokens of the longest prompt, by purpose.
        judge: whether a judge reads the rows.
    """
    tasks = _count_tasks(brief, given)
    asked = [
        *_questions(brief, tasks, attempts),
        *_answers(brief, tasks, attempts),
        *_dialogues(brief, tasks),
    ]
    asked += _copies(brief, tasks)
    if judge:
        asked += _judged(brief, tasks)
    longest = max(prompts.values(), default=0)
    estimate = Estimate()
    for part in asked:
        prompt = prompts.get(part.purpose, longest) + part.held
        estimate.add_alike(part.purpose, part.count, prompt, part.length)
    return estimate


def _count_tasks(brief: Brief, given: Mapping[str, int]) -> dict[str, int]:
    planner = TaskPlanner(brief)
    tasks = dict.fromkeys((*_ANSWERED, REFUSED, ATTACK, DIALOGUE), 0)
    for name, topic in brief.topics.items():
        # All prompts of the user are kept, even above the plan's number.
        questions = max(brief.questions[name], given.get(name, 0))
        for role, count in planner.most(topic).items():
            tasks[role] += questions * count
    return tasks


def _questions(brief: Brief, tasks: Mapping[str, int], attempts: Mapping[str, int]) -> list[_Asked]:
    queries = brief.plan.queries
    lists = sum(count_lists(count, brief.plan) for count in brief.questions.values())
    twins = tasks[TWIN] if brief.plan.pairs.generated else 0
    return [
        _Asked(ASK_STEP, lists * attempts[ASK_STEP], queries.max_tokens),
        _Asked("twin-question", twins, TWIN_TOKENS, queries.max_tokens),
    ]


def _answers(brief: Brief, tasks: Mapping[str, int], attempts: Mapping[str, int]) -> list[_Asked]:
    length, times = brief.plan.answers.max_tokens, attempts[ANSWER_STEP]
    return [_Asked(role, tasks[role] * times, length, _question(brief)) for role in _ANSWERED]


def _dialogues(brief: Brief, tasks: Mapping[str, int]) -> list[_Asked]:
    count, plan = tasks[ATTACK] + tasks[DIALOGUE], brief.plan
    stages, question = plan.red_team.stages, _question(brief)
    said = question + plan.red_team.max_tokens + _talk(brief)
    return [
        _Asked("outline", count, plan.red_team.max_tokens, question),
        _Asked("turn", count * stages, plan.red_team.max_tokens, said),
        _Asked("reply", count * stages, plan.answers.max_tokens, said),
        _Asked("reference", count, plan.answers.max_tokens, question),
    ]


def _copies(brief: Brief, tasks: Mapping[str, int]) -> list[_Asked]:
    rows = sum(tasks[role] for role in _COPIED)
    return [
        _Asked(family, rows, REWORDED_TOKENS, held)
        for family in _rewordings(brief)
        for held in (_question(brief), brief.plan.answers.max_tokens)
    ]


def _judged(brief: Brief, tasks: Mapping[str, int]) -> list[_Asked]:
    length, question = brief.plan.judge.max_tokens, _question(brief)
    plain = sum(tasks[role] for role in _ANSWERED)
    copies = sum(tasks[role] for role in _COPIED) * len(_rewordings(brief))
    return [
        _Asked("judge", plain, length, question + brief.plan.answers.max_tokens),
        _Asked("judge", tasks[ATTACK] + tasks[DIALOGUE], length, _talk(brief)),
        _Asked("judge", copies, length, 2 * REWORDED_TOKENS),
    ]


def _rewordings(brief: Brief) -> list[str]:
    plan = brief.plan.augmentation
    shares = {"paraphrase": plan.paraphrase_share, "translation": plan.translation_share}
    return [name for name, share in shares.items() if share]


def _question(brief: Brief) -> int:
    return max(brief.plan.queries.max_tokens, TWIN_TOKENS)


def _talk(brief: Brief) -> int:
    return brief.plan.red_team.stages * (brief.plan.red_team.max_tokens + brief.plan.answers.max_tokens)


def write_stand_in(request: GenerationRequest) -> str:
    """Return a text that the requesting step accepts: on topic, with words that no other text has."""
    rng = Random(request.key("stand-in"))  # noqa: S311
    asked = next(m.content for m in reversed(request.messages) if m.role == "user")
    if request.purpose in ("questions", "outline"):
        found = _COUNT.search(asked)
        count = int(found.group(1)) if found else 1
        return "\n".join(f"{number}. {_stand_in_question(asked, rng)}" for number in range(1, count + 1))
    if request.purpose == "twin-question":
        return _stand_in_question(asked, rng)
    if request.purpose in ("paraphrase", "translation"):
        between = _BETWEEN.search(asked)
        return f"{between.group(1) if between else asked} {_word(rng)}"
    words = [_word(rng) for _ in range(_ANSWER_WORDS)]
    return f"{' '.join(sorted(_topical(asked)))} and the {' '.join(words)} to be."


def _stand_in_question(asked: str, rng: Random) -> str:
    topical = sorted(_topical(asked))
    chosen = rng.sample(topical, min(8, len(topical)))
    return f"What about {' '.join([*chosen, *(_word(rng) for _ in range(8))])}?"


def _topical(asked: str) -> frozenset[str]:
    stems = content_stems(asked)
    return frozenset(word for word in re.findall(r"[a-z]{3,}", asked.casefold()) if word[:5] in stems)


def _word(rng: Random) -> str:
    syllables = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(2))
    return "".join(syllables)
