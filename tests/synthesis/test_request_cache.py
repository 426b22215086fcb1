import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.errors import SynthesisError
from lockgate.exchanges import Message
from lockgate.synthesis import (
    CachedGenerator,
    Completion,
    GenerationFailure,
    GenerationRequest,
    Outcome,
    RequestCache,
    ScriptedGenerator,
)

BASE = GenerationRequest((Message("user", "a card trick"),), 20, 0.7, 3, "query")


def ask(text: str) -> GenerationRequest:
    return replace(BASE, messages=(Message("user", text),))


@given(
    st.sampled_from(
        [
            replace(BASE, max_tokens=21),
            replace(BASE, temperature=0.0),
            replace(BASE, seed=4),
            replace(BASE, purpose="answer"),
            replace(BASE, messages=(Message("system", "a card trick"),)),
            replace(BASE, messages=(*BASE.messages, *BASE.messages)),
        ]
    )
)
def test_a_key_covers_everything_that_is_asked(other) -> None:
    assert BASE.key("m") == replace(BASE).key("m")
    assert len({BASE.key("m"), BASE.key("n"), other.key("m")}) == 3


def test_keys_stay_what_they_are() -> None:
    # A change of form would ask everything again that users have paid for.
    assert BASE.key("m") == "1d47684fd2ebb78c68f6dbae24a1ffdbed5c3bc5e541e9047028e343909d18c0"


def test_only_completions_are_kept_and_only_new_requests_are_asked(tmp_path) -> None:
    asked: list[str] = []

    def script(request: GenerationRequest) -> Outcome | str:
        asked.append(request.messages[0].content)
        return GenerationFailure("filtered") if asked[-1] == "bad" else asked[-1].upper()

    for _ in range(2):
        with RequestCache(tmp_path / "answers.sqlite") as cache:
            generator = CachedGenerator(ScriptedGenerator(script), cache)
            outcomes = generator.generate([ask("one"), ask("bad"), ask("one"), ask("two 😀")])
            texts = [outcome.text if isinstance(outcome, Completion) else None for outcome in outcomes]
            assert texts == ["ONE", None, "ONE", "TWO 😀"]
            assert len(cache) == 2
    assert asked == ["one", "bad", "two 😀", "bad"]
    assert generator.hits == 2


class _Batched(ScriptedGenerator):
    """Answers that depend on the requests beside them, as batched decoding may have it."""

    by_batch = True

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        for index, outcome in super().stream(requests):
            assert isinstance(outcome, Completion)
            yield index, replace(outcome, text=f"{outcome.text} of {len(requests)}")


def test_answers_by_batch_are_kept_by_batch(tmp_path) -> None:
    with RequestCache(tmp_path / "answers.sqlite") as cache:
        inner = _Batched({"one": "1", "two": "2"})
        generator = CachedGenerator(inner, cache)
        both = generator.generate([ask("one"), ask("two")])
        alone = generator.generate([ask("one")])
        assert [outcome.text for outcome in (*both, *alone)] == ["1 of 2", "2 of 2", "1 of 1"]
        assert generator.generate([ask("one"), ask("two")]) == both
        assert inner.usage.requests == 3
        stream = generator.stream([ask("two"), ask("one")])
        next(stream)
        stream.close()
        assert len(cache) == 3


def test_a_file_that_is_no_cache_is_an_error_that_names_it(tmp_path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(SynthesisError, match=r"answers\.sqlite"):
        RequestCache(path)
    with pytest.raises(SynthesisError, match="nowhere"):
        RequestCache(tmp_path / "nowhere" / "answers.sqlite")
    newer = tmp_path / "newer.sqlite"
    base = sqlite3.connect(newer)
    base.execute("PRAGMA user_version=9")
    base.close()
    with pytest.raises(SynthesisError, match="version 9"):
        RequestCache(newer)


def test_a_new_cache_is_opened_by_many_at_once(tmp_path) -> None:
    """Switching a file to a log, SQLite gives up at once where two do it together."""
    for number in range(10):
        place, start = tmp_path / f"{number}.sqlite", Barrier(8)

        def opened(place=place, start=start) -> int:
            start.wait()
            with RequestCache(place) as cache:
                return len(cache.get(["none"]))

        with ThreadPoolExecutor(8) as pool:
            assert [future.result() for future in [pool.submit(opened) for _ in range(8)]] == [0] * 8
