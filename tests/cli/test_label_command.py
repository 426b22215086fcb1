"""`lockgate label` at a terminal and without one: keys, escapes, and a file that is whole."""

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import make_exchange, make_guard, policy
from processes import ROOT

from lockgate.cli import main
from lockgate.cli._shown import escape_controls
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.feedback import read_feedback
from lockgate.traffic import SCORED

QUESTION = "y breaks the policy   n does not   s skip   u undo   q quit"
OBEYED = "\x1b[2J\x1b]0;title\x07 hidden\u202e text\x00 \u200b end"


def rows() -> list[Exchange]:
    made = [make_exchange(i) for i in range(4)]
    scored = {SCORED: {"score": 1.25, "cut": 0.75, "category": "card-methods"}}
    made[1] = Exchange((Message("user", OBEYED), Message("assistant", "word " * 60)), None, None, "x", scored)
    return [*made, Exchange((Message("user", "a prompt alone"),))]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    write_exchanges(tmp_path / "chosen.jsonl", rows())
    monkeypatch.chdir(tmp_path)

    def run(keys: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys.split(" "))))
        with pytest.raises(SystemExit) as ended:
            main(["label", "chosen.jsonl", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def verdicts(path: Path) -> list[tuple[str, str | None, int]]:
    every = [row.messages for row in rows()]
    found = read_feedback(path, policy()[0])
    return [(r.verdict, r.category, every.index(r.exchange.messages)) for r in found.reviews]


def test_lines_are_keys_and_a_run_goes_on_where_the_last_one_ended(run, tmp_path) -> None:
    path = tmp_path / "reviews.jsonl"
    code, out, _ = run("y n u x s q")
    assert code == 0
    assert verdicts(path) == [("harmful", None, 0)]
    assert "1 of 4 exchanges labelled in reviews.jsonl: 1 break the policy" in out
    assert "3 left, 1 of them skipped now" in out
    assert "1 without an answer are not shown" in out
    # What was skipped comes again; the end of the input ends the run.
    code, out, _ = run("n n")
    assert code == 0
    assert verdicts(path) == [("harmful", None, 0), ("harmless", None, 1), ("harmless", None, 2)]
    # A verdict of an earlier run can be taken back.
    run("u u y n n y")
    assert sorted(verdicts(path), key=lambda row: row[2]) == [
        ("harmful", None, 0), ("harmful", None, 1), ("harmless", None, 2), ("harmless", None, 3),
    ]  # fmt: skip
    code, out, _ = run("y")
    assert code == 0
    assert QUESTION not in out
    assert "4 of 4" in out


def test_categories_are_those_of_the_policy(run, tmp_path) -> None:
    path, ids = tmp_path / "reviews.jsonl", policy()[0].category_ids
    code, out, err = run("y 2 n y  y 0 n", "--constitution", "stage-magic")
    assert code == 0, err
    assert verdicts(path) == [
        ("harmful", ids[1], 0), ("harmless", None, 1), ("harmful", None, 2), ("harmless", None, 3),
    ]  # fmt: skip
    assert f"2 {ids[1]}: " in out
    make_guard().save(tmp_path / "guard")
    path.unlink()
    # The input ends before a category is named: the verdict was not finished.
    assert run("y 1 y", "--guard", tmp_path / "guard")[0] == 0
    assert verdicts(path) == [("harmful", ids[0], 0)]


def test_the_score_is_shown_only_on_wish(run) -> None:
    assert "1.25" not in run("n q")[1]
    out = run("s q", "--show-score")[1]
    assert "guard: score 1.2500, above the threshold 0.7500, category card-methods" in out


def test_the_document_tells_counts_and_seconds(run, tmp_path) -> None:
    code, out, err = run("y n s q", "--json")
    assert code == 0
    found = json.loads(out)
    assert QUESTION in err
    assert {name: found[name] for name in ("exchanges", "labelled", "harmful", "harmless", "left")} == {
        "exchanges": 4, "labelled": 2, "harmful": 1, "harmless": 1, "left": 2,
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    taken = [line["seconds"] for line in lines]
    assert all(0 <= seconds < 60 for seconds in taken)
    assert found["seconds"] == {"median": round(sum(taken) / 2, 1), "total": round(sum(taken), 1)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--output", "chosen.jsonl"), "--output: the same file"),
        (("--output", "reviews.json"), "--output: expected a name"),
        (("--output", "none/reviews.jsonl"), "--output: the folder"),
        (("--constitution", "stage-magic", "--guard", "guard"), "either --constitution or --guard"),
        (("--constitution", "none.yaml"), "none.yaml"),
        (("--guard", "none"), "none"),
    ],
)
def test_what_cannot_be_labelled_is_one_line(run, arguments, words) -> None:
    code, _, err = run("y", *arguments)
    assert code == 2
    assert words in err.splitlines()[-1]


def test_a_file_without_answers_is_refused(run, tmp_path) -> None:
    write_exchanges(tmp_path / "chosen.jsonl", rows()[-1:])
    code, _, err = run("y")
    assert (code, "no exchange with an answer" in err) == (2, True)


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text) -> None:
    shown = escape_controls(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", shown)
    assert all(character.isprintable() or character in "\n\t" or character.isspace() for character in shown)
    if text.isascii() and text.isprintable():
        assert shown == text


def _take_terminal() -> None:
    # The terminal becomes the one that controls the session, so that Ctrl-C is a signal. Tests that a shell
    # runs in the background inherit that it is ignored.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.said = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lockgate", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60", "LINES": "50", "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def wait_for(self, words: str, times: int = 1, seconds: float = 180) -> str:
        until = time.monotonic() + seconds
        while self.text.count(words) < times:
            assert time.monotonic() < until, self.text
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.master, 65536)
                except OSError:
                    break
        assert self.text.count(words) >= times, self.text
        return self.text

    @property
    def text(self) -> str:
        return self.said.decode("utf-8", "replace")

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        self.wait_for("s a label (median)", seconds=60)
        return self.process.wait(60)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="takes a controlling terminal")
def test_at_a_terminal_single_keys_count_and_ctrl_c_leaves_a_whole_file(tmp_path) -> None:
    write_exchanges(tmp_path / "chosen.jsonl", rows())
    with Terminal(tmp_path, "label", "chosen.jsonl", "--constitution", "stage-magic") as terminal:
        terminal.wait_for(QUESTION)
        # An arrow key, which begins like Escape, and keys that are pressed before they are asked for.
        terminal.press(b"\x1b[A")
        terminal.wait_for(QUESTION, 2)
        terminal.press(b"y3n")
        terminal.wait_for(QUESTION, 4)
        written = (tmp_path / "reviews.jsonl").read_text().splitlines()
        assert [json.loads(line)["verdict"] for line in written] == ["harmful", "harmless"]
        terminal.press(b"uny\r")
        terminal.wait_for(QUESTION, 7)
        terminal.press(b"\x03")
        assert terminal.end() in (130, -signal.SIGINT)
    assert verdicts(tmp_path / "reviews.jsonl") == [
        ("harmful", policy()[0].category_ids[2], 0), ("harmless", None, 1), ("harmful", None, 2),
    ]  # fmt: skip
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text)
    # Styles alone are escapes; those of the texts are shown in words.
    assert "\x1b" not in plain
    assert "\\x1b[2J\\x1b]0;title\\x07 hidden\\u202e text\\x00 \\u200b end" in plain
    shown = plain[: plain.rindex(QUESTION)].replace("\r", "").split("\n")
    assert max(len(line) for line in shown) <= 60
