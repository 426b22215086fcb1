"""An engine with n-gram drafts, in a process of its own: same rows, same limit. Then its worker dies."""

import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from conftest import CONTEXT, MODEL
from driver import asked, reference, run, submit, take

from lockgate.guards import EMBEDDED
from lockgate.vllm import engine_arguments

REPEATS = (
    "Repeat after me, ten times: the lock keeper opens the upper gate. the lock keeper opens the upper gate."
)


@pytest.fixture(scope="module")
def drafting() -> Iterator:
    from vllm import EngineArgs, LLMEngine

    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    arguments = engine_arguments(
        EMBEDDED,
        MODEL,
        release="scored",
        context=CONTEXT,
        cache_bytes=96 * 2**20,
        extra={"speculative_config": drafts, "disable_log_stats": True},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        made = LLMEngine.from_engine_args(EngineArgs(**arguments))
    yield made
    made.engine_core.shutdown()


@pytest.mark.parametrize("limit", [1, 2, 3, 29, 30, 31, 32])
def test_drafts_change_no_score_and_no_limit(drafting, backbone, head, limit) -> None:
    (request,) = run(drafting, [asked(backbone, f"to {limit}", REPEATS, limit, ignore_eos=True)]).values()
    assert (len(request.tokens), request.ended) == (limit, "length")
    expected = reference(backbone, head, [*request.prompt, *request.tokens])[request.start :]
    np.testing.assert_allclose(request.rows, expected, atol=3e-3)
    # Some steps read several accepted drafts.
    assert limit < 29 or max(tokens for tokens, _ in request.counts) > 1


def test_streams_side_by_side(drafting, backbone, head) -> None:
    found = run(drafting, [asked(backbone, str(n), f"{n} {REPEATS}", 16 + n) for n in range(6)])
    for request in found.values():
        expected = reference(backbone, head, [*request.prompt, *request.tokens])[request.start :]
        np.testing.assert_allclose(request.rows, expected, atol=3e-3)


def test_a_killed_worker_ends_the_engine(drafting, backbone) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    request = asked(backbone, "last", REPEATS, 400, ignore_eos=True)
    submit(drafting, request)
    while len(request.tokens) < 3:
        for output in drafting.step():
            take(request, output)
    below = psutil.Process().children(recursive=True)
    workers = [process for process in below if "Worker" in " ".join(process.cmdline()) + process.name()]
    assert workers
    for process in workers:
        process.kill()
    deadline = time.monotonic() + 120
    with pytest.raises(EngineDeadError):
        while time.monotonic() < deadline:
            for output in drafting.step():
                take(request, output)
    # `take` has checked that each token came with its row.
    assert request.ended is None
