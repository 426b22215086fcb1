"""Builds that a server starts: what is refused, and what becomes of one that fails."""

import time

import pytest

from lockgate.errors import ConfigError
from lockgate.rollout import Builds

LINES = [b"{}\n"]


@pytest.mark.slow
def test_what_fails_says_so_in_words(bundles, tmp_path):
    builds = Builds(tmp_path / "work", bundles, [str(tmp_path / "no-policy.yaml")])
    builds.start("failed", "mill/ann", bundles / "a", LINES)
    until = time.monotonic() + 240
    while (job := builds.job("failed")).state == "running":
        assert time.monotonic() < until, builds.tail("failed")
        time.sleep(0.05)
    assert job.state == "failed"
    assert "no-policy.yaml" in job.problem
    assert "Traceback" not in "\n".join(builds.tail("failed", 100))
    assert builds.report("failed") is None


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("../out", LINES, "expected up to 64 letters"),
        (".hidden", LINES, "expected up to 64 letters"),
        ("", LINES, "expected up to 64 letters"),
        ("b", LINES, "there is a guard or a build of this name"),
        ("none", [], "no verdict"),
    ],
)
def test_what_cannot_be_built_starts_nothing(bundles, tmp_path, name, lines, said):
    builds = Builds(tmp_path / "work", bundles, [])
    with pytest.raises(ConfigError, match=said):
        builds.start(name, "mill/ann", bundles / "a", lines)
    assert builds.jobs() == []
    # The next one is not in its way.
    assert builds.job("none") is None


def test_records_that_are_damaged_are_named(tmp_path):
    builds = Builds(tmp_path, tmp_path, [])
    (tmp_path / "jobs" / "odd").mkdir(parents=True)
    (tmp_path / "jobs" / "odd" / "job.json").write_text("{")
    (tmp_path / "jobs" / "odd" / "report.json").write_text("[]")
    for read in (builds.jobs, lambda: builds.job("odd"), lambda: builds.report("odd")):
        with pytest.raises(ConfigError, match="odd"):
            read()
    assert builds.job("../odd") is None
    assert builds.tail("odd") == []
