"""`lockgate tenants` and `lockgate keys`, as an operator calls them."""

import json

import pytest

from lockgate.cli import main
from lockgate.tenants import Principal, Sign, Tenants


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def path(tmp_path):
    return tmp_path / "operations.db"


def lines(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def test_tenants_are_added_changed_listed_and_removed(run, path):
    place = ("--operations", path)
    assert run("tenants", "add", "acme", "--requests-per-minute", "60", "--burst", "5", *place)[0] == 0
    assert run("tenants", "add", "other", *place)[0] == 0
    code, out, _ = run("tenants", "set", "acme", "--burst", "none", "--concurrent", "3", *place)
    assert (code, out) == (0, "tenant acme: requests_per_minute 60.0, concurrent 3\n")
    _, out, _ = run("tenants", "set", "acme", "--mode", "canary", "--canary-percent", "10", *place)
    assert out == "tenant acme: mode canary, canary_percent 10.0, requests_per_minute 60.0, concurrent 3\n"
    assert run("tenants", "set", "acme", "--mode", "shadow", *place)[0] == 0
    listed = json.loads(run("tenants", "list", "--json", *place)[1])["tenants"]
    limits = {"mode": "shadow", "requests_per_minute": 60.0, "concurrent": 3}
    assert listed[0] == {"tenant": "acme", "keys": 0, "settings": limits}
    assert lines(run("tenants", "list", *place)[1])[2] == ["other", "0", ""]
    assert run("tenants", "remove", "acme", *place)[0] == 0
    assert [row[0] for row in lines(run("tenants", "list", *place)[1])] == ["tenant", "other"]


def test_a_key_is_printed_once_rotated_and_revoked(run, path):
    place = ("--operations", path)
    run("tenants", "add", "acme", *place)
    code, out, err = run("keys", "create", "acme", "laptop", "--role", "reviewer", "--days", "30", *place)
    key = out.strip()
    prefix = key.split("_")[1]
    assert (code, prefix in err, key in err) == (0, True, False)
    with Tenants(path) as tenants:
        assert tenants.find(key) == Principal("acme", prefix, "reviewer")
    _, listed, _ = run("keys", "list", *place)
    assert lines(listed)[1][:5] == [prefix, "acme", "laptop", "reviewer", "valid"]
    assert key not in listed
    assert key not in run("keys", "list", "--json", *place)[1]
    made = json.loads(run("keys", "rotate", prefix, "--grace", "2", "--json", *place)[1])
    assert made["name"] == "laptop"
    with Tenants(path) as tenants:
        assert tenants.find(key) is not None
        assert tenants.find(made["key"]) == Principal("acme", made["prefix"], "reviewer")
    assert run("keys", "revoke", prefix, *place)[0] == 0
    with Tenants(path) as tenants:
        assert tenants.find(key) is None
        assert tenants.find(made["key"]) is not None
    states = json.loads(run("keys", "list", "--tenant", "acme", "--json", *place)[1])["keys"]
    assert [one["state"] for one in states] == ["revoked", "valid"]


def test_a_config_names_the_database(run, tmp_path):
    config = tmp_path / "lockgate.yaml"
    config.write_text("operations: {path: ops.db}\n")
    assert run("tenants", "add", "acme", "--config", config)[0] == 0
    assert (tmp_path / "ops.db").exists()
    code, _, err = run("tenants", "list", "--config", config, "--operations", "x.db")
    assert (code, "leave one out" in err) == (2, True)
    config.write_text("mode: enforce\n")
    code, _, err = run("keys", "list", "--config", config)
    assert (code, "operations: is missing" in err) == (2, True)


def test_a_tenant_gets_a_guard_that_the_config_has(run, tmp_path):
    config = tmp_path / "lockgate.yaml"
    config.write_text("operations: {path: ops.db}\nguards: {strict: a}\n")
    place = ("--config", config)
    assert run("tenants", "add", "acme", "--guard", "strict", *place)[0] == 0
    assert run("tenants", "set", "acme", "--burst", "none", *place)[1] == "tenant acme: guard strict\n"
    code, _, err = run("tenants", "set", "acme", "--guard", "kids", *place)
    assert (code, f"--guard kids: {config} has default, strict" in err) == (2, True)
    assert run("tenants", "set", "acme", "--guard", "none", *place)[1] == "tenant acme: no limits\n"
    # Without the file, the command can't know what the server has.
    elsewhere = ("--operations", tmp_path / "ops.db")
    assert run("tenants", "set", "acme", "--guard", "kids", *elsewhere)[1] == "tenant acme: guard kids\n"


def test_alerts_are_listed_and_their_keys_unlocked(run, path):
    place = ("--operations", path)
    with Tenants(path) as tenants:
        tenants.add_tenant("acme")
        info, _ = tenants.create_key("acme", "laptop")
        tenants.add_alert("acme", info.prefix, Sign("close", 30.0, 25, 40), 600)
        tenants.add_alert("", "team", Sign("flags", 12.345, 10, 80), 600)
        assert tenants.keys()[0].state == "locked"
    listed = {row[2]: row for row in lines(run("tenants", "alerts", *place)[1])[1:]}
    assert listed[info.prefix][3:7] == ["close", "30.0", "25.0", "40"]
    assert listed["team"][3:8] == ["flags", "12.3", "10.0", "80", ""]  # a key of the config stays
    assert len(json.loads(run("tenants", "alerts", "-n", "1", "--json", *place)[1])["alerts"]) == 1
    assert run("keys", "unlock", info.prefix, *place)[0] == 0
    with Tenants(path) as tenants:
        assert tenants.keys()[0].state == "valid"


def test_the_default_is_in_the_home_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path / "home"))
    assert run("tenants", "add", "acme")[0] == 0
    assert (tmp_path / "home" / "operations.db").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tenants", "add", "acme"), "is there already"),
        (("tenants", "add", "a/b"), "expected a name"),
        (("tenants", "set", "acme", "--burst", "x"), "--burst: Expected `int | null`"),
        (("tenants", "set", "acme", "--burst", "3"), "burst: needs requests_per_minute"),
        (("tenants", "set", "acme", "--mode", "loud"), "--mode: Invalid enum value"),
        (("tenants", "set", "acme", "--mode", "canary"), "need each other"),
        (("tenants", "set", "acme", "--guard", "a b"), "guard: expected the name of one of"),
        (("tenants", "set", "acme", "--requests-per-minute", "nan"), "requests_per_minute: expected"),
        (("tenants", "remove", "nobody"), "there is none of this name"),
        (("keys", "create", "nobody", "k"), "there is none of this name"),
        (("keys", "create", "acme", "k", "--role", "root"), "role: expected one of"),
        (("keys", "create", "acme", "k", "--days", "-1"), "days: expected"),
        (("keys", "revoke", "abc"), "no key has this prefix"),
        (("keys", "rotate", "abc"), "no key has this prefix"),
    ],
)
def test_what_is_wrong_is_one_line(run, path, words, said):
    run("tenants", "add", "acme", "--operations", path)
    code, out, err = run(*words, "--operations", path)
    assert (code, out, said in err, err.count("\n")) == (2, "", True, 1)


@pytest.mark.parametrize("words", [("tenants", "list"), ("keys", "list"), ("keys", "revoke", "x")])
def test_a_mistyped_path_makes_no_database(run, path, words):
    code, _, err = run(*words, "--operations", path)
    assert (code, "no such file" in err, path.exists()) == (2, True, False)


def test_another_file_is_refused(run, path):
    path.write_text("notes " * 1000)
    code, _, err = run("tenants", "add", "acme", "--operations", path)
    assert (code, "operations database" in err) == (2, True)
    assert path.read_text() == "notes " * 1000
