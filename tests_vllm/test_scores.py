"""Tokens inside vLLM get the logits that they get in Lockgate's own engine."""

import numpy as np
import pytest
from driver import Request, asked, reference, run

LONG = "Explain each of these words: " + ", ".join(f"lock {n} of canal {n * 7 % 31}" for n in range(60))
TEXTS = (
    "Tell me a story about a lock keeper.",
    "What is seven times eight?",
    "List five birds, one in a line.",
    "How does a canal lock work?",
    "Write a short poem about water.",
    "Name three rivers of Europe.",
    "Why is the sky blue?",
    "Give me a recipe for bread.",
)


@pytest.fixture(scope="module")
def tolerance(backbone, head) -> float:
    texts = [asked(backbone, "", text, 1).prompt for text in (*TEXTS, LONG)]
    rows = np.concatenate([reference(backbone, head, ids)[4:] for ids in texts])
    return 1e-3 * float(rows[:, 0].std())


def agree(request: Request, backbone, head, tolerance: float) -> float:
    text = [*request.prompt, *request.tokens]
    expected = reference(backbone, head, text)[request.start :]
    assert len(request.rows) == len(expected)
    worst = float(np.abs(np.array(request.rows) - expected).max())
    assert worst <= tolerance
    return worst


def test_prefill_and_decode(engine, book, backbone, head, tolerance) -> None:
    (request,) = run(engine, [asked(backbone, "one", TEXTS[0], 40)]).values()
    assert (len(request.tokens), request.ended) == (40, "length")
    # The prompt's rows come with no token, then a row with each token.
    assert request.counts == [(0, len(request.prompt) - request.start), *[(1, 1)] * 40]
    agree(request, backbone, head, tolerance)
    assert len(book) == 0


def test_eight_streams_in_one_batch(engine, book, backbone, head, tolerance) -> None:
    found = run(engine, [asked(backbone, text, text, 24) for text in TEXTS])
    for request in found.values():
        agree(request, backbone, head, tolerance)
    assert len(found) == 8


def test_an_answer_that_the_model_ends(engine, book, backbone, head, tolerance) -> None:
    """The token that ends an answer is not read, so it has no row and is not sent."""
    end = min(backbone.eos_ids)
    bias = {"logit_bias": {end: 100.0}, "min_tokens": 5}
    ended = run(engine, [asked(backbone, "ended", TEXTS[1], 20, **bias)])["ended"]
    assert (ended.ended, ended.stop, len(ended.tokens)) == ("stop", None, 5)
    agree(ended, backbone, head, tolerance)
    stop = ended.tokens[3]
    place = ended.tokens.index(stop)
    found = run(engine, [asked(backbone, "stopped", TEXTS[1], 20, stop_token_ids=[stop])])["stopped"]
    assert (found.ended, found.stop, found.tokens) == ("stop", stop, ended.tokens[:place])
    # Behind the limit the token that ends an answer says nothing.
    full = run(engine, [asked(backbone, "full", TEXTS[1], 5, **bias)])["full"]
    assert (full.ended, full.stop, full.tokens) == ("length", None, ended.tokens)


def test_a_prompt_in_pieces_and_then_from_the_cache(engine, book, backbone, head, tolerance) -> None:
    first, second = (asked(backbone, name, LONG, 8) for name in ("pieces", "cached"))
    assert len(first.prompt) > 5 * 64
    run(engine, [first])
    kept = len(book.store)
    assert kept >= len(first.prompt) // 128
    steps: list[int] = []
    run(engine, [second], lambda step, _: steps.append(step))
    # A recomputed prompt would take a step for each 64 tokens.
    assert len(steps) < 2 + len(second.prompt) % 128 // 64 + 10
    for request in (first, second):
        agree(request, backbone, head, tolerance)
    np.testing.assert_allclose(first.rows, second.rows, atol=tolerance)


def test_cached_blocks_without_rows_are_computed_again(engine, book, backbone, head, tolerance) -> None:
    run(engine, [asked(backbone, "before", LONG, 2)])
    book.store.clear()
    (request,) = run(engine, [asked(backbone, "after", LONG, 2)]).values()
    agree(request, backbone, head, tolerance)
    assert book.faults == 0


def test_preempted_streams(engine, book, backbone, head, tolerance) -> None:
    """Six streams fit the cache until they grow over a block's end. Then some are thrown out."""
    scheduler = engine.engine_core.engine_core.scheduler
    assert 12 < scheduler.kv_cache_config.num_blocks < 18
    thrown: set[str] = set()

    def watch(_step: int, _known: dict[str, Request]) -> None:
        thrown.update(name for name, r in scheduler.requests.items() if r.num_preemptions)

    prompts = [asked(backbone, "", f"{n} {LONG}", 1).prompt[:253] for n in range(6)]
    requests = [Request(str(n), prompt, 32, options={"ignore_eos": True}) for n, prompt in enumerate(prompts)]
    found = run(engine, requests, watch)
    assert thrown
    assert book.faults == 0
    for request in found.values():
        assert len(request.tokens) == 32
        agree(request, backbone, head, tolerance)


def test_a_cache_that_is_emptied_under_running_streams(engine, book, backbone, head, tolerance) -> None:
    def empty(step: int, _known: dict[str, Request]) -> None:
        if step in (4, 8):
            engine.reset_prefix_cache(reset_running_requests=True)

    found = run(engine, [asked(backbone, text, text, 8) for text in TEXTS[:3]], empty)
    for request in found.values():
        assert len(request.tokens) == 8
        agree(request, backbone, head, tolerance)


def test_a_stream_up_to_the_end_of_the_context(engine, book, backbone, head, tolerance) -> None:
    """The last token has no room to be read, so it is not sent."""
    longest = engine.vllm_config.model_config.max_model_len
    prompt = (asked(backbone, "", LONG, 1).prompt * 2)[: longest - 8]
    found = run(engine, [Request("full", prompt, 8), Request("room", prompt, 7)])
    assert [len(found[name].tokens) for name in ("full", "room")] == [7, 7]
    assert {request.ended for request in found.values()} == {"length"}
    agree(found["full"], backbone, head, tolerance)
