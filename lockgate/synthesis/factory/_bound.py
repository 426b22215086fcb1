"""What a run asks for at most: every draw of the plan taken, and every row asked for as often as it may be.

The twin of `_dry.py`, which draws as a run draws. Requests and completion tokens are bounds. A prompt's
tokens are estimated from its bytes: as the longest of its kind in the dry run, with the generated text in it
at full length.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lockgate.synthesis._usage import Estimate
from lockgate.synthesis.augmentations import REWORDED_TOKENS
from lockgate.synthesis.factory._kit import (
    ATTACK,
    COMPLIANT,
    DIALOGUE,
    HARMLESS,
    PERMITTED,
    REFUSED,
    TWIN,
    Kit,
)
from lockgate.synthesis.factory._questions import ASK_STEP, TWIN_TOKENS
from lockgate.synthesis.factory._source import count_lists
from lockgate.synthesis.factory._steps import ANSWER_STEP
from lockgate.synthesis.factory._tasks import TaskPlanner

_ANSWERED = (COMPLIANT, PERMITTED, TWIN, HARMLESS)
# A twin is one of a pair, and pairs are never copied.
_COPIED = (COMPLIANT, PERMITTED, HARMLESS)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Requests of one kind. `length`: tokens of a completion; `held`: of generated text in a prompt."""

    purpose: str
    count: int
    length: int
    held: int = 0


def bound_synthesis(
    kit: Kit,
    *,
    given: Mapping[str, int],
    attempts: Mapping[str, int],
    prompts: Mapping[str, int],
    judge: bool = False,
) -> Estimate:
    """At most so many requests and tokens, but for the rows that a judge is measured on.

    Args:
        given: prompts of the user by entry.
        attempts: of the steps that ask, by name.
        prompts: tokens of the longest prompt by purpose.
    """
    tasks = _count_tasks(kit, given)
    asked = [*_questions(kit, tasks, attempts), *_answers(kit, tasks, attempts), *_dialogues(kit, tasks)]
    asked += _copies(kit, tasks)
    if judge:
        asked += _judged(kit, tasks)
    longest = max(prompts.values(), default=0)
    estimate = Estimate()
    for part in asked:
        prompt = prompts.get(part.purpose, longest) + part.held
        estimate.add_alike(part.purpose, part.count, prompt, part.length)
    return estimate


def _count_tasks(kit: Kit, given: Mapping[str, int]) -> dict[str, int]:
    planner = TaskPlanner(kit)
    tasks = dict.fromkeys((*_ANSWERED, REFUSED, ATTACK, DIALOGUE), 0)
    for name, topic in kit.topics.items():
        # All prompts of the user are kept, however many are wanted.
        questions = max(kit.questions[name], given.get(name, 0))
        for role, count in planner.most(topic).items():
            tasks[role] += questions * count
    return tasks


def _questions(kit: Kit, tasks: Mapping[str, int], attempts: Mapping[str, int]) -> list[_Asked]:
    queries = kit.plan.queries
    lists = sum(count_lists(count, kit.plan) for count in kit.questions.values())
    twins = tasks[TWIN] if kit.plan.pairs.generated else 0
    return [
        _Asked(ASK_STEP, lists * attempts[ASK_STEP], queries.max_tokens),
        _Asked("twin-question", twins, TWIN_TOKENS, queries.max_tokens),
    ]


def _answers(kit: Kit, tasks: Mapping[str, int], attempts: Mapping[str, int]) -> list[_Asked]:
    length, times = kit.plan.answers.max_tokens, attempts[ANSWER_STEP]
    return [_Asked(role, tasks[role] * times, length, _question(kit)) for role in _ANSWERED]


def _dialogues(kit: Kit, tasks: Mapping[str, int]) -> list[_Asked]:
    count, plan = tasks[ATTACK] + tasks[DIALOGUE], kit.plan
    stages, question = plan.red_team.stages, _question(kit)
    said = question + plan.red_team.max_tokens + _talk(kit)
    return [
        _Asked("outline", count, plan.red_team.max_tokens, question),
        _Asked("turn", count * stages, plan.red_team.max_tokens, said),
        _Asked("reply", count * stages, plan.answers.max_tokens, said),
        _Asked("reference", count, plan.answers.max_tokens, question),
    ]


def _copies(kit: Kit, tasks: Mapping[str, int]) -> list[_Asked]:
    rows = sum(tasks[role] for role in _COPIED)
    return [
        _Asked(family, rows, REWORDED_TOKENS, held)
        for family in _rewordings(kit)
        for held in (_question(kit), kit.plan.answers.max_tokens)
    ]


def _judged(kit: Kit, tasks: Mapping[str, int]) -> list[_Asked]:
    length, question = kit.plan.judge.max_tokens, _question(kit)
    plain = sum(tasks[role] for role in _ANSWERED)
    copies = sum(tasks[role] for role in _COPIED) * len(_rewordings(kit))
    return [
        _Asked("judge", plain, length, question + kit.plan.answers.max_tokens),
        _Asked("judge", tasks[ATTACK] + tasks[DIALOGUE], length, _talk(kit)),
        _Asked("judge", copies, length, 2 * REWORDED_TOKENS),
    ]


def _rewordings(kit: Kit) -> list[str]:
    plan = kit.plan.augmentation
    shares = {"paraphrase": plan.paraphrase_share, "translation": plan.translation_share}
    return [name for name, share in shares.items() if share]


def _question(kit: Kit) -> int:
    return max(kit.plan.queries.max_tokens, TWIN_TOKENS)


def _talk(kit: Kit) -> int:
    return kit.plan.red_team.stages * (kit.plan.red_team.max_tokens + kit.plan.answers.max_tokens)
