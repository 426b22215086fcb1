"""Answers in whole blocks: pieces have the same sizes whether a stream was held or not; nothing is lost."""

import asyncio
import json
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from engine_runs import new_run, running_engine, start
from given import give, given_run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from relaying import told_by
from remote_model import LocalModel
from scripted_upstream import DONE, Reply, chat_stream, delta, event
from serving import CHAT, ask, client_for, decisions_of, events_of, eventually, scoring_for, text_of
from staging import CALM, LOUD, decisions, staged
from taps import BrokenTap

from lockgate.cascade import Cascade, CascadeState, Regions, StreamState, Thresholds
from lockgate.errors import ConfigError
from lockgate.gateway import EngineOptions
from lockgate.gateway._events import Released
from lockgate.gateway._policies import Change, Policies
from lockgate.gateway._stream import AnswerGate, AnswerText, Pace

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
SINGLE = scoring_for(BACKBONE, HEAD)
PROMPT = 2
FAILED = None
LOGITS = st.floats(-4, 4, width=32)
OPEN = Policies(routes={CHAT: Change(on_failure="open")})


@dataclass
class Course:
    """What a gate did: its pieces, and all the text that had left after each token and at the end."""

    pieces: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    halted: bool = False
    stopped: bool = False

    def take(self, out) -> None:
        if out.text:
            self.pieces.append(out.text)
        self.stopped = self.stopped or out.stopped

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def drive(gate, rows, verdicts) -> Course:
    """Play a stream as a stepper does, with a letter for each answer token."""
    course, asked = Course(), iter(verdicts)

    def judge() -> None:
        verdict = next(asked)
        course.take(gate.give_up("late") if verdict is FAILED else gate.judge(verdict))

    gate.read_prompt(np.array(rows[:PROMPT])[:, None])
    for number, row in enumerate(rows[PROMPT:]):
        if gate.due:
            judge()
        if gate.halted or course.stopped:
            break
        course.take(gate.clear(ord("a") + number % 26, None, np.array([[row]])))
        course.after.append(course.text)
    course.after += [course.text] * (len(rows) - PROMPT - len(course.after))
    if gate.due and not course.stopped:
        judge()
    if not course.stopped:
        course.take(gate.finish())
    if gate.due and not course.stopped:
        judge()
        course.take(gate.finish())
    course.halted = gate.halted
    course.after.append(course.text)
    return course


def gate_of(cascade, thresholds, pace, stops=(), *, tolerant=False, enforce=True) -> AnswerGate:
    state = CascadeState(cascade, StreamState(thresholds, 0.5, Regions(0, 0, PROMPT)))
    text = AnswerText(lambda ids: "".join(map(chr, ids)), stops)
    return AnswerGate(state, text, enforce=enforce, tolerant=tolerant, pace=pace)


# Suspicion may begin anywhere, so some streams begin calm.
ROWS = st.builds(
    lambda quiet, rows: [-9.0] * quiet + rows,
    st.integers(0, 20),
    st.lists(LOGITS, min_size=PROMPT, max_size=30),
)
STREAMS = st.fixed_dictionaries(
    {
        "rows": ROWS,
        "verdicts": st.lists(LOGITS, min_size=50, max_size=50),
        "cascade": st.builds(
            Cascade,
            escalate=st.floats(-3, 3),
            flag=st.just(math.inf),
            weight=st.sampled_from([0.0, 0.5]),
            stride=st.sampled_from([1, 3, 8]),
            calm_blocks=st.integers(1, 3),
            delay=st.sampled_from([0, 0, 3, 8, 20]),
        ),
        "thresholds": st.builds(
            Thresholds,
            st.just(math.inf),
            min_tokens=st.sampled_from([1, 8, 16, 99]),
            flag_on=st.sampled_from(["answer", "both"]),
        ),
        "stops": st.sampled_from([(), ("c",), ("hi", "xyz"), ("qrstu",)]),
    }
)


def play(stream, cascade, pace, *, verdicts=None, **how) -> Course:
    gate = gate_of(cascade, stream["thresholds"], pace, stream["stops"], **how)
    return drive(gate, stream["rows"], stream["verdicts"] if verdicts is None else verdicts)


def calm(cascade: Cascade) -> Cascade:
    return replace(cascade, escalate=math.inf)


def pace_of(cascade: Cascade) -> Pace:
    return Pace(cascade.stride, cascade.delay)


# The first token that counts is calm, and the next one, which ends a block, is not.
EDGE = {
    "rows": [-9.0] * 16 + [3.0] * 4,
    "verdicts": [0.0] * 50,
    "cascade": Cascade(-8.0, math.inf, 0.5, stride=3, calm_blocks=1),
    "thresholds": Thresholds(math.inf, min_tokens=16, flag_on="answer"),
    "stops": (),
}


@given(stream=STREAMS)
@example(EDGE)
def test_pieces_do_not_depend_on_suspicion(stream) -> None:
    cascade = stream["cascade"]
    pace = pace_of(cascade)
    held = play(stream, cascade, pace)
    assert held.pieces == play(stream, calm(cascade), pace).pieces
    assert all(len(piece) % cascade.stride == 0 for piece in held.pieces[:-1]) or stream["stops"]


def test_what_has_cleared_within_a_block_waits_for_its_end() -> None:
    """Three tokens are cleared before the alarm. They leave neither then nor while the verdict is due."""
    cascade = Cascade(0.0, math.inf, 0.5, stride=8)
    gate = gate_of(cascade, Thresholds(math.inf, min_tokens=1, flag_on="answer"), pace_of(cascade))
    rows = [-1.0] * (PROMPT + 3) + [9.0] + [-1.0] * 6
    course = drive(gate, rows, [0.0] * 2)
    assert course.after == [*[""] * 8, *["abcdefgh"] * 2, "abcdefghij"]
    assert course.pieces == ["abcdefgh", "ij"]


@given(stream=STREAMS, flag=st.floats(-2, 2))
def test_a_halted_stream_leaves_no_more_than_a_calm_one_and_nothing_after_the_flag(stream, flag) -> None:
    cascade = replace(stream["cascade"], flag=flag)
    pace = pace_of(cascade)
    held, free = play(stream, cascade, pace), play(stream, calm(cascade), pace)
    if held.halted:
        assert free.pieces[: len(held.pieces)] == held.pieces
        gate = gate_of(cascade, stream["thresholds"], pace, stream["stops"])
        drive(gate, stream["rows"], stream["verdicts"])
        assert gate.halted
        assert (gate.clear(ord("a"), None, np.array([[-9.0]])).text, gate.finish().text) == ("", "")
    else:
        assert held.pieces == free.pieces


@given(stream=STREAMS, flag=st.floats(-2, 4))
def test_nothing_leaves_before_it_would_leave_by_tokens_and_in_the_end_everything_does(stream, flag) -> None:
    cascade = replace(stream["cascade"], flag=flag)
    blocks = play(stream, cascade, pace_of(cascade))
    tokens = play(stream, cascade, None)
    for by_blocks, by_tokens in zip(blocks.after, tokens.after, strict=True):
        assert by_tokens.startswith(by_blocks)
    if not blocks.halted:
        assert blocks.text == tokens.text
    if not (tokens.halted or stream["stops"]):
        letters = "".join(chr(ord("a") + number % 26) for number in range(len(stream["rows"]) - PROMPT))
        assert (blocks.text, blocks.halted) == (letters, False)


@given(stream=STREAMS, failing=st.integers(0, 5))
@example(EDGE, 0)
def test_a_tolerant_gate_keeps_its_pace_when_a_verdict_fails(stream, failing) -> None:
    verdicts = [*stream["verdicts"][:failing], FAILED, *stream["verdicts"]]
    cascade = stream["cascade"]
    pace = pace_of(cascade)
    broken = play(stream, cascade, pace, verdicts=verdicts, tolerant=True)
    assert broken.pieces == play(stream, calm(cascade), pace).pieces


@given(stream=STREAMS)
def test_in_shadow_mode_everything_leaves_at_once(stream) -> None:
    pace = pace_of(stream["cascade"])
    shadow = play(stream, stream["cascade"], pace, enforce=False)
    assert shadow == play(stream, stream["cascade"], None, enforce=False)


@given(stream=STREAMS, ahead=st.lists(LOGITS, min_size=1, max_size=3))
def test_tokens_that_are_not_settled_never_leave_ahead(stream, ahead) -> None:
    """A held stream lets none leave so, and a calm one must look like it."""
    rows = np.array(ahead)[:, None]
    for tolerant in (False, True):
        gate = gate_of(
            calm(stream["cascade"]), stream["thresholds"], Pace(stream["cascade"].stride), tolerant=tolerant
        )
        assert not gate.would_clear(rows)
        if tolerant:
            gate.broken = "it failed"
        assert not gate.would_clear(None)
    shadow = gate_of(stream["cascade"], stream["thresholds"], Pace(stream["cascade"].stride), enforce=False)
    assert shadow.would_clear(rows)


@pytest.mark.parametrize(("grid", "kept"), [(0, 0), (-1, 0), (8, -1)])
def test_a_pace_has_a_block_and_keeps_no_negative_number(grid, kept) -> None:
    with pytest.raises(ValueError, match="pace"):
        Pace(grid, kept)


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(ConfigError, match="release: expected one of token, block"):
        EngineOptions(release="word")


def sizes(run) -> list[int]:
    return [len(one.tokens) for one in run.seen if isinstance(one, Released)]


def in_blocks(count: int, grid: int = 8) -> list[int]:
    return [grid] * (count // grid) + ([count % grid] if count % grid else [])


@pytest.mark.parametrize("delay", [0, 5])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
def test_written_answers_leave_in_blocks(tmp_path, delay, n, remote) -> None:
    """A half-written character waits for its end, so a piece may have a token more or less than a block."""
    seen = []
    for name, cascade in (("calm", CALM), ("held", LOUD)):
        run = new_run(BACKBONE, "why does the lock hold", max_tokens=21, n=n)
        scoring, _ = staged(BACKBONE, HEAD, replace(cascade, delay=delay))
        (tmp_path / name).mkdir()
        model = LocalModel(BACKBONE, HEAD) if remote else None
        how = {"release": "block", "verdict_timeout": 600}
        with running_engine(BACKBONE, scoring, tmp_path / name, model, **how) as engine:
            start(engine, run).finish()
        lines = decisions(tmp_path / name)
        assert {line["stage"] for line in lines} == {1 if cascade is CALM else 2}
        released = [event for event in run.seen if isinstance(event, Released)]
        seen.append([[e.text for e in released if e.choice == choice] for choice in range(n)])
        for line in lines:
            blocks = len(in_blocks(line["completion_tokens"]))
            assert blocks - 1 <= len(seen[-1][line["choice"]]) <= blocks
    assert seen[0] == seen[1]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 120), max_size=8).map(sorted),
    cascade=st.sampled_from([CALM, LOUD]),
    words=st.integers(0, 30),
)
def test_given_answers_leave_in_blocks(tmp_path, cuts, cascade, words) -> None:
    text = " the lock holds 12"[: 1 + words] * 3 if words else ""
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    run = given_run(BACKBONE, "why so")
    scoring, _ = staged(BACKBONE, HEAD, cascade)
    with running_engine(BACKBONE, scoring, tmp_path, release="block", verdict_timeout=600) as engine:
        give(engine, start(engine, run), parts)
        run.finish()
    assert run.text() == text
    assert sizes(run) == in_blocks(run.end.completion_tokens)


def test_a_guard_of_one_stage_has_no_blocks(tmp_path) -> None:
    seen = []
    for release in ("token", "block"):
        run = new_run(BACKBONE, "why does the lock hold", max_tokens=11)
        (tmp_path / release).mkdir()
        with running_engine(BACKBONE, SINGLE, tmp_path / release, release=release) as engine:
            start(engine, run).finish()
        seen.append(sizes(run))
    assert seen[0] == seen[1]
    assert len(seen[0]) > len(in_blocks(11))


@pytest.mark.anyio
@pytest.mark.parametrize("release", ["token", "block"])
async def test_a_client_sees_held_and_calm_streams_alike_only_in_blocks(make_gateway, release) -> None:
    seen = []
    for cascade in (CALM, LOUD):
        scoring, _ = staged(BACKBONE, HEAD, cascade)
        gateway = make_gateway(BACKBONE, scoring, release=release, verdict_timeout=600)
        async with client_for(gateway) as client:
            events = events_of(await client.post(CHAT, json=ask(max_tokens=21, stream=True)))
        texts = [one["choices"][0]["delta"].get("content") for one in events if one["choices"]]
        seen.append([text for text in texts if text])
        (line,) = decisions_of(gateway)
        assert (line["decision"], line["stage"]) == ("pass", 1 if cascade is CALM else 2)
    free, held = seen
    assert "".join(free) == "".join(held)
    assert (free == held) == (release == "block")
    blocks = len(in_blocks(line["completion_tokens"]))
    # By tokens, a half-written character leaves by itself behind the last verdict.
    assert len(held) == blocks if release == "block" else len(held) in (blocks, blocks + 1)


def tokens_of(text: str) -> list[str]:
    """The text of each of its tokens, as the guard reads them."""
    tokeniser = BACKBONE.tokenise_answer()
    tokeniser.push(text)
    tokeniser.end()
    found = []
    while tokeniser.unsettled:
        found += [token.text for token in tokeniser.settle()]
    return found


TEXTS = tokens_of("The lock holds the water back, as it should, and the mill stands still. ")


@pytest.mark.anyio
@pytest.mark.parametrize("policies", [None, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("cascade", [CALM, LOUD], ids=["calm", "held"])
async def test_an_upstreams_answer_leaves_in_blocks_and_whole_at_its_end(
    make_gateway, cascade, policies
) -> None:
    scoring, _ = staged(BACKBONE, HEAD, cascade)
    gateway = make_gateway(BACKBONE, scoring, release="block", policies=policies, verdict_timeout=600)
    go = asyncio.Event()
    first = [event(delta(content=text)) for text in TEXTS[:13]]
    reply = Reply([b"".join(first), go.wait, chat_stream(TEXTS[13:])])
    async with told_by(gateway, reply) as (told, upstream):
        await eventually(lambda: told_text(told) == "".join(TEXTS[:8]))
        await eventually(lambda: idle(gateway))
        assert told_text(told) == "".join(TEXTS[:8])
        go.set()
        await eventually(lambda: DONE.decode().strip() in told.text)
        assert told_text(told) == "".join(TEXTS)
    assert [line["decision"] for line in decisions_of(gateway)] == ["pass"]
    assert upstream.open == 0


def told_text(told) -> str:
    lines = [line.removeprefix("data: ") for line in told.text.split("\n\n") if line.startswith("data: {")]
    return text_of([json.loads(line) for line in lines])


def idle(gateway) -> bool:
    """Whether the guard has read all that has arrived."""
    jobs = gateway.engine._active
    return all(not intake.is_waiting for job in jobs for intake in job.intakes)


@pytest.mark.anyio
async def test_an_unguarded_answer_is_not_stuck(make_gateway) -> None:
    """The guard fails on a route that fails open: the answer goes on, in blocks."""
    tap = BrokenTap([HEAD], BACKBONE.hidden_size)
    scoring, _ = staged(BACKBONE, HEAD, CALM)
    gateway = make_gateway(BACKBONE, replace(scoring, tap=tap), release="block", policies=OPEN)
    tap.broken = True
    async with told_by(gateway, Reply([chat_stream(TEXTS)])) as (told, _):
        await eventually(lambda: DONE.decode().strip() in told.text)
        assert told_text(told) == "".join(TEXTS)
    assert [line["unguarded"] for line in decisions_of(gateway)] == [True]


@pytest.mark.anyio
async def test_rounds_of_a_check_are_read_once_and_keep_nothing_back(make_gateway) -> None:
    """The caller of a check shows the text itself. Blocks would make each round read all of it again."""
    scoring, _ = staged(BACKBONE, HEAD, replace(CALM, delay=16))
    gateway = make_gateway(BACKBONE, scoring, release="block", verdict_timeout=600)
    texts = ["the lock holds", "the lock holds the water", "the lock holds the water for the mill"]
    async with client_for(gateway) as client:
        for text in texts:
            body = {"input_type": "response", "litellm_call_id": "call-1", "texts": [text], "model": "any"}
            found = await client.post("/beta/litellm_basic_guardrail_api", json=body)
            assert found.json() == {"action": "NONE", "stream_holdback_chars": [0]}
    assert len(decisions_of(gateway)) == 1
