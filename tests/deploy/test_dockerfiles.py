"""The Dockerfiles. No image is built here; what its steps need is tried one by one."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from core_install import core_distributions
from deploying import CLIENT_KEY, DEPLOY, EXTRA, ROOT, ask, program

FOLDER = DEPLOY / "docker"
FILES = [FOLDER / "Dockerfile", FOLDER / "Dockerfile.cuda"]
READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind "$LOCKGATE_HOME" "$LOCKGATE_HOME"
mount -o remount,bind,ro /
if touch /read-only 2>/dev/null; then exit 99; fi
exec "$@"
"""


def instructions(path: Path) -> list[tuple[str, str]]:
    """Name and rest of each instruction, on one line each."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line]


def found(path: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(path) if instruction == name]


def health_check(path: Path) -> str:
    """The program of the health check."""
    command = json.loads(found(path, "HEALTHCHECK")[0].partition(" CMD ")[2])
    assert command[:2] == ["/opt/lockgate/bin/python", "-c"]
    return str(command[2])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path) -> None:
    words = [program("hadolint", EXTRA), "--failure-threshold", "style", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_image_runs_without_rights_from_a_pinned_base(path) -> None:
    assert found(path, "USER") == ["10001:10001"]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-[a-z]+", found(path, "ARG")[0])
    assert {rest.partition(" ")[0] for rest in found(path, "FROM")} == {"python:${PYTHON}"}
    assert found(path, "VOLUME") == ["/var/lib/lockgate"]
    assert not re.search(r"https?://(?!127\.0\.0\.1)|\.org/|\.com/|\.io/", path.read_text())


def test_all_that_the_image_installs_is_pinned() -> None:
    extras = re.search(r"\}\[([a-z,]+)\]", FILES[0].read_text())
    assert extras is not None
    assert all(extras[0] in path.read_text() for path in FILES)
    pins = re.findall(r"^([^#=\s]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pinned = {re.sub(r"[-_.]+", "-", name.lower()) for name in pins}
    # PyTorch's wheel says which of CUDA's libraries it takes. `pip freeze` leaves setuptools out.
    theirs = {"setuptools", "triton", "cuda-bindings", "cuda-toolkit"}
    needed = {name for name in core_distributions(tuple(extras[1].split(","))) if "nvidia" not in name}
    assert needed - theirs <= pinned


def test_the_wheel_can_be_made_from_what_is_copied(tmp_path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {name for rest in found(FILES[0], "COPY") if "--from" not in rest for name in rest.split()[:-1]}
    assert copied == set(let_in)
    for name in sorted(copied):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("lockgate-*.whl")
    with zipfile.ZipFile(wheel) as made:
        assert {"lockgate/cli/__init__.py", "lockgate/gateway/templates/playground.html"} <= set(
            made.namelist()
        )


@pytest.mark.slow
def test_a_server_writes_only_to_its_home(guard_folders, tmp_path) -> None:
    """The root is read-only, as in the image; and the health check says first no, then yes."""
    unshare = program("unshare", "apt install util-linux")
    if subprocess.run([unshare, "-Urm", "true"], check=False, capture_output=True).returncode:
        # No package brings them: the kernel has them or not.
        pytest.skip("no user namespaces: sysctl kernel.unprivileged_userns_clone=1")
    config = {
        "guard": str(guard_folders / "guard"),
        "backbone": str(guard_folders / "model"),
        "threads": 1,
        "keys": {"client": {"env": "CLIENT_KEY"}},
        "listen": {"host": "0.0.0.0", "port": 0},  # noqa: S104 - in a container
    }
    place = tmp_path / "lockgate.yaml"
    place.write_text(yaml.safe_dump(config))
    home = tmp_path / "home"
    home.mkdir()
    own = {"LOCKGATE_HOME": str(home), "HOME": str(home), "TMPDIR": str(home), "CLIENT_KEY": CLIENT_KEY}
    serve = [sys.executable, "-m", "lockgate", "serve", "--config", str(place), "--json"]
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [unshare, "-Urm", "bash", "-c", READ_ONLY, "bash", *serve]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as server,
    ):
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line, (tmp_path / "errors").read_text()
            port = int(json.loads(line)["url"].rpartition(":")[2])
            assert ask(f"http://127.0.0.1:{port}").status_code == 200
            assert is_healthy(port)
        finally:
            server.terminate()
    assert not is_healthy(port)
    assert (home / "decisions.db").exists()


def is_healthy(port: int) -> bool:
    programs = {health_check(path) for path in FILES}
    assert len(programs) == 1
    own = programs.pop().replace("8000", str(port))
    words = [sys.executable, "-c", own]
    # A proxy for the network must not be asked for the server's own address.
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(words, check=False, capture_output=True, env=environment).returncode == 0
