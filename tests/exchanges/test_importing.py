"""Layouts of rows: golden cases and malformed rows. Subjects are harmless stand-ins."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from import_files import imported, turns, write_rows

import lockgate.exchanges.importing as importing
from lockgate.constitution import DataMapping
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from lockgate.exchanges.importing import DataImport, import_data, inspect_data
from lockgate.exchanges.importing._report import Names


def test_exports_are_sorted_and_there() -> None:
    names = importing.__all__
    assert names == sorted(names, key=lambda name: (name[0].islower(), name))
    assert all(hasattr(importing, name) for name in names)


PART = {"type": "text", "text": "a coin"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
HUMAN = "\n\nHuman: a coin?\n\nAssistant: Which?\n\nHuman: this\n\nAssistant: Gold."
ROWS = {
    "prompt": ({"goal": "a coin"}, [turns("a coin")]),
    "text": ({"text": "a coin", "label": 1}, [turns("a coin")]),
    "prompt_response": (
        {"question": "a coin?", "answer": "gold", "system": "be kind"},
        [turns("a coin?", "gold")],
    ),
    "alpaca": (
        {"instruction": "sum up", "input": "a coin", "output": "gold"},
        [turns("sum up\n\na coin", "gold")],
    ),
    "alpaca_without_input": (
        {"instruction": "sum up", "input": "", "output": "gold"},
        [turns("sum up", "gold")],
    ),
    "messages": (
        {
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": [PART, PART], "name": None},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "gold", "tool_call_id": "c"},
            ]
        },
        [
            (
                Message("system", "be kind"),
                Message("user", "a coina coin"),
                Message("assistant", "", tool_calls=(CALL,)),
                Message("tool", "gold", tool_call_id="c"),
            )
        ],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a coin?"}, {"from": "gpt", "value": "gold"}]},
        [turns("a coin?", "gold")],
    ),
    "sharegpt_in_columns": (
        {"conversations": {"from": ["system", "human", "gpt"], "value": ["be kind", "a coin?", "gold"]}},
        [turns("a coin?", "gold", system="be kind")],
    ),
    "conversation_with_roles": (
        {"conversation": [{"role": "user", "content": "a coin?"}, {"role": "assistant", "content": "gold"}]},
        [turns("a coin?", "gold")],
    ),
    "human_and_assistant": (
        {"chosen": HUMAN, "rejected": "\n\nHuman: a coin?\n\nAssistant: No."},
        [turns("a coin?", "Which?", "this", "Gold."), turns("a coin?", "No.")],
    ),
    "answers_to_a_prompt": (
        {"prompt": "a coin?", "chosen": "gold", "rejected": "no"},
        [turns("a coin?", "gold"), turns("a coin?", "no")],
    ),
    "answers_to_a_dialogue": (
        {"prompt": "\n\nHuman: a coin?\n\nAssistant:", "chosen": " gold", "rejected": " no"},
        [turns("a coin?", " gold"), turns("a coin?", " no")],
    ),
    "lists_of_turns": (
        {
            "prompt": [{"role": "user", "content": "a coin?"}],
            "chosen": [{"role": "assistant", "content": "gold"}],
            "rejected": [{"role": "user", "content": "a coin?"}, {"role": "assistant", "content": "no"}],
        },
        [turns("a coin?", "gold"), turns("a coin?", "no")],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_layouts_are_found_by_their_columns(tmp_path: Path, name: str) -> None:
    row, expected = ROWS[name]
    path = write_rows(tmp_path / "set.jsonl", [row])
    found = imported(path)
    assert [exchange.messages for exchange in found] == expected
    assert {exchange.source for exchange in found} == {"set"}
    assert {exchange.label for exchange in found} == {None}
    if len(expected) == 2:
        assert [exchange.meta["side"] for exchange in found] == ["chosen", "rejected"]


def test_named_columns_and_roles(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "set.jsonl",
        [{"x": {"ask": "a coin?"}, "y": "gold", "z": "be kind", "who": "shop", "lang": "en", "more": [1]}],
    )
    columns = {"prompt": "x.ask", "response": "y", "system": "z", "source": "who", "meta": ["lang", "none"]}
    (found,) = imported(path, columns=columns)
    assert found == Exchange(turns("a coin?", "gold", system="be kind"), source="shop", meta={"lang": "en"})
    path = write_rows(tmp_path / "set.jsonl", [{"log": [{"from": "Bot", "value": "gold", "score": 3}]}])
    rules = {"shape": "sharegpt", "columns": {"messages": "log"}, "source": "mine"}
    report = DataImport(path, DataMapping.model_validate(rules))
    with pytest.raises(ExchangeError, match=r"set.jsonl:1: log\[0\]: unknown key: `score`.*ignore_keys"):
        list(report)
    with pytest.raises(ExchangeError, match=r"log\[0\].from: expected one of .*`roles`"):
        imported(path, **rules, ignore_keys=["score"])
    (found,) = imported(
        write_rows(
            tmp_path / "set.jsonl", [{"log": [{"from": "me", "value": "hi"}, {"from": "Bot", "value": "x"}]}]
        ),
        **rules,
        roles={"Bot": "assistant", "me": "user"},
    )
    assert found == Exchange(turns("hi", "x"), source="mine")


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ({"constant": 1}, [1, 1, 1, 1]),
        ({"column": "safe", "equals": {"true": 0, "false": 1, "null": None}}, [0, 1, 1, None]),
        ({"column": "kind", "equals": {"bad": 1}, "otherwise": 0}, [0, 1, 0, 0]),
        ({"column": "risk", "threshold": 0.5}, [0, 1, 1, None]),
        ({"column": "risk", "threshold": 0.5, "harmful": "below"}, [1, 0, 0, None]),
        ({"column": "risk"}, [0.1, 0.5, 0.9, None]),
        ({"column": "safe"}, [1, 0, 0, None]),
        ({"splits": {"test": 0}}, [0, 0, 0, 0]),
    ],
)
def test_label_rules(tmp_path: Path, rule: dict, labels: list) -> None:
    rows = [
        {"prompt": "a", "safe": True, "kind": "good", "risk": 0.1},
        {"prompt": "b", "safe": False, "kind": "bad", "risk": "0.5"},
        {"prompt": "c", "safe": False, "kind": "odd", "risk": 0.9},
        {"prompt": "d", "safe": None, "kind": "odd", "risk": None},
    ]
    found = imported(write_rows(tmp_path / "set_test.jsonl", rows), label=rule)
    assert [exchange.label for exchange in found] == labels
    assert {exchange.meta["split"] for exchange in found} == {"test"}


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"column": "kind", "equals": {"good": 0}}, "kind: a value that `label.equals` doesn't list"),
        ({"column": "kind"}, "kind: expected a number"),
        ({"column": "big"}, r"big: a number outside \[0, 1\]"),
        ({"column": "nan", "threshold": 1}, "nan: expected a number"),
        ({"column": "nowhere"}, "nowhere: no such column; this row has `prompt`, `kind`, `big`, `nan`"),
        ({"splits": {"train": 0}}, "label.splits: has no entry for split None"),
        ({"sides": {"chosen": 0}}, "label.sides: has no entry for a row that is no preference"),
    ],
)
def test_rows_that_a_label_rule_does_not_cover(tmp_path: Path, rule: dict, field: str) -> None:
    path = write_rows(
        tmp_path / "set.jsonl", [{"prompt": "secret", "kind": "secret", "big": 2, "nan": "nan"}]
    )
    with pytest.raises(ExchangeError, match=f"set.jsonl:1: {field}") as raised:
        imported(path, label=rule)
    assert "secret" not in str(raised.value)


def test_otherwise_says_nothing_of_an_empty_cell(tmp_path: Path) -> None:
    """What nobody has judged must not become harmless by default."""
    rule = {"column": "kind", "equals": {"bad": 1}, "otherwise": 0}
    rows = [{"prompt": "a", "kind": kind} for kind in ("bad", "good", None, "", " ")]
    path = write_rows(tmp_path / "set.jsonl", rows)
    assert [row.label for row in imported(path, label=rule)] == [1, 0, None, None, None]
    rule["equals"]["null"] = 0.5
    assert [row.label for row in imported(path, label=rule)] == [1, 0, 0.5, 0.5, 0.5]
    del rule["otherwise"]
    (tmp_path / "set.csv").write_text("prompt,kind\na,bad\nb,\n")
    assert [row.label for row in imported(tmp_path / "set.csv", label=rule)] == [1, 0.5]
    path = write_rows(tmp_path / "lists.jsonl", [{"prompt": "a", "kind": ["bad"]}])
    with pytest.raises(ExchangeError, match="kind: expected a single value for `equals`, found a list"):
        imported(path, label={**rule, "otherwise": 0})


def test_thresholds_meet_numbers_of_single_precision(tmp_path: Path) -> None:
    """0.7 stored in four bytes is less than 0.7 in eight."""
    risk = pa.array([0.7, 0.69, None, float("inf")], pa.float32())
    pq.write_table(pa.table({"prompt": ["a", "b", "c", "d"], "risk": risk}), tmp_path / "set.parquet")
    rows = DataImport(
        tmp_path / "set.parquet",
        DataMapping.model_validate({"label": {"column": "risk", "threshold": 0.7}}),
    )
    assert [row.label for row in rows] == [1, 0, None]
    assert rows.report.rejected == {"label": 1}


def test_one_label_for_both_sides_is_remarked_on(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", [ROWS["human_and_assistant"][0]])
    for rule, remarks in (({"constant": 1}, 1), ({"sides": {"chosen": 0, "rejected": 1}}, 0), (None, 0)):
        report = inspect_data(path, DataMapping.model_validate({"label": rule}))
        assert sum("chosen and rejected" in note for note in report.notes) == remarks


def test_sides_of_a_preference_get_labels(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", [ROWS["human_and_assistant"][0]])
    found = imported(path, label={"sides": {"chosen": 0, "rejected": None}})
    assert [exchange.label for exchange in found] == [0, None]


def test_categories_lead_to_the_constitution(tmp_path: Path) -> None:
    kinds = [
        "cards",
        "cards",
        ["odd", "coins", "cards"],
        {"cards": False, "coins": True},
        "odd",
        "odd",
        7,
        None,
    ]
    path = write_rows(
        tmp_path / "set.jsonl", [{"prompt": f"p{n}", "kind": kind} for n, kind in enumerate(kinds)]
    )
    rules = {
        "constitution": "stage-magic",
        "columns": {"category": "kind"},
        "categories": {"cards": "card-methods", "coins": "coin-and-sleight-methods", "7": "magic-history"},
        "label": {"constant": 1},
    }
    data = DataImport(path, DataMapping.model_validate(rules))
    found = list(data)
    cards, coins = "card-methods", "coin-and-sleight-methods"
    assert [exchange.category for exchange in found] == [
        *[cards, cards, cards, coins],
        *[None, None, "magic-history", None],
    ]
    assert found[2].meta == {"source_category": ["odd", "coins", "cards"]}
    assert found[4].meta == {"source_category": "odd"}
    report = data.report
    assert report.unmapped == {"odd": 2}
    assert report.harmful_as_harmless == 1
    assert report.categories == {cards: 3, coins: 1, "magic-history": 1}
    assert any("not mapped" in note for note in report.notes)
    data = DataImport(path, DataMapping.model_validate({**rules, "unmapped": "skip"}))
    assert len(list(data)) == 6
    assert data.report.skipped == 2
    found = imported(path, **rules, default_category="show-secrets")
    assert [exchange.category for exchange in found].count("show-secrets") == 3
    rules.pop("columns")
    with pytest.raises(ExchangeError, match=r"columns\.category: the mapping lists categories"):
        imported(path, **rules)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("hate_speech", True),
        ("O5: Economic harm", True),
        ("violence,aiding_and_abetting,incitement", True),
        ("Sex & drugs (adult)", True),
        ("Gewalt gegen Personen", True),
        ("Is this safe?", False),
        ("I live there. Come", False),
        ("ann@host", False),
        ("http://host/ann", False),
        ("number 5551234", False),
        ("one two three four five six", False),
        ("x" * 41, False),
        ("two\nlines", False),
        ("hats\x1b[31m", False),
        ("hats\n", False),
    ],
)
def test_only_what_looks_like_a_label_is_shown(name, shown) -> None:
    names = Names()
    names.add(name)
    assert (names.shown, names.hidden) == (({name: 1}, 0) if shown else ({}, 1))


def test_short_texts_that_hardly_repeat_are_no_labels() -> None:
    names = Names()
    for number in range(21):
        names.add(f"short text {number}")
    assert (names.shown, names.hidden) == ({}, 21)
    for number in range(21):
        names.add(f"short text {number}")
    assert (len(names.shown), names.hidden) == (21, 0)
    for number in range(5000):
        names.add(f"text {number}")
        names.add(f"text {number}")
    assert (names.shown, names.total) == ({}, 10_042)
    assert len(names.counts) < 1000


def test_names_that_are_ids_stand_for_themselves(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", [{"prompt": "a", "category": c} for c in ("card-methods", "x")])
    assert [row.category for row in imported(path, constitution="stage-magic")] == ["card-methods", None]


def test_own_exchanges_keep_what_they_say(tmp_path: Path) -> None:
    rows = [Exchange(turns("a", "b"), 1.0, "x", "here", {"n": 1}), Exchange(turns("a"), None, None, "there")]
    for suffix in (".jsonl", ".parquet"):
        write_exchanges(tmp_path / f"set{suffix}", rows)
        assert imported(tmp_path / f"set{suffix}") == rows
    (first, second) = imported(tmp_path / "set.jsonl", label={"constant": 0}, constitution="stage-magic")
    assert (first.label, first.category, first.meta) == (0, None, {"n": 1, "source_category": "x"})
    assert second.label == 0


GOOD = {"prompt": "fine", "response": "fine"}
BAD = {
    b"{": "malformed",
    b"[1]": "malformed",
    b'{"prompt": "secret", "response": "\xff"}': "malformed",
    b'{"prompt": "secret", "response": "\\ud800"}': "malformed",
    b'{"prompt": "secret"}': "missing-column",
    b'{"prompt": 3, "response": "secret"}': "wrong-type",
    b'{"prompt": " ", "response": "secret"}': "empty-prompt",
    b'{"prompt": "secret", "response": null}': "empty-answer",
    b'{"prompt": [{"role": "nobody", "content": "secret"}], "response": "x"}': "unknown-role",
    b'{"prompt": [{"role": "user", "content": "x", "secret key, long": 1}], "response": "x"}': "unknown-key",
    b'{"prompt": [{"role": "user", "content": [{"type": "image"}]}], "response": "x"}': "unsupported-part",
    b'{"prompt": [], "response": "x"}': "empty-prompt",
    b'{"prompt": [3], "response": "x"}': "wrong-type",
}


def test_malformed_rows_are_counted_by_reason_and_located(tmp_path: Path) -> None:
    path, output, rejects = tmp_path / "set.jsonl", tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([good, *BAD, b"", good]) + b"\n")
    report = import_data(path, output, rejects=rejects)
    assert [row.messages for row in read_exchanges(output)] == [turns("fine", "fine")] * 2
    assert sum(report.rejected.values()) == len(BAD)
    assert report.rows == len(BAD) + 2
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(2, len(BAD) + 2))
    assert [line["reason"] for line in lines] == list(BAD.values())
    assert "secret" not in rejects.read_text().replace("secret key", "")
    assert "secret key, long" not in rejects.read_text()
    assert len(report.first) == 5
    assert "rows rejected" in report.notes[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "same", "rejected": "same", "prompt": "p"}, "same-sides"),
        ({"chosen": "a", "rejected": "b"}, "empty-prompt"),
        ({"chosen": "\n\nHuman: x", "rejected": "\n\nHuman: x\n\nAssistant: y"}, "empty-answer"),
        ({"chosen": None, "rejected": "\n\nHuman: x\n\nAssistant: y"}, "empty-answer"),
        ({"chosen": "\n\nHuman: \n\nAssistant: y", "rejected": "b", "prompt": "p"}, "malformed"),
        ({"chosen": "\n\nAssistant:", "rejected": "b", "prompt": "p"}, "empty-prompt"),
        ({"messages": "text"}, "wrong-type"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "empty-prompt"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]},
            "empty-answer",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "wrong-type"),
    ],
)
def test_conversations_that_are_none(tmp_path: Path, row: dict, reason: str) -> None:
    data = DataImport(write_rows(tmp_path / "set.jsonl", [row]))
    with pytest.raises(ExchangeError, match="nothing to import: 1 rows, 1 of them rejected"):
        list(data)
    assert data.report.rejected == {reason: 1}


def test_nothing_is_written_where_nothing_is_imported(tmp_path: Path) -> None:
    output, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    output.write_text("before")
    path = write_rows(tmp_path / "set.jsonl", [{"prompt": ""}])
    with pytest.raises(ExchangeError, match="nothing to import"):
        import_data(path, output, rejects=rejects)
    assert output.read_text() == "before"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.jsonl", "set.jsonl"]
    with pytest.raises(ExchangeError, match="lies within the source"):
        import_data(write_rows(path, [GOOD]), path)
    with pytest.raises(ExchangeError, match="no row with columns among the first 0"):
        import_data(write_rows(path, []), output)


def test_limit_counts_exchanges(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", [{**ROWS["answers_to_a_prompt"][0], "n": n} for n in range(5)])
    for limit in (1, 2, 3):
        report = inspect_data(path, limit=limit)
        assert report.imported == limit
        assert "stopped at the limit; more rows may follow" in report.notes
    assert inspect_data(path).imported == 10


def test_columns_that_fit_no_layout(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", [{"a": 1, "b c, d": 2}])
    with pytest.raises(
        ExchangeError, match="no known layout; the columns are `a`, one whose name isn't plain"
    ):
        imported(path)
    with pytest.raises(
        ExchangeError, match="preference: a column it needs is not there; the columns are `a`"
    ):
        imported(path, shape="preference", columns={"chosen": "a"})
