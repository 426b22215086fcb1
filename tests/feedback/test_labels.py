"""Review files that grow: what is written is read back, and the file is whole at every moment."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import make_exchange, policy

from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, Message, prompt_text
from lockgate.feedback import Label, ReviewFile, read_feedback, read_reviewed

ROWS = [make_exchange(i) for i in range(5)]
STEPS = st.lists(st.tuples(st.sampled_from(["harmful", "harmless", "undo"]), st.integers(0, 4)), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_labels_and_undos_leave_what_a_list_of_lines_would_hold(tmp_path, steps) -> None:
    path = tmp_path / "reviews.jsonl"
    path.unlink(missing_ok=True)
    expected: list[tuple[str, int]] = []
    for what, row in steps:
        # Each step is a process of its own, so the file alone carries the state.
        with ReviewFile(path) as reviews:
            if what == "undo":
                last = max((i for i, (_, own) in enumerate(expected) if own == row), default=None)
                assert (reviews.undo(ROWS[row]) is None) == (last is None)
                if last is not None:
                    del expected[last]
            else:
                reviews.add(ROWS[row], Label(what))
                expected.append((what, row))
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert [(line["verdict"], line["exchange"]["messages"]) for line in lines] == [
        (what, ROWS[row].to_dict()["messages"]) for what, row in expected
    ]
    with ReviewFile(path) as reviews:
        assert len(reviews) == len(expected)
        for row in range(5):
            said = [what for what, own in expected if own == row]
            found = reviews.find(ROWS[row])
            assert (None if found is None else found.verdict) == (said[-1] if said else None)


def test_what_is_written_is_what_a_build_reads(tmp_path) -> None:
    constitution, _ = policy()
    category = constitution.category_ids[1]
    odd = Exchange(
        (Message("user", "a\x1b[0m\n\u2028"), Message("assistant", "b\x00")), None, None, "x", {"k": 1}
    )
    with ReviewFile(tmp_path / "reviews.jsonl") as reviews:
        reviews.add(ROWS[0], Label("harmful", category, 3.5))
        reviews.add(odd, Label("harmless"))
    found = read_feedback(tmp_path / "reviews.jsonl", constitution)
    assert [(r.exchange, r.verdict, r.category) for r in found.reviews] == [
        (ROWS[0], "harmful", category),
        (odd, "harmless", None),
    ]
    line = json.loads((tmp_path / "reviews.jsonl").read_text().splitlines()[0])
    assert line["seconds"] == 3.5
    known = read_reviewed([tmp_path / "reviews.jsonl"])
    assert known.ids == {ROWS[0].id, odd.id}
    assert [match.kind for match in known.prompts.find([prompt_text(ROWS[0])])] == ["equal"]


def test_reviews_by_id_are_known_and_are_kept_by_an_undo(tmp_path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(f'{{"id": "{ROWS[1].id}", "verdict": "harmful", "note": "by hand"}}\n\n')
    with ReviewFile(path) as reviews:
        assert reviews.find(ROWS[1]) == Label("harmful")
        reviews.add(ROWS[2], Label("harmless"))
        assert reviews.places(ROWS) == [None, 0, 1, None, None]
        assert reviews.undo(ROWS[2]) == Label("harmless")
    assert path.read_text().startswith(f'{{"id": "{ROWS[1].id}"')
    assert len(path.read_text().split()) > 1
    assert read_reviewed([path]).ids == {ROWS[1].id}


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_a_crash_cut_off_is_removed(tmp_path, cut) -> None:
    path = tmp_path / "reviews.jsonl"
    with ReviewFile(path) as reviews:
        reviews.add(ROWS[0], Label("harmful"))
        reviews.add(ROWS[1], Label("harmless"))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut])
    with ReviewFile(path) as reviews:
        assert reviews.mended
        assert len(reviews) == 1
    assert path.read_bytes() == whole[:first]
    # Whole, but for the end of the line: nothing is lost.
    path.write_bytes(whole[:-1])
    with ReviewFile(path) as reviews:
        assert (reviews.mended, len(reviews)) == (False, 2)
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch) -> None:
    path = tmp_path / "reviews.jsonl"
    with ReviewFile(path) as reviews:
        reviews.add(ROWS[0], Label("harmful"))
        before = path.read_bytes()
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:9]))
        with pytest.raises(OSError, match="No space"):
            reviews.add(ROWS[1], Label("harmful"))
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert reviews.find(ROWS[1]) is None


def test_one_process_at_a_time_and_only_where_lines_can_be_appended(tmp_path) -> None:
    with ReviewFile(tmp_path / "reviews.jsonl") as first:
        first.add(ROWS[0], Label("harmful"))
        with pytest.raises(ConfigError, match="another process"):
            ReviewFile(tmp_path / "reviews.jsonl")
        first.undo(ROWS[0])
        with pytest.raises(ConfigError, match="another process"):
            ReviewFile(tmp_path / "reviews.jsonl")
    ReviewFile(tmp_path / "reviews.jsonl").close()
    with pytest.raises(ConfigError, match=r"output: .*\.jsonl"):
        ReviewFile(tmp_path / "reviews.jsonl.gz")
    with pytest.raises(ConfigError, match="output: the folder"):
        ReviewFile(tmp_path / "none" / "reviews.jsonl")
    (tmp_path / "other.jsonl").write_text('{"verdict": "perhaps", "id": "0123456789abcdef"}\n')
    with pytest.raises(ExchangeError, match=r"other\.jsonl:1: verdict"):
        ReviewFile(tmp_path / "other.jsonl")
    with pytest.raises(ExchangeError, match="no such file"):
        read_reviewed([tmp_path / "none.jsonl"])
    (tmp_path / "time.jsonl").write_text('{"verdict": "harmful", "id": "0123456789abcdef", "seconds": -1}\n')
    with pytest.raises(ExchangeError, match="seconds"):
        ReviewFile(tmp_path / "time.jsonl")
