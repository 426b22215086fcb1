"""Sessions give the numbers of one plain pass of the library, for any chunks, neighbours and prefix."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_backbone

from lockgate.backbones import SITES, Backbone, Feed, SessionPool
from lockgate.errors import BackboneError, ContextOverflow, PoolFull

ARCHITECTURES = ("llama", "qwen2", "qwen2_sliding", "qwen3", "gemma", "gemma2", "gemma3")
LENGTH = 40
TOLERANCE = {"rtol": 1e-4, "atol": 2e-4}


class Recorder:
    """Keeps all activations of a step: `[layers, sites, tokens, hidden]`."""

    def __init__(self, backbone: Backbone, sites=SITES) -> None:
        self.wanted = [(layer, site) for layer in range(backbone.n_layers) for site in sites]
        self.seen: dict = {}
        self.tokens = 0

    def begin(self, tokens: int) -> None:
        self.seen, self.tokens = {}, tokens

    def see(self, layer, site, hidden) -> None:
        assert (layer, site) not in self.seen
        assert len(hidden) == self.tokens
        self.seen[layer, site] = hidden.clone()

    def rows(self) -> torch.Tensor:
        return torch.stack([self.seen[key] for key in self.wanted], 1)


def plain_pass(backbone: Backbone, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations `[tokens, layers * sites, hidden]` and logits `[tokens, vocab]` of the library's code."""
    model = copy.deepcopy(backbone.model)
    # Gemma 2 knows its soft cap in the eager code only.
    model.set_attn_implementation("eager")
    found: dict = {}

    def keep(key):
        def hook(module, inputs, output) -> None:
            found[key] = (output[0] if isinstance(output, tuple) else output)[0]

        return hook

    for layer, block in enumerate(model.get_decoder().layers):
        for site, module in zip(SITES, (block, block.self_attn, block.mlp), strict=True):
            module.register_forward_hook(keep((layer, site)))
    with torch.inference_mode():
        output = model(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    for layer in range(backbone.n_layers - 1):
        torch.testing.assert_close(found[layer, "residual"], output.hidden_states[layer + 1][0])
    rows = [found[layer, site] for layer in range(backbone.n_layers) for site in SITES]
    return torch.stack(rows, 1), output.logits[0].float()


_EXPECTED: dict = {}


def streams_of(architecture: str) -> list:
    """Three streams of one backbone that share their first five tokens, and what the library says."""
    if architecture not in _EXPECTED:
        backbone = tiny_backbone(architecture)
        random = np.random.default_rng(0)
        rows = random.integers(0, backbone.vocab_size, (3, LENGTH))
        rows[1:, :5] = rows[0, :5]
        _EXPECTED[architecture] = [(row, *plain_pass(backbone, row)) for row in rows.tolist()]
    return _EXPECTED[architecture]


PLAN = st.tuples(st.booleans(), st.integers(0, 3), st.sets(st.integers(1, LENGTH - 1), max_size=8))


def chunks_of(plan) -> list[tuple[int, int] | None]:
    """What a stream reads in each round: nothing before it joins, then one chunk after the other."""
    with_prefix, joins, cuts = plan
    edges = sorted({5 if with_prefix else 0, LENGTH, *(cut for cut in cuts if cut > 5 or not with_prefix)})
    return [None] * joins + list(itertools.pairwise(edges))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=25, deadline=None)
@given(plans=st.tuples(PLAN, PLAN, PLAN), backwards=st.booleans())
def test_packed_steps_give_the_numbers_of_a_full_pass(architecture, plans, backwards) -> None:
    backbone, expected = tiny_backbone(architecture), streams_of(architecture)
    tap = Recorder(backbone)
    with SessionPool(backbone, 3 * LENGTH) as pool:
        sessions = [
            pool.open(LENGTH, prefix=ids[:5] if plan[0] else ())
            for plan, (ids, *_) in zip(plans, expected, strict=True)
        ]
        for turn in itertools.zip_longest(*map(chunks_of, plans)):
            fed = [(n, *chunk) for n, chunk in enumerate(turn) if chunk is not None]
            fed = fed[::-1] if backwards else fed
            feeds = [Feed(sessions[n], expected[n][0][start:end], True) for n, start, end in fed]
            logits = pool.step(feeds, tap)
            shown = tap.rows().split([end - start for _, start, end in fed]) if fed else ()
            for (n, start, end), rows, row in zip(fed, shown, logits, strict=True):
                torch.testing.assert_close(rows, expected[n][1][start:end], **TOLERANCE)
                torch.testing.assert_close(row, expected[n][2][end - 1], **TOLERANCE)
        assert [session.length for session in sessions] == [LENGTH] * 3


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_fork_goes_on_alone(architecture) -> None:
    backbone, (ids, _, expected) = tiny_backbone(architecture), streams_of(architecture)[0]
    other = streams_of(architecture)[1][0]
    with SessionPool(backbone, 4 * LENGTH) as pool:
        first = pool.open(LENGTH)
        pool.step([Feed(first, ids[:20])])
        twin = first.fork(LENGTH)
        pool.step([Feed(first, other[20:])])
        first.close()
        after = pool.step([Feed(twin, ids[20:], True)])[0]
        torch.testing.assert_close(after, expected[-1], **TOLERANCE)
        assert pool.kv_used_tokens == LENGTH
        small = twin.fork(1)
        assert small.capacity == small.length == LENGTH


def test_logits_come_for_those_who_want_them() -> None:
    backbone, rows = tiny_backbone(), streams_of("llama")
    with SessionPool(backbone, 200) as pool:
        feeds = [Feed(pool.open(LENGTH), ids, want) for (ids, *_), want in zip(rows, (1, 0, 1), strict=True)]
        first, none, last = pool.step(feeds)
        assert none is None
        torch.testing.assert_close(first, rows[0][2][-1], **TOLERANCE)
        torch.testing.assert_close(last, rows[2][2][-1], **TOLERANCE)
        assert pool.step([]) == []


def test_memory_is_admitted_and_given_back() -> None:
    with SessionPool(tiny_backbone(), 100) as pool:
        first = pool.open(60)
        with pytest.raises(PoolFull, match="60 of 100"):
            pool.open(41)
        with pytest.raises(PoolFull):
            first.fork(60)
        second = pool.open(40)
        assert pool.kv_used_tokens == 100
        first.close()
        first.close()
        assert pool.kv_used_tokens == 40
        pool.open(60)
        second.close()
        assert pool.kv_used_tokens == 60


@pytest.mark.parametrize(("capacity", "prefix"), [(513, ()), (0, ()), (-5, ()), (3, (1, 2, 3, 4))])
def test_a_session_that_cannot_be_takes_nothing(capacity, prefix) -> None:
    with SessionPool(tiny_backbone(), 10_000) as pool:
        with pytest.raises(ContextOverflow):
            pool.open(capacity, prefix=prefix)
        assert pool.kv_used_tokens == 0


def test_a_step_that_is_refused_reads_nothing() -> None:
    backbone, (ids, activations, expected) = tiny_backbone(), streams_of("llama")[0]
    tap = Recorder(backbone, ("residual",))
    with SessionPool(backbone, 200) as pool, SessionPool(backbone, 200) as elsewhere:
        mate, session, closed, foreign = pool.open(50), pool.open(30), pool.open(50), elsewhere.open(50)
        closed.close()
        pool.step([Feed(session, ids[:25])])
        for feeds, error in (
            ([Feed(mate, ids), Feed(session, ids[25:])], ContextOverflow),
            ([Feed(mate, ids), Feed(mate, ids[:1])], BackboneError),
            ([Feed(mate, ids), Feed(session, [], True)], BackboneError),
            ([Feed(mate, ids), Feed(closed, ids)], BackboneError),
            ([Feed(mate, ids), Feed(foreign, ids)], BackboneError),
        ):
            with pytest.raises(error):
                pool.step(feeds, tap)
            assert (mate.length, session.length) == (0, 25)
        with pytest.raises(BackboneError, match="closed"):
            closed.fork(60)
        row = pool.step([Feed(mate, ids[:7]), Feed(session, ids[25:30], True)], tap)[1]
        torch.testing.assert_close(row, expected[29], **TOLERANCE)
        torch.testing.assert_close(tap.rows()[7:], activations[25:30, ::3], **TOLERANCE)


def test_joining_and_leaving_copy_no_memory_of_others() -> None:
    backbone, rows = tiny_backbone(), streams_of("llama")
    with SessionPool(backbone, 300) as pool:
        first = pool.open(60, prefix=rows[0][0][:5])
        pool.step([Feed(first, rows[0][0][5:20])])
        before = {layer: tuple(t.data_ptr() for t in pair) for layer, pair in first._memory.items()}
        assert len(before) == backbone.n_layers
        second = pool.open(60, prefix=rows[0][0][:5])
        pool.step([Feed(second, rows[1][0][5:]), Feed(first, [1])])
        third = first.fork(60)
        second.close()
        pool.step([Feed(first, [2]), Feed(third, [3])])
        assert before == {layer: tuple(t.data_ptr() for t in pair) for layer, pair in first._memory.items()}


def hooks(backbone: Backbone) -> int:
    return sum(len(module._forward_hooks) for module in backbone.model.modules())


def test_there_are_no_hooks_without_a_tap() -> None:
    backbone, ids = tiny_backbone(), streams_of("llama")[0][0]
    with SessionPool(backbone, 300) as pool:
        session = pool.open(60)
        pool.step([Feed(session, ids[:4])])
        assert hooks(backbone) == 0
        pool.step([Feed(session, ids[4:6])], Recorder(backbone))
        assert hooks(backbone) == 3 * backbone.n_layers
        pool.step([Feed(session, ids[6:8])])
        assert hooks(backbone) == 0
        pool.step([Feed(session, ids[8:9])], Recorder(backbone, ("residual",)))
        assert hooks(backbone) == backbone.n_layers
    assert hooks(backbone) == 0


def test_pools_that_take_turns_see_their_own_tokens_only() -> None:
    backbone, rows = tiny_backbone(), streams_of("llama")
    taps = [Recorder(backbone) for _ in rows]
    with SessionPool(backbone, 100) as a, SessionPool(backbone, 100) as b, SessionPool(backbone, 100) as c:
        pools = (a, b, c)
        sessions = [pool.open(LENGTH) for pool in pools]
        for start in range(0, LENGTH, 10):
            for pool, session, tap, row in zip(pools, sessions, taps, rows, strict=True):
                pool.step([Feed(session, row[0][start : start + 10])], tap)
                a.open(10, prefix=[start, 1, 2]).close()
            for tap, row in zip(taps, rows, strict=True):
                torch.testing.assert_close(tap.rows(), row[1][start : start + 10], **TOLERANCE)
        c.close()
        pools[0].step([Feed(a.open(3), [1, 2, 3])], taps[0])
        b.close()
        assert hooks(backbone) == 3 * backbone.n_layers
    assert hooks(backbone) == 0


def test_a_tap_that_cannot_be_set_leaves_no_hooks_and_hides_nothing() -> None:
    backbone, (ids, activations, _) = tiny_backbone(), streams_of("llama")[0]
    good, bad = Recorder(backbone), Recorder(backbone)
    bad.wanted.append((backbone.n_layers, "residual"))
    with SessionPool(backbone, 300) as pool:
        session = pool.open(60)
        pool.step([Feed(session, ids[:4])], good)
        with pytest.raises(BackboneError, match="layers 0 to 2"):
            pool.step([Feed(session, ids[4:6])], bad)
        assert hooks(backbone) == 0
        assert session.length == 4
        # The tap that worked before is hooked anew, not taken for one that is still in place.
        pool.step([Feed(session, ids[4:6])], good)
        torch.testing.assert_close(good.rows(), activations[4:6], **TOLERANCE)


def test_prefixes_are_read_once_and_a_few_are_kept() -> None:
    backbone = tiny_backbone()
    with SessionPool(backbone, 10_000) as pool:
        for number in range(20):
            session = pool.open(10, prefix=[number % 10, 5])
            assert session.length == 2
        assert len(pool._prefixes) == 8
        assert pool.kv_used_tokens == 200
