"""A guard takes over together with the link, or neither changes."""

import shutil
from contextlib import contextmanager

import pytest

from lockgate.durable import file_sha256
from lockgate.errors import ConfigError, LockgateError
from lockgate.rollout import GuardLink, Rollout, Shelf, StaleChange, Wish


def sha(folder):
    return file_sha256(folder / "guard.yaml")


class Server:
    """What a server would do, with the link's own bundles."""

    def __init__(self, link):
        self.link, self.running, self.said, self.paused = link, sha(link), [], 0
        self.problem = None

    def take_over(self, folder, by):
        assert self.link.resolve() == folder
        assert self.paused
        if self.problem is not None:
            raise LockgateError(self.problem)
        self.running = sha(folder)
        self.said.append((folder.name, by))

    @contextmanager
    def pause(self):
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1


@pytest.fixture
def server(bundles, tmp_path):
    link = tmp_path / "current"
    GuardLink(link).promote(bundles / "a")
    return Server(link)


@pytest.fixture
def rollout(bundles, server):
    return Rollout(Shelf(bundles), server.link, lambda: server.running, server.take_over, server.pause)


def test_there_and_back(bundles, server, rollout):
    rollout.promote("b", Wish(sha(bundles / "a"), sha(bundles / "b"), "mill/ann"))
    assert server.link.resolve() == bundles / "b"
    rollout.back(Wish(sha(bundles / "b"), sha(bundles / "a"), "mill/ben"))
    assert server.link.resolve() == bundles / "a"
    assert server.said == [("b", "mill/ann"), ("a", "mill/ben")]
    assert [(found.action, found.by) for found in rollout.link().entries] == [
        ("promote", None),
        ("promote", "mill/ann"),
        ("back", "mill/ben"),
    ]


def test_a_server_that_refuses_keeps_the_link(bundles, server, rollout):
    server.problem = "made for another model"
    with pytest.raises(LockgateError, match="made for another model"):
        rollout.promote("b", Wish(sha(bundles / "a"), sha(bundles / "b"), "mill/ann"))
    assert server.link.resolve() == bundles / "a"
    assert len(rollout.link().entries) == 1


def test_what_is_no_longer_true_changes_nothing(bundles, server, rollout):
    wish = Wish(sha(bundles / "a"), sha(bundles / "b"), "mill/ann")
    rollout.promote("b", wish)
    for late in (lambda: rollout.promote("b", wish), lambda: rollout.back(wish)):
        with pytest.raises(StaleChange, match="Another guard runs now"):
            late()
    now = sha(bundles / "b")
    with pytest.raises(ConfigError, match="another guard by now"):
        rollout.promote("c", Wish(now, "0" * 64, "mill/ann"))
    with pytest.raises(StaleChange, match="has no guard gone"):
        rollout.promote("gone", Wish(now, "0" * 64, "mill/ann"))
    assert len(server.said) == 1
    assert server.paused == 0


def test_a_link_that_the_server_did_not_follow_is_brought_back(bundles, server, rollout):
    """As after a reload that failed: the link names b, and a runs."""
    GuardLink(server.link).promote(bundles / "b")
    rollout.back(Wish(sha(bundles / "a"), sha(bundles / "a"), "mill/ann"))
    assert server.link.resolve() == bundles / "a"
    assert server.said == []


def test_the_shelf_shows_what_is_there(bundles, tmp_path, server):
    shelf = Shelf(bundles)
    found = {one.name: one for one in shelf.guards()}
    assert set(found) == {"a", "b", "c", "damaged"}
    assert found["a"].sha256 == sha(bundles / "a")
    assert found["a"].constitution.name == "stage-magic"
    assert found["a"].record.thresholds.flag == 0.5
    assert (found["damaged"].record, found["damaged"].problem is None) == (None, False)
    # What has not changed is not read again.
    assert {one.name: one for one in shelf.guards()}["a"] is found["a"]
    assert shelf.guard("current") is None
    assert Shelf(tmp_path).guards() == []
    with pytest.raises(ConfigError, match="No such file"):
        Shelf(tmp_path / "nowhere").guards()


def test_a_guard_that_is_replaced_is_read_again(bundles, tmp_path):
    shutil.copytree(bundles / "a", tmp_path / "guard")
    shelf = Shelf(tmp_path)
    assert shelf.guard("guard").sha256 == sha(bundles / "a")
    shutil.rmtree(tmp_path / "guard")
    shutil.copytree(bundles / "b", tmp_path / "guard")
    assert shelf.guard("guard").sha256 == sha(bundles / "b")
