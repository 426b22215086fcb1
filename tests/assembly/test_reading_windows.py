"""Several processes read the same activations as one process, also if a part was read before."""

from dataclasses import replace

import numpy as np
import pytest
from build_runs import labelled_row
from models import tiny_backbone

from lockgate.assembly._reading import PART, Reading, read_windows
from lockgate.assembly._training import distinct_rows
from lockgate.backbones import Backbone

ROWS = [labelled_row(i, float(i % 2)) for i in range(PART + 9)]
READING = Reading((1, 2), 64, "float32")


@pytest.mark.slow
def test_two_processes_read_what_one_reads(tmp_path, saved_backbone) -> None:
    backbone = Backbone.load(saved_backbone("llama"))
    # Not the precision of the backbone, so that it must reach the processes.
    reading = Reading((1, 2), 64, "bfloat16")
    one = read_windows(backbone, ROWS, tmp_path / "one", reading)
    done: list[int] = []
    two = read_windows(backbone, ROWS, tmp_path / "two", reading, workers=2, report=done.append)
    assert [row.id for row in two.exchanges] == [row.id for row in one.exchanges] == [row.id for row in ROWS]
    assert two.meta == one.meta
    assert two.meta["dtype"] == "bfloat16"
    for first, second in zip(one.exchanges, two.exchanges, strict=True):
        np.testing.assert_array_equal(one.windows(first), two.windows(second))
    assert done[-1] == len(ROWS)


def test_a_finished_part_is_not_read_again(tmp_path) -> None:
    read_windows(tiny_backbone(), ROWS, tmp_path, READING)
    first = tmp_path / "00000" / "0000.npy"
    marked = first.stat().st_mtime_ns
    (tmp_path / "00001" / "0000.json").unlink()
    done: list[int] = []
    read_windows(tiny_backbone(), ROWS, tmp_path, READING, report=done.append)
    assert first.stat().st_mtime_ns == marked
    assert done == [PART, len(ROWS)]


def test_copies_are_read_once_and_keep_their_places() -> None:
    rows = [labelled_row(number, float(number % 2)) for number in range(5)]
    other = replace(rows[0], label=0.0 if rows[0].label else 1.0)
    laid = [rows[0], rows[1], rows[0], other, *rows, rows[1]]
    distinct, places = distinct_rows(laid)
    assert [distinct[place] for place in places] == laid
    assert len(distinct) == len({(row.id, row.label) for row in laid}) == 6
