"""`lockgate backup` as a command."""

import json
import sqlite3
import subprocess

import pytest
from logs import checked, decision, write_log

from lockgate.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "log.db", [decision(number) for number in range(5)])

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["backup", *arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_it_copies_checks_and_names_what_the_database_lacks(run, tmp_path):
    (tmp_path / "log.db.spill.17-00").write_text("")
    code, out, err = run("log.db", "--output", "copy.db", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["schemas"] == {"decision log": "0001"}
    assert found["log"] == checked(tmp_path / "log.db").to_dict()
    assert found["spill_files"] == ["log.db.spill.17-00"]
    code, out, _ = run("log.db", "--output", "copy.db", "--force")
    assert code == 0
    assert "1 chain(s) hold" in out
    assert "log.db.spill.17-00 has records that are not in the database yet" in out


def test_a_broken_chain_is_copied_and_said(run, tmp_path):
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.execute("UPDATE entries SET body = '{}' WHERE seq = 2")
    connection.commit()
    connection.close()
    code, out, _ = run("log.db", "--output", "copy.db")
    assert code == 1
    assert "are BROKEN" in out
    assert (tmp_path / "copy.db").is_file()


def test_a_database_of_postgresql_is_dumped_and_comes_back(run, tmp_path, postgres):
    where, other = postgres.database(), postgres.database()
    write_log(where, [decision(number) for number in range(5)])
    code, out, err = run(where, "--output", "log.dump")
    assert code == 0, err
    assert out.startswith("log.dump: decision log (schema 0001), ")
    assert "`lockgate log verify`" in out
    subprocess.run(["pg_restore", f"--dbname={other}", "log.dump"], check=True)
    assert checked(other) == checked(where)
    assert json.loads(run(where, "--output", "log.dump", "--force", "--json")[1])["log"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.db", "--output", "copy.db"), "none.db: no such file"),
        (("log.db", "--output", "log.db"), "is there already"),
        (("log.db", "--output", "log.db", "--force"), "is the database itself"),
        (("log.db", "--output", "none/copy.db"), "does not exist; make it first"),
        (("mysql://x/y", "--output", "copy.db"), "mysql:// is not supported"),
        (("postgresql://a:secret@h/d", "--output", "copy.db"), "holds a password"),
    ],
)
def test_bad_input_is_one_line(run, arguments, words, tmp_path):
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err
    assert "secret" not in err
    assert "Traceback" not in err
    assert not (tmp_path / "copy.db").exists()
