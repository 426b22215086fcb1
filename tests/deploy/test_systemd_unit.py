"""The systemd unit and its config: what systemd says of it, and a server that runs with it."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from deploying import CLIENT_KEY, DEPLOY, ask, program, serving, write_config
from logs import checked
from processes import Command

FOLDER = DEPLOY / "systemd"
UNIT = FOLDER / "lockgate.service"
CREDENTIALS = "/run/credentials/lockgate.service"
COMMAND = "/opt/lockgate/bin/lockgate"
HINT = "apt install systemd"


def settings(name: str) -> list[str]:
    """The values of a setting of the unit, in order."""
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if not line.startswith("#")]
    return [value for key, _, value in lines if key == name]


def example() -> dict[str, object]:
    found = yaml.safe_load((FOLDER / "lockgate.yaml").read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def deployed(guard_folders, tmp_path) -> Iterator[Path]:
    """The config of the unit, in a folder that has what systemd would put in its places."""
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "client-key").write_text(CLIENT_KEY + "\n")
    places = {
        "/srv/lockgate": str(guard_folders),
        CREDENTIALS: str(tmp_path / "credentials"),
        "/var/lib/lockgate": str(tmp_path),
    }
    return write_config(tmp_path / "lockgate.yaml", example(), places)


def test_systemd_accepts_the_unit(tmp_path) -> None:
    analyze = program("systemd-analyze", HINT)
    # systemd looks whether the command is there, and on a machine of ours it is not.
    there = tmp_path / "lockgate"
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(COMMAND, str(there)))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_systemd_finds_little_exposed() -> None:
    analyze = program("systemd-analyze", HINT)
    words = [analyze, "security", "--offline=yes", "--threshold=15", "--json=short", str(UNIT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    exposed = {row["json_field"] for row in json.loads(done.stdout) if row["set"] is False}
    never = {"UserOrDynamicUser", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "SystemCallFilter_swap"}
    assert not exposed & never
    assert not any(name.startswith("CapabilityBoundingSet") for name in exposed)


def test_the_user_of_the_unit_is_the_one_that_is_made() -> None:
    lines = (FOLDER / "lockgate.sysusers").read_text().splitlines()
    made = [line.split()[1] for line in lines if line.startswith("u ")]
    assert made == settings("User") == settings("Group")


def test_systemd_waits_longer_than_the_server_drains() -> None:
    listen = example()["listen"]
    assert isinstance(listen, dict)
    # 5 s for last words, and some for the log.
    assert int(settings("TimeoutStopSec")[0]) >= listen["drain_timeout"] + 20


def test_every_credential_of_the_config_is_loaded() -> None:
    text = (FOLDER / "lockgate.yaml").read_text()
    loaded = [value.partition(":")[0] for value in settings("LoadCredential")]
    assert [name for name in loaded if f"{CREDENTIALS}/{name}" in text] == loaded == ["client-key"]


def test_a_server_runs_reloads_and_stops_as_the_unit_says(preloaded, deployed) -> None:
    assert settings("ExecStart") == [f"{COMMAND} serve --config /etc/lockgate/lockgate.yaml"]
    assert settings("ExecReload")[-1] == "/bin/kill -HUP $MAINPID"
    with serving(preloaded, deployed, variables={"LOCKGATE_HOME": str(deployed.parent)}) as command:
        url = json.loads(command.first_line())["url"]
        assert url.startswith("http://127.0.0.1:")
        assert ask(url, None).status_code == 401
        assert ask(url).status_code == 200
        command.send(signal.SIGHUP)
        command.wait_until(lambda: "read again" in command.errors.read_text())
        command.send(signal.SIGTERM)
        assert str(command.process.wait(60)) in settings("SuccessExitStatus")
    assert checked(deployed.parent / "decisions.db").ok


def test_a_reload_of_a_broken_file_fails_before_the_server_hears_of_it(preloaded, deployed) -> None:
    assert settings("ExecReload")[0] == f"{COMMAND} config check /etc/lockgate/lockgate.yaml"
    for content, code in ((deployed.read_text(), 0), (deployed.read_text() + "modes: enforce\n", 2)):
        deployed.write_text(content)
        command = Command("lockgate", "config", "check", deployed, cwd=deployed.parent, preloaded=preloaded)
        assert command.process.wait(60) == code, command.errors.read_text()
        command.close()
