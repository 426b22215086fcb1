"""The link that names a guard: one change at a time, whole or not at all."""

import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.durable import file_sha256
from lockgate.errors import ConfigError, GuardError
from lockgate.rollout import GuardLink


@pytest.fixture
def link(tmp_path):
    return tmp_path / "current"


def state(folder):
    """What a change could alter: all names, what links name, and what files hold."""
    return {
        path.name: os.readlink(path) if path.is_symlink() else path.read_bytes() for path in folder.iterdir()
    }


def test_who_wanted_it_is_remembered(bundles, link):
    GuardLink(link).promote(bundles / "a")
    entry = GuardLink(link).promote(bundles / "b", by="mill/ann")
    assert GuardLink(link).entries[-1] == entry
    assert [found.by for found in GuardLink(link).entries] == [None, "mill/ann"]
    assert GuardLink(link).before == GuardLink(link).entries[0]


@pytest.mark.parametrize("names", ["", "a", "ab"])
@pytest.mark.parametrize("by_hand", [False, True], ids=["as it was", "set by hand"])
def test_what_follows_can_fail_and_nothing_has_changed(bundles, link, names, by_hand):
    for name in names:
        GuardLink(link).promote(bundles / name)
    if by_hand:
        link.unlink(missing_ok=True)
        link.symlink_to(bundles / "b")
    before, seen = state(link.parent), []

    def fail(entry):
        seen.append((link.resolve(), entry.guard))
        raise RuntimeError("the server did not follow")

    opened = GuardLink(link)
    with pytest.raises(RuntimeError, match="did not follow"):
        opened.promote(bundles / "c", then=fail)
    assert seen == [(bundles / "c", str(bundles / "c"))]
    assert state(link.parent) == before
    assert opened.entries == GuardLink(link).entries
    if len(names) + by_hand > 1:
        with pytest.raises(RuntimeError, match="did not follow"):
            opened.back(then=fail)
        assert state(link.parent) == before


def test_one_change_at_a_time(bundles, link):
    """Also of another object, as another process would have it."""
    refused = []

    def meet(entry):
        for change in (lambda: GuardLink(link).promote(bundles / "b"), GuardLink(link).back):
            with pytest.raises(ConfigError, match="another change is under way"):
                change()
            refused.append(entry.name)

    GuardLink(link).promote(bundles / "a", then=meet)
    assert len(refused) == 2
    assert GuardLink(link).promote(bundles / "b").action == "promote"


def test_a_change_starts_from_what_others_did_meanwhile(bundles, link):
    early = GuardLink(link)
    GuardLink(link).promote(bundles / "a")
    GuardLink(link).promote(bundles / "b")
    early.promote(bundles / "c")
    assert [found.guard[-1] for found in GuardLink(link).entries] == ["a", "b", "c"]


def test_threads_that_meet_lose_nothing(bundles, link):
    done, lock = [], threading.Lock()

    def change(name):
        while True:
            try:
                entry = GuardLink(link).promote(bundles / name)
            except ConfigError as error:
                assert "under way" in str(error)  # noqa: PT017 - all others are a failure
                continue
            with lock:
                done.append(entry.guard)
            return

    threads = [threading.Thread(target=change, args=(name,)) for name in "abc" * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [found.guard for found in GuardLink(link).entries]
    assert sorted(kept) == sorted(done)
    assert len(kept) == 9
    assert str(link.resolve()) == kept[-1]


def test_a_guard_that_is_not_the_one_that_was_meant_stays_where_it_is(bundles, link):
    GuardLink(link).promote(bundles / "a")
    GuardLink(link).promote(bundles / "b")
    before = state(link.parent)
    with pytest.raises(ConfigError, match="another guard by now"):
        GuardLink(link).promote(bundles / "c", sha256="0" * 64)
    with pytest.raises(ConfigError, match="another one by now"):
        GuardLink(link).back(sha256="0" * 64)
    with pytest.raises(GuardError, match="damaged or replaced"):
        GuardLink(link).promote(bundles / "damaged")
    assert state(link.parent) == before
    assert GuardLink(link).back(sha256=file_sha256(bundles / "a" / "guard.yaml")).guard == str(bundles / "a")


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["a", "b", "c", "back", "fail"]), max_size=12))
def test_the_history_is_a_stack(bundles, tmp_path_factory, acts):
    link = tmp_path_factory.mktemp("stack") / "current"
    names: list[str] = []

    def fail(_):
        raise RuntimeError

    for act in acts:
        if act == "fail":
            with pytest.raises(RuntimeError):
                GuardLink(link).promote(bundles / "a", then=fail)
        elif act != "back":
            GuardLink(link).promote(bundles / act)
            # Naming it again adds nothing to go back to.
            names.append(act)
        elif len(names) < 2:
            with pytest.raises(ConfigError, match="knows no guard before"):
                GuardLink(link).back()
        else:
            names.pop()
            GuardLink(link).back()
        before = GuardLink(link).before
        assert (None if before is None else before.guard[-1]) == (names[-2] if len(names) > 1 else None)
        assert link.is_symlink() == bool(names)
        if names:
            assert link.resolve() == bundles / names[-1]


def test_an_old_history_is_still_read(bundles, link):
    """Before there were pages, entries did not say who."""
    GuardLink(link).promote(bundles / "a")
    file = link.with_name("current.history")
    content = json.loads(file.read_text())
    for entry in content["entries"]:
        del entry["by"]
    file.write_text(json.dumps(content))
    assert GuardLink(link).entries[0].by is None
