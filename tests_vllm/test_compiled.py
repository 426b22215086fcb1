"""The probe in the compiled graph, with the same rows. One start, which compiles the model."""

import numpy as np
import pytest
from conftest import CONTEXT, MODEL
from driver import asked, reference, run

from lockgate.guards import EMBEDDED
from lockgate.vllm import engine_arguments


@pytest.fixture(scope="module")
def compiled():
    from vllm import EngineArgs, LLMEngine

    arguments = engine_arguments(
        EMBEDDED,
        MODEL,
        release="scored",
        context=CONTEXT,
        cache_bytes=96 * 2**20,
        eager=False,
        extra={"disable_log_stats": True},
    )
    made = LLMEngine.from_engine_args(EngineArgs(**arguments))
    yield made
    made.engine_core.shutdown()


def test_prefill_decode_and_a_batch(compiled, backbone, head) -> None:
    texts = [
        "Tell me a story about a lock keeper.",
        "Name three rivers of Europe.",
        "Why is the sky blue? " * 20,
    ]
    for request in run(compiled, [asked(backbone, text, text, 12) for text in texts]).values():
        assert len(request.tokens) == 12
        expected = reference(backbone, head, [*request.prompt, *request.tokens])[request.start :]
        np.testing.assert_allclose(request.rows, expected, atol=3e-3)
