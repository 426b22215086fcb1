"""The steps of the factory, in their order."""

from collections.abc import Sequence
from dataclasses import replace

from lockgate.curation import EvaluationIndex
from lockgate.exchanges import prompt_group
from lockgate.synthesis._generic import DedupStep, FilterStep, GenerateStep, MapStep, SplitStep
from lockgate.synthesis._rows import Row, row_id
from lockgate.synthesis._step import GeneratorSource, Step
from lockgate.synthesis.factory import _prompts
from lockgate.synthesis.factory._answers import AnswerWriter
from lockgate.synthesis.factory._brief import Brief
from lockgate.synthesis.factory._checks import LeakCheck, QualityCheck, QuestionCheck
from lockgate.synthesis.factory._disguise import DisguiseStep, RewordedCheck, Reworder
from lockgate.synthesis.factory._judge import Judge
from lockgate.synthesis.factory._questions import ASK_STEP, QuestionWriter, TwinWriter
from lockgate.synthesis.factory._redteam import red_team_steps
from lockgate.synthesis.factory._roles import REFUSED, answer_of, context_of, question_of, role_of
from lockgate.synthesis.factory._selection import BalanceStep, ChooseStep, WholePairsStep
from lockgate.synthesis.factory._tasks import STEP as TASK_STEP
from lockgate.synthesis.factory._tasks import TaskPlanner

ANSWER_STEP = "answers"
QUESTION_GROUP = "question_group"


def factory_steps(
    brief: Brief,
    generator: GeneratorSource,
    *,
    evaluation: EvaluationIndex | None = None,
    evaluation_sha256: Sequence[str] = (),
    judge: GeneratorSource | None = None,
) -> list[Step]:
    """Return the steps from source rows to the exchanges of a data set, as the plan needs them."""

    def leaks(name: str) -> list[Step]:
        return _leaks(name, evaluation, evaluation_sha256)

    steps = [*_question_steps(brief, generator), *leaks("question-leaks")]
    steps += [
        DedupStep(
            "question-duplicates",
            question_of,
            threshold=brief.plan.filters.duplicate_threshold,
            apart=context_of,
            note=QUESTION_GROUP,
        ),
        ChooseStep(
            "choose",
            brief.questions,
            composed_share=brief.plan.queries.composed_share,
            seed=brief.plan.seed,
        ),
        *_task_steps(brief, generator),
        *leaks("leaks"),
    ]
    if judge is not None:
        steps.append(_judging(brief, judge, "judge"))
    steps.append(
        DedupStep(
            "duplicates",
            exchange_text,
            threshold=brief.plan.filters.duplicate_threshold,
            apart=refused_context,
        )
    )
    if brief.plan.red_team.share:
        steps.append(BalanceStep("red-team-balance", brief.plan.red_team.share))
    steps += [
        WholePairsStep("pairs"),
        SplitStep("split", split_keys, brief.plan.split, seed=brief.plan.seed),
        DisguiseStep("disguises", brief),
        *leaks("disguise-leaks"),
        WholePairsStep("disguised-pairs"),
    ]
    if rewording := _reword_steps(brief, generator):
        steps += [*rewording, *leaks("reworded-leaks")]
        if judge is not None:
            steps.append(_judging(brief, judge, "reworded-judge"))
    return steps


def exchange_text(row: Row) -> str:
    """Return the text that duplicates are found by. Refusals are all alike, so there it is the question."""
    question = question_of(row)
    return f"refused {question}" if role_of(row) == REFUSED else f"{question}\n{answer_of(row)}"


def refused_context(row: Row) -> str:
    """Return the turns before a refused question. Otherwise dialogues that end alike would count as one."""
    return context_of(row) if role_of(row) == REFUSED else ""


def split_keys(row: Row) -> list[str]:
    """Return the group keys of a row for the split.

    These rows stay together: exchanges of one question, equal prompts, questions about one phrase, and rows
    that differ only in their earlier turns.
    """
    keys = [f"prompt/{prompt_group(row)}", f"question/{row.meta['asked']}"]
    keys.append(f"{QUESTION_GROUP}/{row.meta[QUESTION_GROUP]}")
    if "phrase" in row.meta:
        keys.append(f"phrase/{row.meta['asked_for']}/{row.meta['phrase']}")
    return keys


def mark_question(row: Row, seed: int) -> Row:
    """Return the row with its own id as its question's name, which derived rows keep."""
    return replace(row, meta={**row.meta, "asked": row_id(row)})


def _question_steps(brief: Brief, generator: GeneratorSource) -> list[Step]:
    writer = QuestionWriter(brief)
    return [
        GenerateStep(
            ASK_STEP,
            generator,
            request=writer.request,
            parse=writer.parse,
            attempts=2,
            batch_rows=brief.plan.batch_rows,
            config={**brief.config("queries"), "prompts": _prompts.VERSION},
        ),
        FilterStep("question-topics", QuestionCheck(brief), config=brief.config("filters")),
        MapStep("question-names", mark_question),
    ]


def _task_steps(brief: Brief, generator: GeneratorSource) -> list[Step]:
    twins, answers, plan = TwinWriter(brief), AnswerWriter(brief), brief.plan
    words = {"prompts": _prompts.VERSION}
    return [
        MapStep(
            TASK_STEP,
            TaskPlanner(brief),
            config={
                **brief.config("answers", "pairs", "red_team", "augmentation"),
                "counts": brief.questions,
            },
        ),
        MapStep("composed-twins", twins.compose_some, config={**brief.config("pairs"), **words}),
        GenerateStep(
            "generated-twins",
            generator,
            request=twins.request,
            parse=twins.parse,
            otherwise=twins.compose,
            batch_rows=plan.batch_rows,
            config={**brief.config("queries"), **words},
        ),
        *red_team_steps(brief, generator),
        GenerateStep(
            ANSWER_STEP,
            generator,
            request=answers.request,
            parse=answers.parse,
            attempts=plan.answers.attempts,
            batch_rows=plan.batch_rows,
            config={**brief.config("answers", "filters"), **words},
        ),
        FilterStep("quality", QualityCheck(brief), config=brief.config("filters")),
    ]


def _reword_steps(brief: Brief, generator: GeneratorSource) -> list[Step]:
    plan, reworder = brief.plan, Reworder(brief)
    if not plan.augmentation.paraphrase_share and not plan.augmentation.translation_share:
        return []
    config = brief.config("augmentation", "filters")
    steps: list[Step] = [MapStep("copies", reworder.copy, config=config)]
    for name, request, parse in (
        ("reworded-requests", reworder.request, reworder.parse),
        ("reworded-answers", reworder.request_answer, reworder.parse_answer),
    ):
        steps.append(
            GenerateStep(
                name,
                generator,
                request=request,
                parse=parse,
                allow_cut=False,
                config=config,
                batch_rows=plan.batch_rows,
            )
        )
    return [*steps, FilterStep("reworded-quality", RewordedCheck(brief), config=brief.config("filters"))]


def _leaks(name: str, index: EvaluationIndex | None, sha256: Sequence[str]) -> list[Step]:
    if index is None:
        return []
    return [FilterStep(name, LeakCheck(index), config={"evaluation": list(sha256)})]


def _judging(brief: Brief, judge: GeneratorSource, name: str) -> Step:
    asker = Judge(brief)
    return GenerateStep(
        name,
        judge,
        request=asker.request if name == "judge" else asker.request_reworded,
        parse=asker.parse,
        batch_rows=brief.plan.batch_rows,
        config=brief.config("judge"),
    )
