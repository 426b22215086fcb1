"""What reviewers said is the file that a build reads; what can't be read is counted."""

import json

import pytest
from logs import decision, opened_log

from lockgate.constitution import load_constitution
from lockgate.decisions import Content, ContentReader, Turn, make_keys, open_log, purge_log
from lockgate.errors import DecisionLogError
from lockgate.feedback import read_feedback
from lockgate.reviews import Left, Review, export_lines

CONSTITUTION = load_constitution("stage-magic")
CATEGORY = CONSTITUTION.harmful[0].id


def review(number, verdict="harmful", reviewer="ann", **fields):
    usual = {"tenant": "", "exchange": f"chatcmpl-{number}", "choice": 0, "picked": "flag"}
    return Review(reviewer=reviewer, verdict=verdict, **{**usual, **fields})


def log_of(where, count, answer="Slowly, \U0001f6a4.", **options):
    log = opened_log(where, **options)
    for number in range(count):
        turns = (Turn("user", f"How does boat {number} pass?"), Turn("assistant", answer))
        log.write(decision(number), content=Content(turns))
    assert log.close().unwritten == 0
    return where


def exported(where, reviews, key=None):
    left = Left()
    with open_log(where) as log:
        return list(export_lines(reviews, log, ContentReader(key), left)), left


def test_a_build_reads_what_is_exported(tmp_path):
    where = log_of(tmp_path / "decisions.db", 4, content="full")
    given = [
        review(0, category=CATEGORY, note="plain words", seconds=2.5),
        review(1, "harmless"),
        review(2, None),
        review(3, "harmless"),
        review(3, "harmful", "ben"),
    ]
    lines, left = exported(where, given)
    assert left.total == 0
    file = tmp_path / "reviews.jsonl"
    file.write_bytes(b"".join(lines))
    found = read_feedback(file, CONSTITUTION)
    assert found.lines == 4
    assert [(one.verdict, one.category) for one in found.reviews] == [
        ("harmful", CATEGORY),
        ("harmless", None),
    ]
    assert found.reviews[0].exchange.messages[0].content == "How does boat 0 pass?"
    assert [conflict.about for conflict in found.conflicts] == ["verdict"]
    assert json.loads(lines[0])["exchange"]["meta"]["reviewer"] == "ann"


def test_what_cannot_be_read_is_counted(tmp_path):
    where = log_of(tmp_path / "decisions.db", 1, content="none")
    lines, left = exported(where, [review(0), review(7)])
    assert (lines, left.gone, left.textless, left.total) == ([], 1, 1, 2)
    assert (
        str(left) == "1: the log no longer has the exchange; 1: the log keeps no text of it that can be read"
    )
    silent = log_of(tmp_path / "silent.db", 1, answer=" ", content="full")
    assert exported(silent, [review(0)])[1].unanswered == 1


def test_sealed_texts_need_their_key(tmp_path):
    public, private = make_keys()
    where = log_of(tmp_path / "decisions.db", 1, content="encrypted", public_key=public)
    assert exported(where, [review(0)])[1].textless == 1
    lines, left = exported(where, [review(0)], private)
    assert (len(lines), left.total) == (1, 0)
    with pytest.raises(DecisionLogError, match="does not open with this key"):
        exported(where, [review(0)], make_keys()[1])


def test_what_was_purged_is_gone_from_the_export_too(tmp_path):
    where = log_of(tmp_path / "decisions.db", 2, content="full")
    purge_log(where, "2100-01-01T00:00:00.000Z", "test")
    lines, left = exported(where, [review(0)])
    assert (lines, left.gone) == ([], 1)
