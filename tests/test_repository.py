import hashlib
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_requirement_is_pinned_and_names_no_host() -> None:
    for path in ROOT.glob("requirements*.txt"):
        pins = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert pins, path
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in pins), path
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    names = {line.split("==")[0].lower() for line in pins}
    # The editable install runs without build isolation, so its tools are pinned with the rest.
    assert {"hatchling", "editables", "torch", "pytest"} <= names


def test_every_dependency_of_the_project_is_pinned() -> None:
    pins = (ROOT / "requirements.txt").read_text().lower()
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    for name in re.findall(r'^  "([A-Za-z0-9-]+)(?:>=[^"]*)?",$', project, re.MULTILINE):
        # Some packages spell their own name with another separator.
        spelled = "[-_.]".join(map(re.escape, name.lower().split("-")))
        assert re.search(rf"^{spelled}==", pins, re.MULTILINE), name


def test_the_licence_is_apache_2() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"


def test_make_help_names_every_target() -> None:
    listed = subprocess.run(
        ["make", "-s", "-C", str(ROOT)], capture_output=True, text=True, check=True
    ).stdout
    targets = re.findall(r"^\s+make (\S+)", listed, re.MULTILINE)
    tests = ["test", "test-vllm", "test-clients", "coverage"]
    assert targets == ["help", "setup", "serve", *tests, "check", "docs", "bench"]


def test_scripts_are_executable_and_strict() -> None:
    for script in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        assert os.access(script, os.X_OK), script
        assert script.read_text().startswith("#!/usr/bin/env bash\n"), script
        assert "\nset -euo pipefail\n" in script.read_text(), script


def test_changelog_has_its_form() -> None:
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", section) for section in sections[1:])
