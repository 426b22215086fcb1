"""A replay of exchanges says what a loop over both guards says, and counts everything that it leaves out."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from classifying import tiny_classifier
from logs import write_lines
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.cascade import Cascade
from lockgate.decisions import Decision, Scores
from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from lockgate.guards import Guard
from lockgate.traffic import Counts, Replay, ReplayPlan, _files, replay, write_changes

N = 40
ALONE = Exchange((Message("user", "a prompt alone, of the mill and the orchard by the water"),))


def rows() -> list[Exchange]:
    """Exchanges with the ids of their responses. One has no answer, and one shares its response."""
    made = [replace(make_exchange(i, 1 + 5 * i % 21), meta={"id": f"chatcmpl-{i}"}) for i in range(N)]
    made[7] = replace(ALONE, meta={"id": "chatcmpl-7"})
    made[9] = replace(made[9], meta={"id": "chatcmpl-8", "choice": 1})
    return made


@pytest.fixture(scope="module")
def backbone(saved_backbone) -> Backbone:
    return Backbone.load(saved_backbone("llama"))


def median(guard: Guard, share: float) -> float:
    """A threshold between the scores of two rows, above about `share` of them."""
    scores = sorted(score.mixed_max for score in guard.score_many(rows()) if math.isfinite(score.mixed_max))
    place = int(share * len(scores))
    return (scores[place] + scores[place + 1]) / 2


@pytest.fixture(scope="module", params=["both", "answer", "two stages"])
def guards(request, backbone, tmp_path_factory) -> tuple[Guard, Guard]:
    """Two guards that flag some of the exchanges each."""
    folder = tmp_path_factory.mktemp("guards")
    flag_on = "answer" if request.param == "answer" else "both"
    made = []
    for seed in range(2):
        guard = make_guard(backbone, seed=seed, flag=1e9, flag_on=flag_on, min_tokens=4)
        if request.param == "two stages":
            alarm = median(guard, 0.4)
            deaf = guard.with_cascade(tiny_classifier(), Cascade(alarm, 1e9, 0.5, tolerance=1e-3))
            cascade = Cascade(alarm, median(deaf, 0.5), 0.5, tolerance=1e-3)
            guard = guard.with_cascade(tiny_classifier(), cascade)
        else:
            guard = make_guard(
                backbone, seed=seed, flag=median(guard, 0.5 + 0.2 * seed), flag_on=flag_on, min_tokens=4
            )
        made.append(guard.save(folder / str(seed)))
    return made[0], made[1]


@pytest.fixture
def traffic(tmp_path, monkeypatch) -> list[Path]:
    monkeypatch.setattr(_files, "CHUNK", 7)
    write_exchanges(tmp_path / "a.jsonl", rows()[:25])
    (tmp_path / "none.jsonl").touch()
    write_exchanges(tmp_path / "b.jsonl.gz", rows()[25:])
    return [tmp_path / name for name in ("a.jsonl", "none.jsonl", "b.jsonl.gz")]


def tally(before: list[bool], after: list[bool]) -> Counts:
    pairs = list(zip(before, after, strict=True))
    return Counts(
        *(pairs.count(pair) for pair in ((False, True), (True, False), (True, True), (False, False)))
    )


def check(found: Replay, before: list[bool], after: list[bool], kept: list[int]) -> None:
    assert found.counts == tally(before, after)
    listed = [(change.row + (0, 0, 25)[change.file] - 1, change.halted) for change in found.changes]
    differing = zip(kept, before, after, strict=True)
    assert listed == [(row, now) for row, then, now in differing if then != now]


def test_against_another_guard_is_what_two_loops_say(guards, traffic) -> None:
    after, before = ([score.flagged for score in guard.score_many(rows())] for guard in guards)
    found = replay(guards[0], traffic, against=guards[1])
    check(found, before, after, list(range(N)))
    assert found.counts.newly_halted > 0
    assert found.counts.newly_passed > 0
    assert (found.against, found.kind, found.left_out) == ("another guard", "traffic", {})
    assert found.admitted == before.count(False)
    sums = np.sum(list(found.by_category.values()), axis=0)
    assert tuple(sums) == (*found.counts[:3], 0)
    assert tuple(np.sum(list(found.by_stage.values()), axis=0)) == found.counts
    same = replay(guards[0], traffic, against=guards[0])
    assert same.changes == ()
    assert same.counts.still_halted == after.count(True)


def test_thresholds_count_what_the_guard_would_flag_there(guards, traffic) -> None:
    guard = guards[0]
    scores = list(guard.score_many(rows()))
    finite = [score.mixed_max for score in scores if math.isfinite(score.mixed_max)]
    tried = (float(np.quantile(finite, 0.3)) + 1e-6, max(finite) + 1, min(finite) - 1)
    found = replay(guard, traffic, ReplayPlan(thresholds=tried))
    own = guard.record.decides
    assert [row.threshold for row in found.thresholds] == sorted({own.flag, *tried})
    for row in found.thresholds:
        flagged = [score.mixed_max > row.threshold - own.tolerance for score in scores]
        assert row.counts == Counts(sum(flagged), 0, 0, N - sum(flagged))
        if row.threshold == own.flag:
            assert flagged == [score.flagged for score in scores]
    # The first one given says what is listed.
    assert found.threshold == tried[0]
    assert len(found.changes) == found.counts.newly_halted
    assert found.against == "nothing"


def write_log(path: Path, decisions: list[tuple[str, int, str, bool]]) -> Path:
    lines = []
    for identity, choice, decision, enforced in decisions:
        lines.append(
            Decision(
                id=identity, choice=choice, time="", mode="enforce", guard="0", decision=decision,
                enforced=enforced, finish_reason=None, category="spoilers" if decision == "halt" else None,
                token_index=None, scores=Scores(None, 0.0, 1.0), prompt_tokens=1, completion_tokens=1,
                queue_ms=0.0, first_token_ms=None, total_ms=0.0,
            )
        )  # fmt: skip
    return write_lines(path, lines)


def test_the_log_says_what_was_decided(guards, traffic, tmp_path) -> None:
    kinds = ["pass", "halt", "block", "cancelled", "error"]
    lines = [(f"chatcmpl-{i}", 0, kinds[i % 5], i % 2 == 0) for i in range(N) if i not in (9, 30)]
    lines += [("chatcmpl-8", 1, "halt", True), ("chatcmpl-9", 0, "pass", False), lines[0]]
    log = write_log(tmp_path / "log.jsonl", lines)
    with log.open("a") as file:
        file.write('{"id": "chatcmpl-3", "cho\n')
    found = replay(guards[0], traffic, ReplayPlan(decisions=(log,)))
    decided = {(identity, choice): (decision, enforced) for identity, choice, decision, enforced in lines}
    kept = [
        i for i, row in enumerate(rows())
        if decided.get((row.meta["id"], row.meta.get("choice", 0)), ("error",))[0] != "error"
    ]  # fmt: skip
    told = [decided[rows()[i].meta["id"], rows()[i].meta.get("choice", 0)] for i in kept]
    before = [decision in ("halt", "block") for decision, _ in told]
    flagged = [score.flagged for score in guards[0].score_many(rows())]
    check(found, before, [flagged[i] for i in kept], kept)
    assert found.left_out == {
        "malformed lines of the log": 1,
        "repeated lines of the log": 1,
        "lines of the log without an exchange": 1,
        "exchanges without a line in the log": 1,
        "exchanges that could not be checked when they were recorded": 7,
    }
    assert found.n + 7 + 1 == N
    enforced = [halted and told[i][1] for i, halted in enumerate(before)]
    assert found.unenforced == sum(before) - sum(enforced)
    assert found.cut_short == sum(cut and not flagged[i] for cut, i in zip(enforced, kept, strict=True))


def test_changed_records_can_be_read_as_exchanges_by_their_owner_alone(guards, traffic, tmp_path) -> None:
    found = replay(guards[0], traffic, against=guards[1])
    assert write_changes(found, tmp_path / "rows.jsonl") == len(found.changes) > 0
    assert (tmp_path / "rows.jsonl").stat().st_mode & 0o777 == 0o600
    read = list(read_exchanges(tmp_path / "rows.jsonl"))
    assert [row.id for row in read] == [change.id for change in found.changes]
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row.meta["replay"] for row in read] == document["changes"]
    assert all(row.meta["id"].startswith("chatcmpl-") for row in read)


class Stopped(Exception):
    """Ends a replay in the middle."""


def test_an_interrupted_replay_goes_on_and_a_second_one_scores_nothing(
    guards, traffic, tmp_path, monkeypatch
) -> None:
    scored = []
    plain = Guard.score_many

    def counted(self, exchanges, **options):
        taken = list(exchanges)
        scored.extend(row.id for row in taken)
        return plain(self, taken, **options)

    monkeypatch.setattr(Guard, "score_many", counted)

    def stop(path, done):
        if len(scored) > 10:
            raise Stopped

    plan = ReplayPlan(scratch=tmp_path / "state")
    with pytest.raises(Stopped):
        replay(guards[0], traffic, plan, report=stop)
    assert 10 < len(scored) < 25
    found = replay(guards[0], traffic, plan)
    assert len(scored) == N
    assert "mill" not in "".join(
        path.read_text(errors="replace") for path in tmp_path.glob("state/**/*") if path.is_file()
    )
    lower = replay(guards[0], traffic, replace(plan, thresholds=(-1e9,)))
    assert len(scored) == N
    assert lower.thresholds[1].counts == found.counts
    assert found == replay(guards[0], traffic)


def test_malformed_exchanges_stop_it_or_are_counted(guards, traffic, tmp_path) -> None:
    with traffic[0].open("a") as file:
        file.write("{}\n")
    with pytest.raises(ExchangeError, match="messages: missing"):
        replay(guards[0], traffic)
    found = replay(guards[0], traffic, ReplayPlan(skip_invalid=True, thresholds=(-1e9,)))
    assert found.left_out == {"malformed exchanges": 1}
    assert write_changes(found, tmp_path / "rows.jsonl") == len(found.changes)
    assert [row.id for row in read_exchanges(tmp_path / "rows.jsonl")] == [c.id for c in found.changes]


def test_bad_input_is_refused_before_the_reading(guards, traffic, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Guard, "score_many", lambda *_, **__: pytest.fail("scored"))
    log = write_log(tmp_path / "log.jsonl", [("chatcmpl-999", 0, "pass", False)])
    for files, settings, other, message in (
        (traffic, {"decisions": (log,)}, None, "no line belongs to an exchange"),
        (traffic, {"decisions": (log,)}, guards[1], "against: give either"),
        (traffic[1:2], {}, None, "there is nothing to replay"),
        ([tmp_path / "no.jsonl"], {}, None, "no such file"),
    ):
        with pytest.raises((ConfigError, ExchangeError), match=message):
            replay(guards[0], files, ReplayPlan(**settings), against=other)
    with pytest.raises(ConfigError, match="thresholds: expected finite numbers"):
        ReplayPlan(thresholds=(math.nan,))
