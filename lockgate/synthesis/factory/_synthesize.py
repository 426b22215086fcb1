"""The call that turns a constitution into labelled exchanges, and the files that it leaves."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lockgate.constitution import Constitution, dump_constitution
from lockgate.curation import EvaluationIndex
from lockgate.durable import file_sha256, open_atomic
from lockgate.errors import ConfigError, SynthesisError
from lockgate.exchanges import Exchange, read_exchanges, write_exchanges
from lockgate.synthesis._cache import CachedGenerator, RequestCache
from lockgate.synthesis._executors import Executor
from lockgate.synthesis._pipeline import Pipeline, PipelineResult, StepProgress, room_on
from lockgate.synthesis._requests import Generator
from lockgate.synthesis._rows import PARENT, STEPS, Row
from lockgate.synthesis._step import GeneratorSource
from lockgate.synthesis.factory._brief import Brief
from lockgate.synthesis.factory._card import Origins, build_card, write_readme
from lockgate.synthesis.factory._judge import Judge, JudgeReport, read_judge_rows
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._questions import source_rows
from lockgate.synthesis.factory._steps import QUESTION_GROUP, factory_steps

EXCHANGES, CARD, WORK = "exchanges.jsonl", "card.json", "work"
# Notes between steps, which no reader needs.
_WORKING = (
    PARENT, STEPS, QUESTION_GROUP, "number", "focus", "take", "asked", "duplicate_group", "judged",
)  # fmt: skip
_SHOWN_REASONS = 5

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    """A finished data set.

    Attributes:
        folder: holds `exchanges.jsonl`, `card.json`, `README.md`, `plan.yaml` and `constitution.yaml`;
            `work/` keeps every step's rows, those it dropped, and the generator's answers.
        exchanges: all rows; `meta.split` names the part of each, `train` among them.
        card: contents of `card.json`; it holds no text of any row.
        warnings: facts that the user should know, such as a category that the generator doesn't write about.
    """

    folder: Path
    exchanges: Path
    card: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def rows(self, part: str | None = None) -> Iterator[Exchange]:
        """Yield the exchanges of a part (default: all), read from disk."""
        for row in read_exchanges(self.exchanges):
            if part is None or row.meta.get("split") == part:
                yield row


def synthesize(
    constitution: Constitution,
    generator: GeneratorSource,
    plan: FactoryPlan,
    out: str | Path,
    *,
    executor: Executor | None = None,
    seeds: Sequence[PathLike] = (),
    evaluation: Sequence[PathLike] = (),
    judge: GeneratorSource | None = None,
    judge_rows: PathLike | None = None,
    progress: Callable[[StepProgress], None] | None = None,
) -> SynthesisResult:
    """Make labelled exchanges for a policy. After any interruption, call it again: it goes on.

    Args:
        constitution: the policy.
        generator: writes questions and answers. Its completions are kept in `out`.
        plan: the plan of the data set.
        out: folder of the data set; made if it is missing.
        executor: where batches run (default: in this process).
        seeds: files of prompts that join the generated questions. Each prompt has a `category` of the
            constitution.
        evaluation: files of evaluation items. Rows that match an item are dropped.
        judge: a generator that checks labels.
        judge_rows: hand-labelled rows that the judge must agree with first.
        progress: called after each batch of each step.

    Raises:
        ConfigError: A plan, file or category doesn't fit the constitution, or `out` holds something else.
        SynthesisError: The run can't go on (generator down, key refused, budget used up, disk full, the judge
            doesn't agree, no harmful exchange left). Finished work is kept.
    """
    brief = Brief(constitution, plan)
    folder = _prepare(Path(out), judge, judge_rows)
    cached = _cached(generator, folder)
    judging = None if judge is None else _cached(judge, folder)
    try:
        with room_on(folder):
            index = EvaluationIndex.from_files(evaluation) if evaluation else None
            guarded = [_describe(path) for path in evaluation]
            given = [_describe(path) for path in seeds]
            report = _trust(brief, judging, judge_rows)
            steps = factory_steps(
                brief,
                cached,
                evaluation=index,
                evaluation_sha256=[str(file["sha256"]) for file in guarded],
                judge=judging,
            )
            pipeline = Pipeline(steps, folder / WORK / "steps", executor=executor, progress=progress)
            result = pipeline.run(source_rows(constitution, plan, seeds))
            origins = Origins(
                generator.name,
                None if report is None else report.to_dict(),
                given,
                guarded,
            )
            return _finish(brief, folder, result, origins)
    finally:
        cached.close()
        if judging is not None:
            judging.close()


class _CachedMake:
    """A function object that makes a generator over the folder's cache, in any process."""

    def __init__(self, make: Callable[[], Generator], path: Path) -> None:
        self._make = make
        self._path = path

    def __call__(self) -> Generator:
        # The folder may be missing on another machine of a cluster.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return CachedGenerator(self._make(), RequestCache(self._path))


def _cached(source: GeneratorSource, folder: Path) -> GeneratorSource:
    make = _CachedMake(source.make, folder.resolve() / WORK / "answers.sqlite")
    return GeneratorSource(source.name, make, identity=source.identity)


def _prepare(folder: Path, judge: GeneratorSource | None, judge_rows: PathLike | None) -> Path:
    if (judge is None) != (judge_rows is None):
        raise ConfigError("judge: give a judge and its hand-labelled rows together, or neither")
    if folder.exists() and not (folder / WORK).is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: holds something else; name an empty folder or one of an earlier run")
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    return folder


def _trust(brief: Brief, judge: GeneratorSource | None, rows: PathLike | None) -> JudgeReport | None:
    if judge is None or rows is None:
        return None
    return Judge(brief).measure(judge.get(), read_judge_rows(rows), os.fspath(rows))


def _describe(path: PathLike) -> dict[str, Any]:
    rows = sum(1 for _ in read_exchanges(path))
    return {"name": Path(path).name, "rows": rows, "sha256": file_sha256(path)}


def _finish(brief: Brief, folder: Path, result: PipelineResult, origins: Origins) -> SynthesisResult:
    """Write the data set's files. The card comes last, because it shows that the others are complete."""
    (folder / CARD).unlink(missing_ok=True)
    target = folder / EXCHANGES
    write_exchanges(target, _plain(brief, result.rows()))
    card = build_card(brief, result, origins, file_sha256(target))
    _write(folder / "plan.yaml", brief.plan.to_yaml())
    _write(folder / "constitution.yaml", dump_constitution(brief.constitution))
    _write(folder / "README.md", write_readme(card))
    _write(folder / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    warnings = tuple(card["warnings"])
    if not card["rows"]["by_label"].get("harmful"):
        raise SynthesisError(
            f"{folder}: no harmful exchange came through the filters, so that nothing can be trained on it; "
            + ("; ".join(warnings[:3]) or f"see {CARD}")
            + _most_dropped(card)
        )
    return SynthesisResult(folder, target, card, warnings)


def _most_dropped(card: Mapping[str, Any]) -> str:
    """Say why rows of harmful entries were dropped, the most frequent reasons first."""
    lost: Counter[str] = Counter()
    for topic in card["topics"]:
        if topic["kind"] == "harmful":
            lost.update(topic["dropped"])
    # A surplus of questions is normal and explains nothing.
    lost.pop("choose/surplus", None)
    shown = ", ".join(f"{reason}: {count}" for reason, count in lost.most_common(_SHOWN_REASONS))
    return f". Most often dropped for {shown}" if shown else ""


def _plain(brief: Brief, rows: Iterable[Row]) -> Iterable[Exchange]:
    for row in rows:
        meta = {key: value for key, value in row.meta.items() if key not in _WORKING}
        yield replace(row, source=f"synthesis/{brief.constitution.name}", meta=meta)


def _write(path: Path, text: str) -> None:
    with open_atomic(path) as file:
        file.write(text.encode("utf-8"))
