"""`lockgate log` over real logs, as a user calls it."""

import json
import sqlite3
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from logs import checked, decision, decisions_in, opened_log, started, write_log
from processes import Command

from lockgate.cli import _log_export, main
from lockgate.decisions import Content, Turn, make_keys
from lockgate.exchanges import InvalidCounter, read_exchanges
from lockgate.traffic import kind_of, read_decisions


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["log", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def log(tmp_path) -> Path:
    return write_log(tmp_path / "decisions.db", [decision(number) for number in range(5)])


def test_verify_says_that_all_is_well(run, log):
    code, out, _ = run("verify", log)
    assert (code, out) == (0, f"{log}: 1 chain(s) hold: 7 entries, 5 decisions\n")
    code, out, _ = run("verify", log, "--json")
    told = json.loads(out)
    assert (code, told["ok"], told["decisions"], told["breaks"]) == (0, True, 5, [])


def test_verify_names_the_first_broken_link(run, log, tmp_path):
    run("verify", log)
    heads = tmp_path / "heads.json"
    heads.write_text(run("verify", log, "--json")[1])
    chain = json.loads(heads.read_text())["heads"][0]["chain"]
    connection = sqlite3.connect(log)
    with connection:
        connection.execute("DELETE FROM entries WHERE seq >= 5")
    assert run("verify", log)[0] == 0
    code, out, _ = run("verify", log, "--heads", heads)
    assert (code, f"chain {chain}, entry 6: an entry is missing that was noted earlier" in out) == (1, True)
    with connection:
        connection.execute("UPDATE entries SET body = '{}' WHERE seq = 3")
    connection.close()
    code, out, _ = run("verify", log, "--json")
    [found] = json.loads(out)["breaks"]
    assert (code, found["chain"], found["seq"], bool(found["writer"])) == (1, chain, 3, True)
    code, _, err = run("verify", log, "--heads", log)
    assert (code, err.startswith("error: --heads")) == (2, True)


def test_verify_tells_of_exchanges_that_were_cut_off(run, tmp_path):
    log = opened_log(tmp_path / "decisions.db")
    log.begin(started(1))
    log.close()
    assert "1 exchange(s) have begun and have no decision" in run("verify", tmp_path / "decisions.db")[1]


def test_export_writes_the_lines_that_replay_reads(run, log, tmp_path):
    lines = tmp_path / "out.jsonl"
    assert run("export", log, "--output", lines)[0] == 0
    assert [json.loads(line) for line in lines.read_text().splitlines()] == decisions_in(log)
    assert kind_of([lines]) == kind_of([log]) == "decisions"
    invalid = InvalidCounter()
    assert list(read_decisions(lines, invalid)) == list(read_decisions(log, invalid))
    assert invalid.count == 0
    assert run("export", log)[1] == lines.read_text()


@pytest.mark.parametrize("rows", [1, 2, 5, 1000])
def test_export_writes_parquet_with_all_columns(run, log, tmp_path, monkeypatch, rows):
    # Rows are written group by group, so that a long log needs little memory.
    monkeypatch.setattr(_log_export, "_ROWS", rows)
    file = tmp_path / "out.parquet"
    code, out, _ = run("export", log, "--output", file, "--json")
    assert (code, json.loads(out)["records"]) == (0, 5)
    assert pq.read_metadata(file).row_group(0).num_rows == min(rows, 5)
    rows = pq.read_table(file).to_pylist()
    assert len(rows) == 5
    fields = set(msgspec.to_builtins(decision()))
    assert fields <= set(rows[0])
    assert rows[3]["id"] == "chatcmpl-3"
    assert rows[3]["scores"] == {"max_prompt": None, "max_answer": 1.5, "threshold": 3.0, "mixed": None}


def test_export_of_a_span_of_time(run, log):
    assert run("export", log, "--since", "2999-01-01")[1] == ""
    assert len(run("export", log, "--until", "2999-01-01T10:00+02:00")[1].splitlines()) == 5
    code, _, err = run("export", log, "--since", "yesterday")
    assert (code, "expected a time" in err) == (2, True)


def test_sealed_texts_come_out_with_the_key_alone(run, tmp_path):
    private = tmp_path / "private.key"
    code, out, _ = run("keygen", private, "--json")
    public = json.loads(out)["public_key"]
    assert (code, private.stat().st_mode & 0o777) == (0, 0o600)
    assert run("keygen", private)[0] == 2
    path = tmp_path / "decisions.db"
    log = opened_log(path, content="encrypted", public_key=public)
    log.write(decision(), Content((Turn("user", "why"), Turn("assistant", "so"))))
    log.close()
    rows = tmp_path / "rows.jsonl"
    assert run("export", path, "--content", "--output", rows)[0] == 0
    assert "why" not in rows.read_text()
    assert run("export", path, "--content", "--key", private, "--output", rows)[0] == 0
    [row] = read_exchanges(rows)
    assert [(message.role, message.content) for message in row.messages] == [
        ("user", "why"),
        ("assistant", "so"),
    ]
    parquet = tmp_path / "rows.parquet"
    assert run("export", path, "--content", "--key", private, "--output", parquet)[0] == 0
    assert pq.read_table(parquet).to_pylist()[0]["messages"][0] == {"role": "user", "content": "why"}
    other = tmp_path / "other.key"
    other.write_text(make_keys()[1])
    code, _, err = run("export", path, "--content", "--key", other, "--output", rows)
    assert (code, "does not open with this key" in err) == (2, True)
    # What was there stays as it was.
    assert len(rows.read_text().splitlines()) == 1


def test_purge(run, log):
    assert run("purge", log)[0] == 2
    code, out, _ = run("purge", log, "--older-than", "30", "--json")
    assert (code, json.loads(out)["removed"]) == (0, 0)
    code, out, _ = run("purge", log, "--before", "2999-01-01", "--shrink")
    assert (code, out.split()[1]) == (0, "entries")
    assert decisions_in(log) == []
    checked(log)


def test_tail_shows_the_newest(run, log):
    code, out, _ = run("tail", log, "-n", "2", "--json")
    assert (code, [json.loads(line)["id"] for line in out.splitlines()]) == (0, ["chatcmpl-3", "chatcmpl-4"])
    assert "chatcmpl-4/0  pass  enforce  4 tokens" in run("tail", log)[1]


def test_tail_follows(tmp_path, preloaded):
    path = tmp_path / "decisions.db"
    log = opened_log(path)
    log.write(decision(0))
    command = Command(
        "lockgate", "log", "tail", path, "--follow", "--json", cwd=tmp_path, preloaded=preloaded
    )
    try:
        command.first_line()
        log.write(decision(1))
        command.wait_until(lambda: "chatcmpl-1" in command.output.read_text())
    finally:
        command.close()
        log.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "none.db"), "no such file"),
        (("verify", "lines.txt"), "file is not a database"),
        (("verify", "postgresql://me:sesame@host/log"), "LOCKGATE_LOG_PASSWORD"),
        (("export", "log.db", "--output", "out.csv"), "ends with .jsonl or .parquet"),
        (("export", "log.db", "--output", "no/out.jsonl"), "does not exist"),
        (("export", "log.db", "--key", "k"), "needs --content"),
        (("export", "log.db", "--content", "--key", "none"), "not readable"),
        (("purge", "log.db", "--before", "soon"), "expected a time"),
    ],
)
def test_errors_are_one_line(run, log, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    log.rename("log.db")
    Path("lines.txt").write_text('{"decision": "pass"}\n' * 100)
    code, _, err = run(*words)
    assert (code, err.count("\n"), message in err, "sesame" in err) == (2, 1, True, False), err


@pytest.mark.parametrize(
    "given",
    [
        ("purge", "--older-than", "1e9"),
        ("purge", "--older-than", "inf"),
        ("purge", "--before", "0001-01-01T00:00+14:00"),
        ("export", "--until", "9999-12-31T23:59-14:00"),
    ],
)
def test_times_that_no_calendar_has_are_refused(run, log, given):
    code, out, err = run(given[0], log, *given[1:])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(decisions_in(log)) == 5
