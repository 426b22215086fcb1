"""Streams that are read in one call of attention have the numbers of a plain pass, whoever else is read."""

import mmap
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_backbone
from test_sessions import ARCHITECTURES, LENGTH, TOLERANCE, Recorder, streams_of

from lockgate.backbones import Feed, PackedStep, Segment, Session, SessionPool
from lockgate.backbones import _attention as attention
from lockgate.backbones._attention import Slab

# Who is fed in a round, and how many tokens each.
ROUND = st.tuples(st.sets(st.integers(0, 2), min_size=1), st.sampled_from([1, 1, 1, 2, 5]))


def segments_of(sessions: list[Session], tokens: int) -> list[Segment]:
    return [Segment(s, n * tokens, (n + 1) * tokens, s.length) for n, s in enumerate(sessions)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=15, deadline=None)
@given(
    prompts=st.tuples(*[st.integers(1, 20)] * 3),
    rounds=st.lists(ROUND, min_size=1, max_size=12),
    order=st.permutations(range(3)),
)
def test_streams_that_are_read_together_have_the_numbers_of_a_full_pass(
    architecture, prompts, rounds, order
) -> None:
    backbone, expected = tiny_backbone(architecture), streams_of(architecture)
    tap = Recorder(backbone)
    with (
        patch.object(attention, "_pays", lambda _: True),
        SessionPool(backbone, 10 * LENGTH, streams=3) as pool,
    ):
        opened = {n: pool.open(LENGTH) for n in order}
        sessions = [opened[n] for n in range(3)]
        assert len({id(session.slab) for session in sessions}) == 1
        pool.step([Feed(s, expected[n][0][: prompts[n]]) for n, s in enumerate(sessions)])
        for chosen, tokens in rounds:
            fed = [n for n in order if n in chosen and sessions[n].length + tokens <= LENGTH]
            starts = [sessions[n].length for n in fed]
            feeds = [
                Feed(sessions[n], expected[n][0][start : start + tokens], True)
                for n, start in zip(fed, starts, strict=True)
            ]
            alone, together = PackedStep(segments_of([sessions[n] for n in fed], tokens)).parts(
                backbone.device
            )
            assert (len(together), len(alone)) == ((1, 0) if len(fed) > 1 else (0, len(fed)))
            logits = pool.step(feeds, tap)
            shown = tap.rows().split(tokens) if fed else ()
            for n, start, rows, row in zip(fed, starts, shown, logits, strict=True):
                torch.testing.assert_close(rows, expected[n][1][start : start + tokens], **TOLERANCE)
                torch.testing.assert_close(row, expected[n][2][start + tokens - 1], **TOLERANCE)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_slot_is_clean_for_its_next_stream(architecture) -> None:
    backbone, (ids, _, expected) = tiny_backbone(architecture), streams_of(architecture)[0]
    other = streams_of(architecture)[1][0]
    with (
        patch.object(attention, "_pays", lambda _: True),
        SessionPool(backbone, 10 * LENGTH, streams=3) as pool,
    ):
        mate, broken = pool.open(LENGTH), pool.open(LENGTH)
        pool.step([Feed(mate, ids[:30]), Feed(broken, other)])
        with torch.inference_mode():
            for buffer in (one for pair in broken.buffers() for one in pair):
                buffer[:, :LENGTH] = float("nan")
        place = (broken.slab, broken.slot)
        broken.truncate(3)
        broken.close()
        fresh = pool.open(LENGTH)
        assert (fresh.slab, fresh.slot) == place
        pool.step([Feed(fresh, ids[:5])])
        for number in range(5):
            rows = pool.step([Feed(mate, [ids[30 + number]], True), Feed(fresh, [ids[5 + number]], True)])
            torch.testing.assert_close(rows[0], expected[30 + number], **TOLERANCE)
            torch.testing.assert_close(rows[1], expected[5 + number], **TOLERANCE)


def test_memory_is_shared_within_the_budget_and_given_back() -> None:
    backbone = tiny_backbone()
    with SessionPool(backbone, 400, streams=4) as pool:
        many = [pool.open(100) for _ in range(3)]
        assert len({id(session.slab) for session in many}) == 1
        assert sum(slab.slots * slab.capacity for slab in pool._slabs) <= 400
        # Another size has memory of its own, as much as is left.
        small = pool.open(20)
        assert small.slab is not many[0].slab
        for session in (*many, small):
            session.close()
        assert pool.kv_used_tokens == 0
        assert pool._slabs == []
    with SessionPool(backbone, 400) as pool:
        first, second = pool.open(100), pool.open(100)
        assert first.slab is not second.slab
        assert first.slab.capacity == 100


def test_on_a_processor_padding_must_pay() -> None:
    backbone = tiny_backbone()
    with SessionPool(backbone, 8000, streams=8) as pool:
        sessions = [pool.open(500) for _ in range(8)]

        def together(lengths: list[int], device: str = "cpu") -> int:
            for session, length in zip(sessions, lengths, strict=True):
                session.length = length
            step = PackedStep(segments_of(sessions, 1))
            return len(step.parts(torch.device(device))[1])

        assert together([400] * 6 + [410, 430]) == 1
        assert together([200] + [400] * 6 + [430]) == 0
        assert together([10] * 7 + [450]) == 0
        # On a GPU the number of calls decides. The meta device stands for it, because it computes nothing.
        assert together([10] * 7 + [450], "meta") == 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say what is resident")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_streams_that_may_come_is_not_written_before_they_do(dtype) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    slab, one = Slab(64, 4096), torch.ones(1, 4, 1, 64, dtype=dtype)
    before = resident()
    keys, values = slab.layer(0, one, one)
    assert keys.shape == values.shape == (64, 4, 4096, 64)
    assert (keys.dtype, values.dtype) == (dtype, dtype)
    assert keys.data_ptr() != values.data_ptr()
    with torch.inference_mode():
        keys[7, :, :2] = 1.0
    assert resident() - before < keys.nbytes / 8
    assert float(keys[6:9].sum()) == 2 * 4 * 64
