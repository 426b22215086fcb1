"""The block trace: a written file is read back, and files that do not fit together are refused."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lockgate.errors import ExchangeError
from lockgate.tables import TRACE_SCHEMA, BlockTrace

LOGITS = st.floats(-50, 50, width=32) | st.just(np.nan) | st.just(np.inf)


@st.composite
def traces(draw):
    rows, number = [], -1
    for _ in range(draw(st.integers(0, 6))):
        number += draw(st.integers(1, 3))
        n = draw(st.integers(1, 5))
        steps = draw(st.lists(st.integers(1, 9), min_size=n - 1, max_size=n - 1))
        probe = draw(arrays.arrays(np.float32, n, elements=LOGITS))
        verdicts = draw(st.none() | arrays.arrays(np.float32, n, elements=LOGITS))
        rows.append((number, [0, *np.cumsum(steps)], probe, verdicts))
    return rows


@given(traces())
def test_every_row_comes_back_with_its_own_blocks(rows):
    trace = BlockTrace.from_rows(rows)
    assert trace.rows.tolist() == [row for row, *_ in rows]
    for row, ends, probe, verdicts in rows:
        part = trace.of(row)
        np.testing.assert_array_equal(trace.end[part], ends)
        np.testing.assert_array_equal(trace.block[part], np.arange(len(ends)))
        np.testing.assert_array_equal(trace.probe[part], probe)
        expected = np.full(len(ends), np.nan) if verdicts is None else verdicts
        np.testing.assert_array_equal(trace.classifier[part], expected)
    assert trace.of(10_000) == slice(len(trace), len(trace))


def test_reading_gives_back_what_was_written(tmp_path):
    trace = BlockTrace.from_rows(
        [
            (0, [0, 8, 11], [np.nan, -1.5, np.inf], [np.nan, 2.0, np.inf]),
            (2, [0], [0.25], None),
        ]
    )
    path = tmp_path / "part.blocks.parquet"
    trace.write(path)
    back = BlockTrace.read(path)
    for name in TRACE_SCHEMA.names:
        np.testing.assert_array_equal(getattr(back, name), getattr(trace, name))
        assert getattr(back, name).dtype == getattr(trace, name).dtype
    stored = pq.read_table(path)
    assert stored.schema.equals(TRACE_SCHEMA)
    assert stored["probe"].null_count == 1
    assert stored["classifier"].null_count == 2


def test_columns_of_voices_come_back(tmp_path):
    rows = [(0, [0, 8], [0.5, -1.5], [0.25, 2.0]), (2, [0], [0.25], None)]
    voices = {"classifier": [[1.0, np.inf], [np.nan]], "text": [[-1.0, 3.0], [np.nan]]}
    trace = BlockTrace.from_rows(rows, voices)
    trace.write(tmp_path / "trace.parquet")
    back = BlockTrace.read(tmp_path / "trace.parquet")
    assert list(back.voices) == ["classifier", "text"]
    for name, parts in voices.items():
        np.testing.assert_array_equal(back.voices[name], np.float32(np.concatenate(parts)))
    assert pq.read_table(tmp_path / "trace.parquet")["voice_text"].null_count == 1
    for wrong, message in (
        ([[1.0], [0.0]], "columns of one length"),
        ([[1.0, -np.inf], [0.0]], "voice_text must"),
    ):
        with pytest.raises(ExchangeError, match=message):
            BlockTrace.from_rows(rows, {"text": wrong})


def test_an_empty_trace_is_written_and_read(tmp_path):
    BlockTrace.from_rows([]).write(tmp_path / "none.parquet")
    assert len(BlockTrace.read(tmp_path / "none.parquet")) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, [0], [0.0], None), (0, [0], [0.0], None)], "row 0, block 0: rows must be in ascending order"),
        ([(-1, [0], [0.0], None)], "row -1, block 0: row numbers start at 0"),
        ([(3, [0], [0.0], None), (3, [0], [0.0], None)], "row 3, block 0: blocks must be 0, 1, 2"),
        ([(0, [4, 8], [0.0, 0.0], None)], "row 0, block 0: block 0 ends at answer token 0"),
        ([(0, [0, 8, 8], [0.0, 0.0, 0.0], None)], "row 0, block 2: every block after the first"),
        ([(0, [0], [-np.inf], None)], "row 0, block 0: probe must be a logit"),
        ([(0, [0], [0.0], [-np.inf])], "row 0, block 0: classifier must be a logit"),
        ([(0, [0, 8], [0.0], None)], "expected columns of one length"),
        ([(2**40, [0], [0.0], None)], "too large for int32"),
    ],
)
def test_blocks_that_do_not_fit_together_are_refused(rows, message):
    with pytest.raises(ExchangeError, match=re.escape(message)):
        BlockTrace.from_rows(rows)


def test_a_file_that_is_no_trace_is_refused_by_name(tmp_path):
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"not parquet")
    with pytest.raises(ExchangeError, match=r"damaged\.parquet: cannot be read as Parquet"):
        BlockTrace.read(damaged)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"row": [0], "block": [0]}), other)
    with pytest.raises(ExchangeError, match=r"lacks the columns end, probe, classifier"):
        BlockTrace.read(other)
    columns = {"row": [0], "block": [0], "end": ["x"], "probe": [0.0], "classifier": [0.0]}
    pq.write_table(pa.table(columns), other)
    with pytest.raises(ExchangeError, match=r"column end has type string; expected int32"):
        BlockTrace.read(other)
    columns["end"] = pa.array([None], pa.int32())
    pq.write_table(pa.table(columns), other)
    with pytest.raises(ExchangeError, match=r"column end holds 1 nulls"):
        BlockTrace.read(other)
