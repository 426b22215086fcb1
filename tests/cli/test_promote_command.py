"""`lockgate promote`: the link, its history, and the way back."""

import json
import os
import subprocess
import sys

import pytest
from models import random_head, tiny_backbone
from processes import Command

from lockgate.cascade import Thresholds
from lockgate.cli import main
from lockgate.constitution import constitution_path, load_constitution
from lockgate.guards import Guard


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Three bundles, and one that is damaged."""
    root = tmp_path_factory.mktemp("bundles")
    for number, name in enumerate(["a", "b", "c", "damaged"]):
        backbone = tiny_backbone()
        Guard.create(
            name=f"guard-{name}",
            backbone=backbone,
            constitution=load_constitution("general-harms"),
            constitution_yaml=constitution_path("general-harms").read_text(),
            head=random_head(backbone, number),
            thresholds=Thresholds(1.0),
        ).save(root / name)
    (root / "damaged" / "probe.safetensors").write_bytes(b"")
    return root


@pytest.fixture
def run(capsys):
    def call(*words, code=0):
        with pytest.raises(SystemExit) as ended:
            main(["promote", *map(str, words)])
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        return out if code == 0 else err

    return call


def test_forward_and_back_again(run, bundles, tmp_path):
    link = tmp_path / "current"
    for name in "abc":
        assert f"names guard-{name} (" in run(bundles / name, "--as", link)
        assert link.resolve() == bundles / name
        assert not os.readlink(link).startswith("/")
    run("--back", "--as", link)
    assert link.resolve() == bundles / "b"
    run("--back", "--as", link)
    assert link.resolve() == bundles / "a"
    assert "knows no guard before" in run("--back", "--as", link, code=2)
    run(bundles / "c", "--as", link)
    told = json.loads(run("--as", link, "--list", "--json"))
    assert told["guard"] == str(bundles / "c")
    actions = [(entry["action"], entry["name"][-1]) for entry in told["entries"]]
    assert actions == [*(("promote", name) for name in "abc"), ("back", "b"), ("back", "a"), ("promote", "c")]
    lines = run("--as", link, "--list").splitlines()
    assert (len(lines), lines[-1]) == (7, f"{link} names {bundles / 'c'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "current.history"]


def test_a_link_that_was_set_by_hand_is_remembered_too(run, bundles, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(bundles / "a")
    run(bundles / "b", "--as", link)
    link.unlink()
    link.symlink_to(bundles / "c")
    run("--back", "--as", link)
    assert link.resolve() == bundles / "b"
    run("--back", "--as", link)
    assert link.resolve() == bundles / "a"


def test_nothing_changes_at_an_error(run, bundles, tmp_path):
    link = tmp_path / "current"
    run(bundles / "a", "--as", link)
    history = (tmp_path / "current.history").read_bytes()
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    config = tmp_path / "lockgate.yaml"
    config.write_text("guard: other\n")
    for words, said in (
        ((tmp_path, "--as", link), "the bundle lacks"),
        ((tmp_path / "nowhere", "--as", link), "no such guard"),
        ((bundles / "damaged", "--as", link), "damaged or replaced"),
        ((bundles / "b", "--as", bundles / "c"), "is a folder, no link"),
        ((bundles / "b", "--as", config), "is a file, no link"),
        ((bundles / "b", "--as", tmp_path / "no" / "link"), "its folder does not exist"),
        ((bundles / "b", "--as", link, "--pid", gone), "there is no such process"),
        ((bundles / "b", "--as", link, "--config", config), "guard: names other, and not"),
        ((bundles / "b", "--as", link, "--back"), "give one of"),
        (("--as", link), "give one of"),
        (("--as", link, "--list", "--pid", gone), "leave it out"),
    ):
        assert said in run(*words, code=2)
    assert link.resolve() == bundles / "a"
    assert (tmp_path / "current.history").read_bytes() == history


def test_a_bundle_that_has_changed_is_not_gone_back_to(run, bundles, tmp_path):
    link, copy = tmp_path / "current", tmp_path / "copy"
    Guard.load(bundles / "a", backbone=tiny_backbone()).save(copy)
    run(copy, "--as", link)
    run(bundles / "b", "--as", link)
    Guard.load(bundles / "c", backbone=tiny_backbone()).save(copy)
    assert "is not the guard any more" in run("--back", "--as", link, code=2)
    (tmp_path / "current.history").write_text("{}x")
    assert "is no history of a link" in run("--back", "--as", link, code=2)


SERVER = """
import os, pathlib, signal, sys
link = pathlib.Path(sys.argv[2])
def follow(*_):
    print(link.resolve(), flush=True)
    os._exit(0)
if sys.argv[3] == "listens":
    signal.signal(signal.SIGHUP, follow)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def process(tmp_path):
    """Starts processes under a name, which print what the link names at SIGHUP."""
    started = []

    def start(name, command, link, manner):
        script = tmp_path / "programs" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(SERVER)
        made = subprocess.Popen(
            [sys.executable, script, command, link, manner], stdout=subprocess.PIPE, text=True
        )
        started.append(made)
        assert made.stdout.readline() == "ready\n"
        return made

    yield start
    for made in started:
        made.kill()
        made.communicate()


def test_the_server_gets_a_signal_after_the_change(run, bundles, tmp_path, process):
    link, config = tmp_path / "current", tmp_path / "lockgate.yaml"
    config.write_text("guard: current\n")
    server = process("lockgate", "serve", link, "listens")
    run(bundles / "a", "--as", link, "--pid", server.pid, "--config", config)
    assert server.stdout.readline() == f"{bundles / 'a'}\n"
    assert server.wait(30) == 0


@pytest.mark.parametrize(
    ("name", "command", "manner", "said"),
    [
        ("other", "serve", "listens", "is no `lockgate serve`"),
        ("lockgate", "build", "listens", "is no `lockgate serve`"),
        ("lockgate", "serve", "starts", "does not listen to SIGHUP yet"),
    ],
)
def test_a_process_that_is_no_server_gets_no_signal(
    run, bundles, tmp_path, process, name, command, manner, said
):
    link = tmp_path / "current"
    other = process(name, command, link, manner)
    assert said in run(bundles / "a", "--as", link, "--pid", other.pid, code=2)
    assert not link.is_symlink()
    assert not (tmp_path / "current.history").exists()
    assert other.poll() is None


def test_two_changes_at_once_are_both_remembered(bundles, tmp_path, preloaded):
    """Of commands that meet, those that come too late say so. What the others did is in the history."""
    link = tmp_path / "current"
    commands = [
        Command("lockgate", "promote", bundles / name, "--as", link, cwd=tmp_path, preloaded=preloaded)
        for name in "abcabc"
    ]
    codes = []
    for command in commands:
        codes.append(command.process.wait(60))
        if codes[-1]:
            assert "another change is under way" in command.errors.read_text()
    done = [entry["name"] for entry in json.loads((tmp_path / "current.history").read_text())["entries"]]
    asked = [f"guard-{name}" for name, code in zip("abcabc", codes, strict=True) if code == 0]
    assert set(codes) <= {0, 2}
    assert sorted(done) == sorted(asked)
    assert len(done) >= 1
    assert done[-1] == f"guard-{link.resolve().name}"
