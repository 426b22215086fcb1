"""Nothing leaves unscored or uncleared, however an engine schedules: compared with the whole text at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_engine import END, OUTPUTS, Job, MadeEngine, next_of, row_of

from lockgate.cascade import Regions, StreamState, Thresholds
from lockgate.errors import ConfigError
from lockgate.vllm._book import FAULTY, HALTED, GateBook
from lockgate.vllm._rows import RowStore
from lockgate.vllm._settings import Settings

NAMES = ("first", "second")
GAMMA = 0.3
BLOCK = 4


class MadeProbe:
    """A guard's probe without its weights."""

    outputs = OUTPUTS

    def __init__(self, thresholds: Thresholds | None) -> None:
        self.thresholds = thresholds

    def state(self, regions: Regions) -> StreamState | None:
        return self.thresholds and StreamState(self.thresholds, GAMMA, regions, NAMES)


def book_for(
    release: str, thresholds: Thresholds | None, *, cached: bool = False, capacity: int = 64
) -> GateBook:
    store = RowStore(BLOCK, OUTPUTS, capacity) if cached else None
    settings = Settings(Path("guard"), release, prefixes=((7, 7),), trust_regions=True)
    return GateBook(settings, MadeProbe(thresholds if release == "cleared" else None), store)


@st.composite
def requests(draw):
    head = draw(st.sampled_from([[], [1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 7]]))
    prompt = [*head, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=9))]
    start = draw(st.integers(0, len(prompt)))
    args = {
        "start": start,
        "prompt_start": draw(st.integers(start, len(prompt))),
        "answer_start": len(prompt),
    }
    return prompt, draw(st.integers(1, 12)), draw(st.sampled_from([None, {"lockgate": args}]))


THRESHOLDS = st.builds(
    Thresholds,
    flag=st.floats(-1, 1.2),
    min_tokens=st.integers(1, 12),
    flag_on=st.sampled_from(["answer", "both"]),
)


def whole_answer(prompt: list[int], limit: int, words: int, longest: int) -> tuple[list[int], str, bool]:
    """The answer without a guard, how it ends, and whether its last token can be scored."""
    tokens: list[int] = []
    while len(tokens) < limit and len(prompt) + len(tokens) < longest:
        token = next_of([*prompt, *tokens], words)
        if token == END:
            return tokens, "stop", True
        tokens.append(token)
    return tokens, "length", len(prompt) + limit < longest


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data())
def test_what_leaves_is_what_an_oracle_lets_leave(data) -> None:
    """Chunks, caching, preemption, drafts and cancellations, with and without decisions in the engine."""
    release = data.draw(st.sampled_from(["scored", "shadow", "cleared"]))
    thresholds = data.draw(THRESHOLDS)
    cached = data.draw(st.booleans())
    capacity = data.draw(st.sampled_from([3, 64]))
    book = book_for(release, thresholds, cached=cached, capacity=capacity)
    words = data.draw(st.sampled_from([5, 9, 40]))
    longest = data.draw(st.sampled_from([24, 100]))
    choices = data.draw(st.randoms(use_true_random=False))
    engine = MadeEngine(
        book,
        choices.randint,
        words=words,
        longest=longest,
        block=BLOCK,
        cached=cached,
        drafts=data.draw(st.integers(0, 3)),
    )
    asked = data.draw(st.lists(requests(), min_size=1, max_size=4))
    for number, (prompt, limit, args) in enumerate(asked):
        engine.add(Job(str(number), prompt, limit, args))
    for step in range(400):
        engine.step()
        if all(job.ended for job in engine.jobs.values()):
            break
        if data.draw(st.integers(0, 30)) == 0 if step < 8 else False:
            going = [name for name, job in engine.jobs.items() if job.ended is None]
            engine.cancel(going[0])
        if step == 5 and data.draw(st.booleans()):
            engine.forget_cache()
    assert len(book) == 0
    # In a tiny store a row may be gone when it is needed. Then nothing more leaves.
    assert book.faults == 0 or capacity == 3
    for job in engine.jobs.values():
        check(book, job, release, thresholds, words, longest)


def check(book: GateBook, job: Job, release: str, thresholds: Thresholds, words: int, longest: int) -> None:
    limit = min(job.asked, longest - len(job.prompt))
    answer, ending, last = whole_answer(job.prompt, job.asked, words, longest)
    text = [*job.prompt, *answer]
    regions = regions_of(job, release)
    scored = len(text) if last else len(text) - 1
    assert len(job.sent) <= limit
    rows = np.stack([row_of(text[: i + 1]) for i in range(len(text))])
    assert job.sent == answer[: len(job.sent)]
    if job.ended == "cancelled" or (book.faults and job.stop):
        return
    if release != "cleared":
        assert job.ended == ending
        if release == "shadow" and len(job.rows) < scored - regions.start:
            # A row was lost. The answer is whole, and the gateway sees that its scores are not.
            assert job.sent == answer[:limit]
            return
        assert job.sent == answer[: scored - len(job.prompt)]
        assert job.first_row == regions.start
        np.testing.assert_array_equal(np.reshape(job.rows, (-1, OUTPUTS)), rows[regions.start : scored])
        return
    state = StreamState(thresholds, GAMMA, regions, NAMES)
    state.consume(rows[regions.start : scored])
    state.finish()
    assert job.sent == answer[: state.released]
    assert (job.stop == HALTED) == state.flagged
    assert job.ended == ("halted" if state.flagged else ending)


def regions_of(job: Job, release: str) -> Regions:
    if job.args is not None:
        return Regions(**job.args["lockgate"])
    if release != "cleared":
        return Regions(0, 0, len(job.prompt))
    return Regions(2 if job.prompt[:2] == [7, 7] else 0, len(job.prompt), len(job.prompt))


def opened(release: str = "scored", **options) -> GateBook:
    book = book_for(release, Thresholds(flag=9.0, min_tokens=1), **options)
    assert book.open("a", [1, 2, 3], 2, 100, None) == 3
    return book


def rows_for(count: int, value: float = 0.0) -> np.ndarray:
    return np.full((count, OUTPUTS), value, np.float32)


@pytest.mark.parametrize(("release", "stop"), [("scored", FAULTY), ("cleared", HALTED)])
@pytest.mark.parametrize(
    ("first", "rows", "fault"),
    [
        (0, None, "missing"),
        (1, rows_for(2), "missing"),
        (0, rows_for(3, np.nan), "not finite"),
        (0, rows_for(3, np.inf), "not finite"),
        (0, np.zeros((3, OUTPUTS - 1), np.float32), "malformed"),
    ],
)
def test_a_score_that_is_not_there_ends_the_request(release, stop, first, rows, fault) -> None:
    book = opened(release)
    book.feed("a", first, rows, known=3)
    assert book.halted() == ["a"]
    leaving = book.leave("a", [5], finished=False)
    assert (leaving.tokens, leaving.note, leaving.stop, leaving.fault) == ([], None, stop, fault)
    assert (book.faults, book.flags, len(book)) == (1, 0, 0)


@pytest.mark.parametrize(("first", "rows"), [(0, None), (1, rows_for(2)), (0, rows_for(3, np.nan))])
def test_in_shadow_mode_a_lost_score_holds_nothing_back(first, rows) -> None:
    book = opened("shadow")
    book.feed("a", first, rows, known=3)
    assert book.halted() == []
    leaving = book.leave("a", [5], finished=False)
    assert (leaving.tokens, leaving.note, leaving.stop) == ([5], None, None)
    assert book.leave("a", [6, 7], finished=True).tokens == [6]


def test_a_request_without_a_gate_gets_nothing() -> None:
    book = opened()
    leaving = book.leave("b", [5], finished=False)
    assert (leaving.tokens, leaving.note, leaving.stop) == ([], None, FAULTY)
    assert book.leave("b", [5], finished=True).tokens == []


def test_a_gate_holds_to_its_limit_whatever_the_engine_samples() -> None:
    book = opened()
    book.feed("a", 0, rows_for(9), known=9)
    leaving = book.leave("a", [4, 5, 6, 7], finished=True)
    assert (leaving.tokens, leaving.over) == ([4, 5], True)
    assert leaving.note["lockgate"]["n"] == 5


def test_the_last_token_needs_room_to_be_scored() -> None:
    book = book_for("scored", None)
    assert book.open("a", [1, 2, 3], 7, 10, None) == 7
    assert book.open("b", [1, 2, 3], 6, 10, None) == 7


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"start": 0, "prompt_start": 0},
        {"start": 0, "prompt_start": 0, "answer_start": 2},
        {"start": 2, "prompt_start": 1, "answer_start": 3},
        {"start": -1, "prompt_start": 1, "answer_start": 3},
        {"start": True, "prompt_start": 1, "answer_start": 3},
        {"start": 0, "prompt_start": 1, "answer_start": 3, "end": 4},
        "0 1 3",
    ],
)
def test_regions_that_are_not_regions(args) -> None:
    with pytest.raises(ConfigError, match=r"extra_args\.lockgate"):
        book_for("scored", None).open("a", [1, 2, 3], 2, 100, {"lockgate": args})


def test_a_client_of_bare_vllm_may_not_say_what_is_scored() -> None:
    thresholds = Thresholds(flag=0.0, min_tokens=1)
    book = GateBook(Settings(Path("guard"), "cleared"), MadeProbe(thresholds), None)
    args = {"lockgate": {"start": 3, "prompt_start": 3, "answer_start": 3}}
    with pytest.raises(ConfigError, match="does not let requests say"):
        book.open("a", [1, 2, 3], 2, 100, args)
    assert len(book) == 0


def test_the_store_keeps_the_newest_blocks() -> None:
    store = RowStore(2, OUTPUTS, 2)
    for number, key in enumerate("abc"):
        store.put(key, rows_for(2, number))
    assert [store.covered([key], 0, 2) for key in "abc"] == [0, 2, 2]
    assert store.covered("bca", 0, 6) == 4
    assert store.covered("bca", 3, 5) == 4
    assert store.read("bca", 1, 4)[:, 0].tolist() == [0 + 1, 2, 2]
    assert store.read("bca", 1, 5) is None
    with pytest.raises(ValueError, match="expected"):
        store.put("d", rows_for(3))
    store.clear()
    assert len(store) == 0
