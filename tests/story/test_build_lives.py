"""A build that a server starts is interrupted, cancelled and goes on. It is a real one, on a tiny model."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import Command

sys.path += [str(Path(__file__).parents[1] / name) for name in ("assembly", "synthesis")]

from build_runs import POLICY, labelled_row, traffic_row, write_rows
from factory_runs import tiny_plan
from fake_endpoint import serving_endpoint
from parts import make_guard
from test_factory_faults import write_reply

from lockgate.backbones import Backbone
from lockgate.constitution import dump_constitution
from lockgate.errors import ConfigError
from lockgate.guards import read_bundle
from lockgate.rollout import Builds

PLAN = tiny_plan(queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1})
LINES = [
    json.dumps({"exchange": labelled_row(number, 0.0).to_dict(), "verdict": "harmless"}).encode() + b"\n"
    for number in range(300, 304)
]


def wait_for(builds, name, *states):
    until = time.monotonic() + 240
    while (job := builds.job(name)).state not in states:
        assert time.monotonic() < until, (job, builds.tail(name))
        time.sleep(0.05)
    return job


def wait_until(reached):
    until = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ready(tmp_path_factory, saved_backbone):
    """A shelf with a guard, and what builds are made from."""
    folder = tmp_path_factory.mktemp("ready")
    (folder / "plan.yaml").write_text(PLAN.to_yaml())
    (folder / "policy.yaml").write_text(dump_constitution(POLICY))
    write_rows(folder / "traffic.jsonl", [traffic_row(i) for i in range(90)])
    write_rows(folder / "data.jsonl", [labelled_row(i, float(i % 2)) for i in range(80)])
    make_guard(Backbone.load(saved_backbone("llama"))).save(folder / "guards" / "old")
    return folder


def arguments(folder, saved_backbone, url):
    return [
        *(str(folder / "policy.yaml"), "--plan", str(folder / "plan.yaml")),
        *("--benign", str(folder / "traffic.jsonl"), "--data", str(folder / "data.jsonl")),
        *("--backbone", str(saved_backbone("llama")), "--workers", "1", "--epochs", "2", "--folds", "0"),
        *("--generator", url, "--model", "writer"),
    ]


def test_a_build_is_interrupted_cancelled_and_ends(ready, saved_backbone, tmp_path):
    shelf, work, old = ready / "guards", tmp_path / "work", ready / "guards" / "old"
    with serving_endpoint(manners=lambda body, attempt: write_reply(body), hold=1000) as endpoint:
        builds = Builds(work, shelf, arguments(ready, saved_backbone, endpoint.url))
        builds.start("new", "mill/ann", old, LINES)
        wait_until(lambda: endpoint.in_flight)
        assert builds.job("new").state == "running"
        # One at a time, also if another server asks.
        for other in (builds, Builds(work, shelf, [])):
            with pytest.raises(ConfigError, match="another build is running"):
                other.start("newer", "mill/ben", old, LINES)
            with pytest.raises(ConfigError, match="another build is running"):
                other.resume("new")
            assert other.job("new").state == "running"
        # The server ends, and the next one finds it.
        builds.close()
        builds = Builds(work, shelf, arguments(ready, saved_backbone, endpoint.url))
        assert builds.job("new").state == "interrupted"
        asked = len(endpoint.bodies)
        builds.resume("new")
        wait_until(lambda: len(endpoint.bodies) > asked)
        builds.cancel()
        job = builds.job("new")
        assert (job.state, job.problem, job.ended is None) == ("cancelled", None, False)
        assert not (shelf / "new").exists()
        builds.cancel()  # nothing runs
        endpoint.hold = 0
        builds.resume("new", accept=True)
        job = wait_for(builds, "new", "done", "worse", "failed")
    assert (job.state, job.problem) == ("done", None), builds.tail("new", 40)
    assert (job.by, job.reviews, job.accept, job.update) == ("mill/ann", 4, True, str(old))
    assert read_bundle(shelf / "new").record.constitution.name == POLICY.name
    report = builds.report("new")
    assert report["update"]["accepted"]
    assert report["rows"]["feedback"]["lines"] == 4
    assert any(line.startswith("report: ") for line in builds.tail("new", 100))
    with pytest.raises(ConfigError, match="could go on"):
        builds.resume("new")
    with pytest.raises(ConfigError, match="there is a guard or a build of this name"):
        builds.start("new", "mill/ann", old, LINES)
    assert [found.name for found in builds.jobs()] == ["new"]


SERVER = """
import sys, threading
from pathlib import Path
from lockgate.rollout import Builds
work, shelf, *words = sys.argv[1:]
Builds(Path(work), Path(shelf), words).start("other", "mill/ann", Path(shelf) / "old", [b"{}\\n"])
print("started", flush=True)
threading.Event().wait()
"""


def test_a_build_ends_with_a_server_that_is_killed(ready, saved_backbone, tmp_path):
    script, work = tmp_path / "server.py", tmp_path / "work"
    script.write_text(SERVER)
    words = (script, work, ready / "guards", *arguments(ready, saved_backbone, "http://127.0.0.1:9/v1"))
    server = Command(*words, cwd=tmp_path)
    try:
        assert server.first_line() == "started\n"
        assert len(server.alive()) > 1
        os.kill(server.process.pid, signal.SIGKILL)
        server.assert_nothing_left()
    finally:
        server.close()
    assert Builds(work, ready / "guards", []).job("other").state == "interrupted"
