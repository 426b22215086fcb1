import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scores import make_scores

from lockgate.errors import ExchangeError
from lockgate.tables import SCORES_SCHEMA, ScoresTable

CONTRACT = [
    "row",
    "id",
    "source",
    "label",
    "category",
    "probe_max",
    "max_prompt",
    "max_answer",
    "classifier_max",
    "mixed_max",
    "flagged",
    "stage",
    "flag_token",
    "tokens_stage1",
    "tokens_stage2",
    "flops_stage1",
    "flops_stage2",
    "cpu_s_stage1",
    "cpu_s_stage2",
]


def test_columns_stand_in_the_order_of_the_contract(tmp_path):
    make_scores(10).write(tmp_path / "s.parquet")
    assert SCORES_SCHEMA.names == CONTRACT
    assert pq.read_table(tmp_path / "s.parquet").column_names == [*CONTRACT, "prompt_group", "length"]


def test_written_tables_read_back_the_same(tmp_path):
    table = make_scores(25)
    table.write(tmp_path / "s.parquet")
    assert ScoresTable.read(tmp_path / "s.parquet").table.equals(table.table)


def test_foreign_order_and_narrow_types_are_conformed():
    table = make_scores(5).table
    table = table.select(table.column_names[::-1])
    narrow = table.set_column(
        table.column_names.index("mixed_max"), "mixed_max", table.column("mixed_max").cast(pa.float32())
    )
    conformed = ScoresTable(narrow)
    assert conformed.table.column_names[: len(CONTRACT)] == CONTRACT
    assert conformed.table.schema.field("mixed_max").type == pa.float64()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["probe_max", "flagged"]), "lacks the columns probe_max, flagged"),
        (lambda t: t.set_column(0, "row", pa.array(["x"] * 5)), "column row has type string"),
        (lambda t: t.set_column(3, "label", pa.array([2.0] * 5)), "label holds values outside"),
        (lambda t: t.set_column(1, "id", pa.array([None] * 5, pa.string())), "column id holds 5 nulls"),
    ],
)
def test_malformed_tables_are_refused_with_their_name(tmp_path, change, message):
    path = tmp_path / "bad.parquet"
    pq.write_table(change(make_scores(5).table.cast(make_nullable())), path)
    with pytest.raises(ExchangeError, match=message) as caught:
        ScoresTable.read(path)
    assert str(path) in str(caught.value)


def make_nullable():
    return pa.schema([field.with_nullable(True) for field in make_scores(1).table.schema])


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(ExchangeError, match="FileNotFoundError"):
        ScoresTable.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(ExchangeError, match="cannot be read as Parquet"):
        ScoresTable.read(tmp_path / "text.parquet")


def test_defaults_stand_in_for_absent_extras():
    table = make_scores(6, repeat=2)
    assert len(set(table.groups)) == 3
    plain = ScoresTable(table.table.drop_columns(["prompt_group", "length"]))
    assert plain.groups == plain.ids
    assert not plain.has_groups
    assert np.array_equal(plain.lengths, table.floats("tokens_stage1"))


def test_rows_can_be_selected_joined_and_extended():
    table = make_scores(8)
    both = ScoresTable.concat([table.select(table.labels == 1), table.select(table.labels == 0)])
    assert sorted(both.ids) == table.ids
    wider = table.with_column("baseline_text", np.arange(8.0)).with_column(
        "baseline_text", np.arange(8.0) + 1
    )
    assert wider.floats("baseline_text")[0] == 1
    assert ScoresTable.concat([wider, table]).table.column_names == table.table.column_names
    with pytest.raises(ExchangeError, match="do not fit together"):
        ScoresTable.concat([wider, table.with_column("baseline_text", ["x"] * 8)])
    assert table.select([3, 1]).ids == [table.ids[3], table.ids[1]]
    with pytest.raises(ExchangeError, match="no column nothing"):
        table.floats("nothing")
    with pytest.raises(ExchangeError, match="not numeric"):
        table.floats("source")


def test_an_empty_table_is_a_table(tmp_path):
    ScoresTable.from_rows([]).write(tmp_path / "empty.parquet")
    assert len(ScoresTable.read(tmp_path / "empty.parquet")) == 0


def test_a_null_group_is_a_prompt_of_its_own():
    table = make_scores(4)
    groups = pa.array(["same", "same", None, None])
    regrouped = ScoresTable(table.table.drop_columns(["prompt_group"]).append_column("prompt_group", groups))
    assert len(set(regrouped.groups)) == 3
