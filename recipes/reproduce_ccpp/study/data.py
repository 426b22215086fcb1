"""Read a study's tables, each once, and check that they fit together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockgate.errors import ExchangeError
from lockgate.evaluation import Floats, Mask, align, benign_prompts
from lockgate.tables import BlockTrace, ScoresTable
from recipes.reproduce_ccpp.study.blocks import Blocks
from recipes.reproduce_ccpp.study.spec import StudySpec

__all__ = ["ScoredPart", "StudyData"]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPart:
    """One model's scores of one part; `blocks` is None for a scorer without a trace."""

    table: ScoresTable
    blocks: Blocks | None

    @property
    def harmful(self) -> Mask:
        """Rows labelled harmful [N]. An unlabelled row is not one of them."""
        return np.asarray(self.table.labels >= 0.5)

    @property
    def benign(self) -> Mask:
        """Rows that are not labelled harmful [N]. Unlabelled traffic counts as benign."""
        return ~self.harmful

    @property
    def groups(self) -> NDArray[np.str_]:
        """The prompt of each row [N]."""
        return np.asarray(self.table.groups, dtype=str)

    @property
    def values(self) -> Floats:
        """The model's own score of each exchange [N]: its largest verdict, or the deciding score."""
        return self.table.floats("mixed_max") if self.blocks is None else largest(self.blocks.verdict)


def largest(cells: Floats) -> Floats:
    """Return the maximum over blocks [N] of cells [N, B]; minus infinity for rows with only NaN."""
    return np.asarray(np.where(np.isnan(cells), -np.inf, cells).max(axis=1, initial=-np.inf))


class StudyData:
    """The tables of a spec. All models except `others` have the same exchanges in the same order.

    Raises:
        ExchangeError: a file is missing or damaged, models have different exchanges, or the calibration part shares
            prompts with a tested one.
    """

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec
        self._parts: dict[tuple[str, str], ScoredPart] = {}
        self._check_prompts()

    def part(self, model: str, name: str) -> ScoredPart:
        """One model's scores of one part, with its blocks."""
        if (model, name) not in self._parts:
            self._parts[model, name] = self._read(model, name)
        return self._parts[model, name]

    def reference(self, name: str) -> ScoredPart:
        """The exchange classifier's scores of a part: its rows are the part's rows."""
        return self.part(self.spec.exchange, name)

    def calibration_rows(self) -> NDArray[np.intp]:
        """Rows of the calibration part that thresholds come from: benign, the first of each prompt."""
        table = self.reference(self.spec.calibration).table
        numbered = table.with_column("_position", np.arange(len(table)))
        return benign_prompts(numbered).floats("_position").astype(np.intp)

    def shared(self, model: str, name: str) -> tuple[NDArray[np.intp], Floats] | None:
        """Return the rows of a part that another scorer has read too, and its values there; None without its table."""
        path = self._path(model, name)
        if not path.exists():
            return None
        table = ScoresTable.read(path)
        trace = path.with_suffix(".blocks.parquet")
        blocks = Blocks.of(BlockTrace.read(trace), table, str(trace)) if trace.exists() else None
        rows, own = align(self.reference(name).table, table)
        return rows, ScoredPart(table, blocks).values[own]

    def files(self) -> list[Path]:
        """Return every file that the study reads, for its record."""
        spec = self.spec
        models = [spec.exchange, spec.input, spec.output, spec.screen, *spec.others]
        parts = [spec.calibration, spec.development, *spec.tested]
        paths = [self._path(m, p) for m in models if m is not None for p in parts if p is not None]
        paths += [path.with_suffix(".blocks.parquet") for path in paths]
        return sorted(path for path in paths if path.exists())

    def _path(self, model: str, name: str) -> Path:
        return self.spec.root / model / f"{name}.parquet"

    def _read(self, model: str, name: str) -> ScoredPart:
        path = self._path(model, name)
        table = ScoresTable.read(path)
        if not len(table):
            raise ExchangeError(f"{path}: holds no row; every part of a study needs exchanges")
        trace = path.with_suffix(".blocks.parquet")
        blocks = Blocks.of(BlockTrace.read(trace), table, str(trace))
        if model != self.spec.exchange:
            self._check_rows(self.reference(name).table, table, path)
        elif (table.lengths < blocks.answer_tokens).any():
            raise ExchangeError(f"{trace}: holds answers longer than their exchanges; write both in one run")
        else:
            self._check_reading(table, blocks, trace)
        return ScoredPart(table, blocks)

    def _check_reading(self, table: ScoresTable, blocks: Blocks, trace: Path) -> None:
        """Check that stage 2 read each token once, and its suffix at every verdict. Only windows over long exchanges differ."""
        verdicts = (~np.isnan(blocks.verdict)).sum(axis=1)
        expected = table.lengths + verdicts * self.spec.verdict_tokens
        wrong = table.floats("tokens_stage2") != expected
        if wrong.mean() > 0.5:
            raise ExchangeError(
                f"{trace}: {int(wrong.sum())} of {len(wrong)} exchanges have tokens_stage2 other than length "
                f"+ verdicts x {self.spec.verdict_tokens}; set verdict_tokens to the classifier's own, and "
                "score every block"
            )

    def _check_rows(self, expected: ScoresTable, found: ScoresTable, path: Path) -> None:
        if expected.ids != found.ids:
            raise ExchangeError(
                f"{path}: holds other exchanges than {self.spec.exchange}, or in another order; "
                "score the same file with every model"
            )

    def _check_prompts(self) -> None:
        spec = self.spec
        benign = self.reference(spec.benign)
        if benign.harmful.any():
            raise ExchangeError(
                f"part {spec.benign} holds {int(benign.harmful.sum())} harmful rows; "
                "expected ordinary traffic"
            )
        tuned = [spec.calibration] + ([spec.development] if spec.development is not None else [])
        for name in tuned:
            own = self.reference(name).groups
            for other in spec.tested:
                count = int(np.isin(self.reference(other).groups, own).sum())
                if count:
                    raise ExchangeError(
                        f"{count} rows of part {other} share a prompt with part {name}; "
                        "what sets a threshold must not be tested on"
                    )
        if spec.development is None and spec.production.weight is None:
            raise ExchangeError(
                "production.weight is to be chosen but there is no development part; name one or set a weight"
            )
