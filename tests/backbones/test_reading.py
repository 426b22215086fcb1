"""Bulk reading shows every token once, in order, with the numbers of a session of its own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone

from lockgate.backbones import Feed, Reading, SessionPool, read_packed
from lockgate.classifiers import ProbeTap
from lockgate.errors import PoolFull

CONTEXT = tiny_backbone().context_length


def make_reading(job: int, length: int, prefix: int = 4) -> Reading[int]:
    random = np.random.default_rng(job)
    ids = [9, 8, 7, 6, 5][:prefix] + random.integers(10, 300, length).tolist()
    return Reading(job, ids, prefix, len(ids))


def read(readings, tokens_per_step: int, budget: int = 64 * CONTEXT) -> tuple[dict, list]:
    """Logits `[tokens, outputs]` by job, and the parts in the order of their steps."""
    backbone = tiny_backbone()
    tap = ProbeTap([random_head(backbone)], backbone.hidden_size)
    rows: dict[int, list] = {}
    plan = []
    with SessionPool(backbone, budget) as pool:
        for parts in read_packed(pool, readings, tap, tokens_per_step):
            assert sum(part.end - part.start for part in parts) == len(tap.logits) <= tokens_per_step
            for part in parts:
                rows.setdefault(part.job, []).append(tap.logits[part.rows].clone())
                plan.append((part.job, part.start, part.end, part.last))
        assert pool.kv_used_tokens == 0
    return {job: torch.cat(found) for job, found in rows.items()}, plan


def check_plan(plan, readings) -> None:
    """Every job in input order, every token behind the prefix once and in order, `last` at the end alone."""
    wanted = [r for r in readings if r.end > r.prefix_length]
    position = {r.job: r.prefix_length for r in wanted}
    ends = {r.job: r.end for r in wanted}
    finished = []
    for job, start, end, last in plan:
        assert start == position[job] < end <= ends[job]
        assert last == (end == ends[job])
        position[job] = end
        finished += [job] if last else []
    assert finished == [r.job for r in wanted]


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    prefix=st.integers(0, 5),
    tokens_per_step=st.integers(1, 150),
)
def test_any_step_size_reads_as_one_by_one(lengths, prefix, tokens_per_step) -> None:
    readings = [make_reading(job, length, prefix) for job, length in enumerate(lengths)]
    found, plan = read(iter(readings), tokens_per_step)
    check_plan(plan, readings)
    assert sorted(found) == [r.job for r in readings if r.end > r.prefix_length]
    for job, rows in found.items():
        alone, _ = read([readings[job]], 1024)
        # Activations reach 100 and more, so rounding is relative to the largest, not to each.
        torch.testing.assert_close(rows, alone[job], rtol=1e-4, atol=5e-6 * float(alone[job].abs().max()))


def test_what_lies_behind_the_end_is_not_read() -> None:
    whole = make_reading(1, 50)
    cut = Reading(1, whole.token_ids, 4, 30)
    found, _ = read([cut], 16)
    alone, _ = read([Reading(1, whole.token_ids[:30], 4, 30)], 1024)
    assert len(found[1]) == 26
    torch.testing.assert_close(found[1], alone[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", [0, 4])
@pytest.mark.parametrize("tokens_per_step", [100, 1024])
@pytest.mark.parametrize(
    "length", [CONTEXT - 5, CONTEXT - 4, CONTEXT - 3, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 3 * CONTEXT + 17]
)
def test_beyond_the_context_windows_overlap(length, tokens_per_step, prefix) -> None:
    """A token beyond the context is read behind the prefix and the half context in front of it."""
    readings = [make_reading(0, 9, prefix), make_reading(1, length, prefix), make_reading(2, 30, prefix)]
    found, plan = read(readings, tokens_per_step)
    check_plan(plan, readings)
    torch.testing.assert_close(found[1], slow_windows(readings[1]), rtol=1e-4, atol=2e-4)


def slow_windows(reading: Reading[int]) -> torch.Tensor:
    ids, prefix, half = list(reading.token_ids), reading.prefix_length, CONTEXT // 2
    rows = [logits_of(ids[:CONTEXT])[prefix:]]
    position = min(len(ids), CONTEXT)
    while position < len(ids):
        back = ids[max(prefix, position - half) : position]
        end = min(len(ids), position + CONTEXT - prefix - len(back))
        window = ids[:prefix] + back + ids[position:end]
        rows.append(logits_of(window)[prefix + len(back) :])
        position = end
    return torch.cat(rows)


def logits_of(ids: list[int]) -> torch.Tensor:
    backbone = tiny_backbone()
    tap = ProbeTap([random_head(backbone)], backbone.hidden_size)
    with SessionPool(backbone, CONTEXT) as pool:
        pool.step([Feed(pool.open(len(ids)), ids)], tap)
    return tap.logits


def test_many_short_readings_wait_for_memory() -> None:
    """A step takes no more sessions than fit; without room for a single one it is an error."""
    readings = [make_reading(job, 3) for job in range(40)]
    found, plan = read(readings, 1024, budget=50)
    check_plan(plan, readings)
    everything, _ = read(readings, 1024)
    for job, rows in everything.items():
        torch.testing.assert_close(found[job], rows, rtol=1e-4, atol=1e-4)
    with pytest.raises(PoolFull):
        read(readings, 1024, budget=6)


def test_reading_is_lazy() -> None:
    taken = []

    def endless():
        for job in range(10**9):
            taken.append(job)
            yield make_reading(job, 20)

    with SessionPool(tiny_backbone(), 10_000) as pool:
        next(read_packed(pool, endless(), None, 100))
    assert len(taken) <= 6
