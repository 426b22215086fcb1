"""A guard of a probe and a text voice: scored on every block, and calibrated together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs
from lockgate.assembly._measure import answered, score_part, trace_of
from lockgate.assembly._rows import BuildRows
from lockgate.assembly._threshold import describe_traffic_of, exclusions_of
from lockgate.calibration import Trace, calibrate_cascade
from lockgate.cascade import Cascade
from lockgate.classifiers.text import TextBaseline
from lockgate.guards import Guard
from lockgate.tables import BlockTrace, ScoresTable
from lockgate.traffic import StagedScores

# The budget may flag fewer exchanges than are asked about, or the voice decides nothing.
_ASKED_FOR_EACH_FLAG = 4
_MOST = 0.9
_ASKING = "asking"


class PartReader:
    """A reader of parts of a build's rows with the probe, and with a text voice if there is one.

    Scores are made before the threshold is known. So the voice is asked about every block, and a cascade is
    laid over the traces later.

    Args:
        folder: the build's folder. Finished parts are not read again.
        inputs: the build's inputs.
        candidate: the guard with the probe alone.
        text: the voice.
    """

    def __init__(
        self, folder: BuildFolder, inputs: BuildInputs, candidate: Guard, text: TextBaseline | None = None
    ) -> None:
        self._folder, self._inputs, self._guard, self._staged = folder, inputs, candidate, text is not None
        if text is not None:
            asked = Cascade(escalate=0.0, flag=1e9, weight=0.5)
            self._guard = candidate.with_cascade(None, asked, text=text).save(folder.path / _ASKING)

    def staged(self, source: Path, name: str) -> StagedScores:
        """Return the scores of a part, with the traces of all its blocks if there is a voice."""
        table = score_part(self._folder, self._guard, source, name, self._inputs, blocks=self._staged)
        if not (self._staged and len(table)):
            return StagedScores(table, ())
        trace = BlockTrace.read(self._folder.path / trace_of(name))
        rows = [trace.of(row) for row in range(len(table))]
        return StagedScores(table, tuple(Trace(trace.probe[own], trace.classifier[own]) for own in rows))

    def table(self, source: Path, name: str, guard: Guard) -> ScoresTable:
        """Return the scores of a part as `guard` gives them. What its voice is not asked about has -inf."""
        found = self.staged(source, name)
        if guard.cascade is None or not found.traces:
            return found.table
        mixed = found.mixed_by(guard.cascade, guard.thresholds.flag_on)
        return found.table.with_column("mixed_max", mixed)


def set_stages(
    guard: Guard,
    text: TextBaseline,
    rows: BuildRows,
    traffic: StagedScores,
    voice: Mapping[str, Any],
    budget: float,
    delay: int = 0,
) -> Guard:
    """Return the guard with the text voice as its second stage and one calibration of both.

    The weight was chosen on training rows. Calibration traffic sets the escalation threshold, the scales and
    the final threshold (`calibrate_cascade`, CC++ section 5).

    Args:
        guard: the guard with the probe alone.
        text: the voice.
        rows: the rows of the build.
        traffic: scores of the calibration rows, with traces of all blocks.
        voice: what `choose_voice` returned.
        budget: the budget that the traffic supports.
        delay: see `Cascade`.

    Raises:
        CalibrationError: a reading failed, or too few exchanges are asked about for the budget.
    """
    benign = traffic.select(answered(traffic.table))
    table = benign.table
    languages = [name or "unknown" for name in table.texts("language")] if table.has("language") else None
    found = calibrate_cascade(
        benign.traces,
        table.groups,
        budget=budget,
        escalation=min(_MOST, max(voice["escalation"], _ASKED_FOR_EACH_FLAG * budget)),
        flag_on=guard.thresholds.flag_on,
        weights=(voice["weight"],),
        training=guard.training_prompts,
        exclusions=exclusions_of(rows),
        ids=table.ids,
        lengths=table.lengths if table.has_lengths else None,
        sources=[str(source) for source in table.texts("source")],
        languages=languages,
    )
    found = replace(found, cascade=replace(found.cascade, delay=delay))
    ready = guard.with_cascade(None, found, text=text)
    claim = [
        *describe_traffic_of(found.calibration, ready, rows),
        f"the text voice is asked about {found.escalated:.2%} of this traffic",
    ]
    return ready.with_calibration(found.calibration, claim=claim)
