"""One engine for all tests of a run. `scripts/test-vllm` makes the environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

# The engine runs in this process, so that a test can set thresholds and look at the scheduler.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import pytest
from driver import MODEL
from hypothesis import settings

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.guards import EMBEDDED, Guard, read_bundle
from lockgate.vllm import engine_arguments, require_vllm

settings.register_profile("vllm", deadline=None, max_examples=12, derandomize=True)
settings.load_profile("vllm")
require_vllm()

CONTEXT = 640


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return Backbone.load(MODEL)


@pytest.fixture(scope="session")
def head():
    return read_bundle(EMBEDDED).head


@pytest.fixture(scope="session")
def engine() -> Iterator:
    """Steps of 64 tokens and a small cache, so that prompts come in pieces and streams are preempted."""
    from vllm import EngineArgs, LLMEngine

    arguments = engine_arguments(
        EMBEDDED,
        MODEL,
        release="scored",
        context=CONTEXT,
        cache_bytes=96 * 2**20,
        max_streams=8,
        extra={"max_num_batched_tokens": 64, "enable_chunked_prefill": True, "disable_log_stats": True},
    )
    made = LLMEngine.from_engine_args(EngineArgs(**arguments))
    yield made
    made.engine_core.shutdown()


@pytest.fixture
def book(engine):
    """The gates of the engine, empty of cached rows."""
    assert engine.reset_prefix_cache()
    return engine.engine_core.engine_core.scheduler.book


@pytest.fixture(scope="session")
def clearing(engine):
    """Let the engine decide by itself, under the given thresholds."""
    book = engine.engine_core.engine_core.scheduler.book

    @contextmanager
    def clear(thresholds: Thresholds) -> Iterator[None]:
        settings, probe = book.settings, book.probe
        book.settings = replace(settings, release="cleared", trust_regions=True)
        book.probe = replace(probe, thresholds=thresholds)
        try:
            yield
        finally:
            book.settings, book.probe = settings, probe

    return clear


def save_guard(path: Path, backbone: Backbone, thresholds: Thresholds) -> Path:
    """Write the embedded guard with its first stage alone."""
    bundle = read_bundle(EMBEDDED)
    flags = bundle.record.thresholds.model_copy(
        update={"flag": thresholds.flag, "min_tokens": thresholds.min_tokens, "flag_on": thresholds.flag_on}
    )
    no_judge = {"classifier": None, "text": None, "voices": None, "cascade": None}
    alone = {**no_judge, "calibration": None, "claim": [], "thresholds": flags}
    made = bundle._replace(record=bundle.record.model_copy(update=alone))
    Guard(made, backbone).save(path)
    return path
