"""Many suffixes after one conversation, in one pass, give the numbers of reading each one alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_backbone
from test_sessions import ARCHITECTURES, LENGTH, TOLERANCE, streams_of

from lockgate.backbones import Feed, SessionPool, TreeStep, derive, tree_part
from lockgate.errors import BackboneError

SUFFIX = [11, 5, 300]


def alone(backbone, ids) -> torch.Tensor:
    with SessionPool(backbone, LENGTH + 9) as pool:
        return pool.step([Feed(pool.open(LENGTH + 9), ids, True)])[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=8, deadline=None)
@given(
    plans=st.lists(
        st.tuples(st.integers(1, LENGTH), st.sets(st.integers(1, LENGTH), max_size=3)), min_size=1, max_size=3
    )
)
def test_a_tree_reads_each_suffix_behind_its_cut(architecture, plans) -> None:
    backbone, streams = tiny_backbone(architecture), streams_of(architecture)
    ids, blocks, expected, ends = [], [], [], []
    for (length, chosen), (row, _, logits) in zip(plans, streams, strict=False):
        cuts = sorted(cut for cut in chosen if cut <= length)
        blocks.append(tree_part(len(ids), length, cuts, len(SUFFIX)))
        expected += [logits[length - 1], *(alone(backbone, [*row[:cut], *SUFFIX]) for cut in cuts)]
        start = len(ids) + length
        ends += [start - 1, *(start + (i + 1) * len(SUFFIX) - 1 for i in range(len(cuts)))]
        ids += [*row[:length], *SUFFIX * len(cuts)]
    hidden = backbone.forward_trees(ids, TreeStep(blocks))
    found = backbone.next_token_logits(hidden[ends])
    torch.testing.assert_close(found, torch.stack(expected), **TOLERANCE)
    few = backbone.token_logits(hidden[ends], [7, 3])
    torch.testing.assert_close(few, found[:, [7, 3]], **TOLERANCE)


def test_gradients_are_those_of_the_weights() -> None:
    backbone = derive(tiny_backbone("gemma2"), private=[2])
    ids = streams_of("gemma2")[0][0]
    weight = backbone.layers[2].self_attn.q_proj.weight.requires_grad_()
    step = TreeStep([tree_part(0, 12, [4, 12], 3)])
    row = [*ids[:12], *SUFFIX, *SUFFIX]

    def value() -> torch.Tensor:
        return backbone.token_logits(backbone.forward_trees(row, step)[[14, 17]], [5]).sum()

    value().backward()
    change = torch.zeros_like(weight)
    change[3, 5] = 1e-2
    with torch.no_grad():
        weight.add_(change)
        above = value()
        weight.sub_(2 * change)
        below = value()
    assert (above - below).item() / 2e-2 == pytest.approx(weight.grad[3, 5].item(), rel=0.05, abs=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "qwen2_sliding", "gemma2"])
@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, LENGTH - 1), max_size=5), size=st.integers(1, 9))
def test_what_is_cut_off_again_leaves_no_trace(architecture, cuts, size) -> None:
    backbone, (ids, _, expected) = tiny_backbone(architecture), streams_of(architecture)[0]
    with SessionPool(backbone, LENGTH + 9) as pool:
        session = pool.open(LENGTH + 9)
        done = 0
        for cut in [*sorted(cuts), LENGTH]:
            pool.step([Feed(session, [*ids[done:cut], *[9] * size])])
            session.truncate(cut)
            done = cut
        session.truncate(LENGTH - 1)
        torch.testing.assert_close(pool.step([Feed(session, ids[-1:], True)])[0], expected[-1], **TOLERANCE)
        for wrong in (-1, LENGTH + 1):
            with pytest.raises(BackboneError, match="cannot be cut"):
                session.truncate(wrong)
