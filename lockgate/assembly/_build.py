"""The build of a guard: synthesize, divide the rows, train, set the threshold, measure, write."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockgate._extras import need
from lockgate.assembly._fit import describe_fit
from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs, BuildProgress, file_hashes
from lockgate.assembly._measure import (
    answered,
    leave_out,
    measure,
    summarise,
    summarise_refusals,
    with_baseline,
    without_refusals,
)
from lockgate.assembly._picture import draw_picture
from lockgate.assembly._report import write_measured, write_reports
from lockgate.assembly._reviews import place_proposal
from lockgate.assembly._rows import PARTING, BuildRows, gather_rows
from lockgate.assembly._second import check_second_stage, train_second_stage
from lockgate.assembly._staged import PartReader, set_stages
from lockgate.assembly._threshold import describe_claim, set_threshold, with_flags
from lockgate.assembly._top import read_top
from lockgate.assembly._training import bind_guard, train_head
from lockgate.assembly._update import PREVIOUS, Update, compare_with_previous, keep_previous
from lockgate.assembly._voice import VOICE, choose_voice, describe_voice
from lockgate.assembly._words import describe_generator, list_changes, list_limits, list_steps
from lockgate.classifiers.text import TextBaseline
from lockgate.durable import hash_json, hash_path
from lockgate.errors import CalibrationError
from lockgate.evaluation import EvaluationResult, check_report, collect_provenance, write_report
from lockgate.exchanges import read_exchanges, write_exchanges
from lockgate.guards import Guard, check_target, read_bundle
from lockgate.synthesis import StepProgress, room_on
from lockgate.synthesis.factory import SynthesisResult, synthesize
from lockgate.tables import ScoresTable

HELD_OUT_NAME = "held-out synthetic exchanges"
DATA, CANDIDATE, READY, GUARD = "data", "candidate", "ready", "guard"
_JUDGED = ("held_out", "provisional", "calibration")
_PARTS = ("training", "held_out", "provisional", "calibration", "reviews", "dropped")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build.

    Attributes:
        guard: path of the bundle in its place, or None if the update was refused.
        candidate: path of the new guard in the working folder, replaced or not.
        folder: the working folder with data, scores and reports.
        report: contents of `report.json`.
        pages: paths of the report's files.
        refused: sentences that say why the old guard was not replaced.
    """

    guard: Path | None
    candidate: Path
    folder: Path
    report: Mapping[str, Any]
    pages: Mapping[str, Path]
    refused: tuple[str, ...] = ()


def build_guard(
    inputs: BuildInputs, out: str | Path, *, work: str | Path | None = None, command: tuple[str, ...] = ()
) -> BuildResult:
    """Build a guard for a policy. Call it again after an interruption: it continues and makes the same guard.

    Args:
        inputs: policy, generator, backbone, files and plans.
        out: the bundle's folder. It appears when the build is complete.
        work: folder for everything else. The default is `out` with `.build` after its name. For an update it
            may be the old guard's folder, so that its data need not be made again.
        command: the command line, for the provenance.

    Raises:
        LockgateError: A step can't go on. Finished work is kept.
    """
    check_report()
    need("sklearn", extra="train", feature="the text baseline of a build")
    out = Path(out)
    check_target(out)
    check_second_stage(inputs)
    folder = BuildFolder(Path(work) if work is not None else _folder_of(out, inputs.update))
    with folder.lock(), room_on(folder.path):
        return _Build(inputs, out, folder, command).run()


def _folder_of(out: Path, update: Path | None) -> Path:
    own = out.with_name(out.name + ".build")
    earlier = None if update is None else update.with_name(update.name + ".build")
    return earlier if earlier is not None and earlier.is_dir() and not own.exists() else own


class _Build:
    def __init__(self, inputs: BuildInputs, out: Path, folder: BuildFolder, command: tuple[str, ...]) -> None:
        self.inputs, self.out, self.folder, self.command = inputs, out, folder, command

    def run(self) -> BuildResult:
        inputs, folder = self.inputs, self.folder
        if inputs.update is not None:
            keep_previous(folder, inputs.update, GUARD, hash_json(self._made_from()))
        data = self._synthesize()
        rows = self._gather(data)
        check_second_stage(inputs, folder)
        seen = train_head(folder, inputs, rows.training)
        candidate = bind_guard(folder, inputs, rows.training, seen).save(folder.path / CANDIDATE)
        voice = choose_voice(folder, inputs, rows, seen)
        reader, guard, voice = self._decide(candidate, rows, seen, voice)
        tables = {name: reader.table(self._path(name), name, guard) for name in _JUDGED}
        decided = {name: with_flags(table, guard) for name, table in tables.items()}
        top = read_top(folder, guard, rows, tables["calibration"], self._judged(reader, guard, tables))
        decided["calibration"] = leave_out(decided["calibration"], rows.excluded)
        picture = draw_picture(guard, decided)
        own, results = self._measure(reader, guard, rows, decided)
        update = self._compare(reader, guard, rows, decided)
        measured = None if own is None else summarise(own)
        if measured is not None:
            measured["refusals"] = summarise_refusals(decided["held_out"])
        second = train_second_stage(folder, inputs, candidate)
        if second is not None and voice["kept"]:
            second["beside"] = str(folder.path / VOICE)
        chosen = {"fit": seen["choice"], "voice": voice}
        content = self._describe(data, rows, guard, (measured, results), (update, second, top)) | chosen
        content |= {"limits": list_limits(content), "next": list_steps(content)}
        saved = guard.save(folder.path / GUARD, measured=write_measured(content))
        refused = update.verdict.reasons if update and update.verdict.worse and not inputs.accept else ()
        if not refused:
            guard.save(self.out, measured=write_measured(content))
        content["guard_sha256"] = saved.sha256
        content["recall_by_budget"] = picture.points
        pages = write_reports(folder.path, content, picture)
        return BuildResult(
            guard=None if refused else self.out,
            candidate=folder.path / GUARD,
            folder=folder.path,
            report=content,
            pages=pages,
            refused=tuple(refused),
        )

    def _made_from(self) -> dict[str, Any]:
        inputs = self.inputs
        return {
            "constitution": inputs.constitution.sha256,
            "backbone": inputs.backbone.identity.hashes,
            "generator": inputs.generator.identity,
            "judge": None if inputs.judge is None else inputs.judge.identity,
            "judge_rows": None if inputs.judge_rows is None else hash_path(inputs.judge_rows),
            "plans": [inputs.factory.model_dump(mode="json"), repr(inputs.training)],
            "files": [
                file_hashes(paths)
                for paths in (inputs.benign, inputs.data, inputs.prompts, inputs.evaluation, inputs.mine)
            ],
            "feedback": None if inputs.feedback is None else hash_path(inputs.feedback),
        }

    def _path(self, part: str) -> Path:
        return self.folder.path / f"{part}.jsonl"

    def _synthesize(self) -> SynthesisResult:
        inputs, folder = self.inputs, self.folder
        key = {
            "constitution": inputs.constitution.sha256,
            "generator": inputs.generator.identity,
            "plan": inputs.factory.model_dump(mode="json"),
            "prompts": file_hashes(inputs.prompts),
            "evaluation": file_hashes(inputs.evaluation),
            "judge": None if inputs.judge is None else inputs.judge.identity,
            "judge_rows": None if inputs.judge_rows is None else hash_path(inputs.judge_rows),
        }
        made: list[SynthesisResult] = []

        def make() -> dict[str, Any]:
            made.append(
                synthesize(
                    inputs.constitution,
                    inputs.generator,
                    inputs.factory,
                    folder.path / DATA,
                    executor=inputs.executor,
                    seeds=inputs.prompts,
                    evaluation=inputs.evaluation,
                    judge=inputs.judge,
                    judge_rows=inputs.judge_rows,
                    progress=self._watch_step,
                )
            )
            return {"warnings": list(made[0].warnings), "card": dict(made[0].card)}

        outputs = [f"{DATA}/exchanges.jsonl", f"{DATA}/card.json"]
        found = folder.step("synthesize", key, outputs, make)
        data = folder.path / DATA
        return SynthesisResult(data, data / "exchanges.jsonl", found["card"], tuple(found["warnings"]))

    def _watch_step(self, state: StepProgress) -> None:
        self.inputs.watch(
            BuildProgress(f"synthesize: {state.step}", state.rows_done, state.rows_total, "rows")
        )

    def _gather(self, data: SynthesisResult) -> BuildRows:
        inputs, plan = self.inputs, self.inputs.training
        key = {
            "parting": PARTING,
            "exchanges": hash_path(data.exchanges),
            "benign": file_hashes(inputs.benign),
            "data": file_hashes(inputs.data),
            "evaluation": file_hashes(inputs.evaluation),
            "feedback": None
            if inputs.feedback is None
            else [hash_path(inputs.feedback), repr(plan.feedback)],
            "train_on_top": inputs.train_on_top,
            "constitution": inputs.constitution.sha256,
            "hold_out": list(inputs.factory.augmentation.hold_out),
            "plan": [
                plan.seed,
                plan.max_rows,
                plan.least_rows,
                plan.benign_share,
                plan.max_benign,
                plan.budget,
            ],
        }

        def make() -> dict[str, Any]:
            self.inputs.watch(BuildProgress("divide the rows", 0, None, "rows"))
            rows = gather_rows(inputs, data)
            for part in _PARTS:
                write_exchanges(self._path(part), getattr(rows, part))
            told = {"budget": rows.budget, "reason": rows.reason, "counts": dict(rows.counts)}
            marked = {"excluded": list(rows.excluded), "confirmed": list(rows.confirmed)}
            return {**told, **marked, "proposal": rows.proposal}

        found = self.folder.step("rows", key, [f"{part}.jsonl" for part in _PARTS], make)
        parts = {part: list(read_exchanges(self._path(part))) for part in _PARTS}
        placed = place_proposal(self.folder, found["proposal"])
        sources: dict[str, Any] = {**parts, **found, "proposal": placed}
        return BuildRows(**sources)

    def _decide(
        self, candidate: Guard, rows: BuildRows, seen: dict[str, Any], voice: dict[str, Any]
    ) -> tuple[PartReader, Guard, dict[str, Any]]:
        """Set the threshold, of both stages if the voice was kept. Return the reader that scores alike."""
        folder, inputs = self.folder, self.inputs

        def bind(found: dict[str, Any]) -> Guard:
            notes = [describe_fit(seen["choice"]), describe_voice(found)]
            # Only a saved guard knows the hash of its probe, which an update compares.
            return bind_guard(folder, inputs, rows.training, seen, notes).save(folder.path / READY)

        if voice["kept"] and rows.budget is not None:
            text = TextBaseline.load(folder.path / VOICE)
            reader = PartReader(folder, inputs, candidate, text)
            traffic = reader.staged(self._path("calibration"), "calibration")
            try:
                delay = self._delay()
                return reader, set_stages(bind(voice), text, rows, traffic, voice, rows.budget, delay), voice
            except CalibrationError as error:
                voice = {**voice, "kept": False, "reason": str(error)}
        if delay := self._delay():
            voice = {**voice, "delay": delay}
        reader = PartReader(folder, inputs, candidate)
        tables = {name: reader.staged(self._path(name), name).table for name in _JUDGED}
        fpr = inputs.training.provisional_fpr
        return reader, set_threshold(bind(voice), rows, tables, provisional_fpr=fpr), voice

    def _delay(self) -> int:
        """Return the plan's delay, or that of the guard to replace."""
        if self.inputs.training.delay is not None or self.inputs.update is None:
            return self.inputs.training.delay or 0
        cascade = read_bundle(self.folder.path / PREVIOUS).record.cascade
        return 0 if cascade is None else cascade.delay

    def _judged(
        self, reader: PartReader, guard: Guard, tables: dict[str, ScoresTable]
    ) -> dict[str, ScoresTable]:
        """Return the scores of labelled rows that neither trained nor calibrate, by name."""
        judged = {HELD_OUT_NAME: tables["held_out"]}
        for number, path in enumerate(self.inputs.evaluation):
            name = str(path) if path.name in judged else path.name
            judged[name] = reader.table(path, f"evaluation_{number}", guard)
        return judged

    def _measure(
        self, reader: PartReader, guard: Guard, rows: BuildRows, tables: dict[str, ScoresTable]
    ) -> tuple[EvaluationResult | None, list[EvaluationResult]]:
        """Measure the held-out rows and each labelled evaluation file. Write full reports to the folder."""
        benign_part = "calibration" if rows.budget is not None else "provisional"
        benign_rows = rows.sample if rows.budget is not None else rows.provisional
        compared = with_baseline(
            rows.training,
            {"held_out": (rows.held_out, tables["held_out"]), "benign": (benign_rows, tables[benign_part])},
            self.inputs.training,
        )
        held_out, benign = (without_refusals(compared[part]) for part in ("held_out", "benign"))
        provenance = self._provenance()
        first = measure(held_out, benign, name=HELD_OUT_NAME, provenance=provenance)
        results = []
        for number, path in enumerate(self.inputs.evaluation):
            table = reader.table(path, f"evaluation_{number}", guard)
            ordinary = without_refusals(tables[benign_part])
            results.append(measure(with_flags(table, guard), ordinary, name=path.name, provenance=provenance))
        found = [result for result in results if result is not None]
        for number, result in enumerate([*([first] if first is not None else []), *found]):
            write_report(result, self.folder.path / "evaluation" / str(number))
        return first, found

    def _compare(
        self, reader: PartReader, guard: Guard, rows: BuildRows, tables: dict[str, ScoresTable]
    ) -> Update | None:
        inputs = self.inputs
        if inputs.update is None:
            return None
        benign_part = "calibration" if rows.budget is not None else "provisional"
        compared = {"held_out": tables["held_out"], "benign": tables[benign_part]}
        sources = {"held_out": self._path("held_out"), "benign": self._path(benign_part)}
        for number, path in enumerate(inputs.evaluation):
            name = f"evaluation_{number}"
            table = with_flags(reader.table(path, name, guard), guard)
            compared[name] = table.select(answered(table))
            sources[name] = path
        if rows.reviews:
            compared["reviews"] = with_flags(reader.table(self._path("reviews"), "reviews", guard), guard)
            sources["reviews"] = self._path("reviews")
        return compare_with_previous(self.folder, inputs, guard, compared, sources, rows.excluded)

    def _describe(
        self,
        data: SynthesisResult,
        rows: BuildRows,
        guard: Guard,
        results: tuple[dict[str, Any] | None, list[EvaluationResult]],
        more: tuple[Update | None, dict[str, Any] | None, dict[str, Any] | None],
    ) -> dict[str, Any]:
        inputs, (update, second, top) = self.inputs, more
        content: dict[str, Any] = {
            "format": 1,
            "guard": str(self.out),
            "backbone": inputs.backbone.name,
            "constitution": {
                "name": inputs.constitution.name,
                "version": inputs.constitution.version,
                "sha256": inputs.constitution.sha256,
            },
            "calibrated": guard.calibration is not None,
            "claim": describe_claim(guard, rows, inputs.training.budget),
            "threshold": guard.record.decides.flag,
            "rows": dict(rows.counts),
            "proposal": rows.proposal,
            "held_out": results[0],
            "evaluation": [summarise(result) for result in results[1]],
            "update": None if update is None else update.to_dict(accepted=inputs.accept),
            "second_stage": second,
            "top": top,
            "generator": describe_generator(data.card),
            "warnings": list(data.warnings),
            "seconds": self.folder.seconds(),
            "lost_attempts": self.folder.lost_attempts(),
            "provenance": self._provenance(),
        }
        content["changes"] = list_changes(content["generator"])
        return content

    def _provenance(self) -> dict[str, Any]:
        inputs = self.inputs
        files = [*inputs.benign, *inputs.data, *inputs.prompts, *inputs.evaluation, *inputs.mine]
        files += [path for path in (inputs.feedback, inputs.judge_rows) if path is not None]
        seeds = {"factory": inputs.factory.seed, "training": inputs.training.seed}
        return collect_provenance(self.command, seeds, files)
