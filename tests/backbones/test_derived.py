"""Derived backbones: what they share, what they own, and that the base never changes."""

import copy
import gc
import weakref

import pytest
import torch
from models import tiny_backbone, tiny_model, tokenizer_for
from test_sessions import ARCHITECTURES, TOLERANCE, Recorder, streams_of

from lockgate.backbones import Backbone, Feed, SessionPool, TapGroup, derive, derive_upper, front
from lockgate.errors import BackboneError


def read(backbone: Backbone, ids, tap=None) -> torch.Tensor:
    with SessionPool(backbone, len(ids)) as pool:
        return pool.step([Feed(pool.open(len(ids)), ids, True)], tap)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_derived_backbone_gives_the_base_s_numbers(architecture) -> None:
    ids, _, expected = streams_of(architecture)[0]
    torch.testing.assert_close(read(derive(tiny_backbone(architecture)), ids), expected[-1], **TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("depth", [1, 2])
def test_cut_after_some_blocks(architecture, depth) -> None:
    ids, activations, _ = streams_of(architecture)[0]
    short = derive(tiny_backbone(architecture), depth=depth, private=[depth - 1])
    tap = Recorder(short)
    read(short, ids, tap)
    assert short.n_layers == depth
    torch.testing.assert_close(tap.rows(), activations[:, : 3 * depth], **TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("first", [1, 2])
def test_an_upper_part_goes_on_from_the_base_s_activations(architecture, first) -> None:
    ids, activations, expected = streams_of(architecture)[0]
    upper, injection = derive_upper(tiny_backbone(architecture), first)
    with SessionPool(upper, len(ids)) as pool:
        session = pool.open(len(ids))
        below = activations[:, 3 * (first - 1)]
        for start, end in ((0, 7), (7, 8), (8, len(ids))):
            injection.states = below[start:end]
            logits = pool.step([Feed(session, ids[start:end], True)])[0]
            torch.testing.assert_close(logits, expected[end - 1], **TOLERANCE)
        with pytest.raises(BackboneError, match="one activation for each token"):
            upper.forward(ids[:2], [0, 1], None)


def test_own_blocks_are_copies_and_the_rest_is_the_base_s_memory() -> None:
    base = Backbone(tiny_model(), tokenizer_for("llama"), name="base")
    before = copy.deepcopy(base.model.state_dict())
    derived = derive(base, private=[2])
    pointers = {parameter.data_ptr() for parameter in base.model.parameters()}
    for name, parameter in derived.model.named_parameters():
        assert (parameter.data_ptr() in pointers) == ("layers.2." not in name), name
        assert not parameter.requires_grad
    assert all(parameter.requires_grad for parameter in base.model.parameters())
    with torch.no_grad():
        for parameter in derived.layers[2].parameters():
            parameter.add_(1.0)
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert derive(base, dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert base.model.dtype == torch.float32


def test_taps_see_the_passes_of_their_own_backbone() -> None:
    base, ids = tiny_backbone(), streams_of("llama")[0][0]
    tap = Recorder(base)
    base.use_tap(tap)
    derived = derive(base)
    upper, injection = derive_upper(base, 2)
    assert base.tap is tap
    assert not any(module._forward_hooks for module in derived.model.modules())
    read(derived, ids)
    injection.states = torch.zeros(len(ids), base.hidden_size)
    read(upper, ids)
    assert tap.seen == {}
    tap.begin(len(ids))
    base.forward(ids, range(len(ids)), _packed(base, ids))
    assert len(tap.seen) == 9
    base.use_tap(None)


def _packed(backbone, ids):
    from lockgate.backbones import PackedStep, Segment

    return PackedStep([Segment(SessionPool(backbone, 99).open(99), 0, len(ids), 0)])


def test_several_taps_on_one_pass() -> None:
    base, (ids, activations, _) = tiny_backbone(), streams_of("llama")[0]
    first, second = Recorder(base), Recorder(base, ("residual",))
    read(base, ids, TapGroup([first, second]))
    torch.testing.assert_close(first.rows(), activations, **TOLERANCE)
    torch.testing.assert_close(second.rows(), activations[:, ::3], **TOLERANCE)


@pytest.mark.parametrize(
    "wrong", [{"depth": 0}, {"depth": 4}, {"private": [3]}, {"depth": 2, "private": [2]}]
)
def test_blocks_that_are_not_there(wrong) -> None:
    with pytest.raises(BackboneError, match="has 3 blocks"):
        derive(tiny_backbone(), **wrong)


@pytest.mark.parametrize("first", [0, 3])
def test_no_upper_part(first) -> None:
    with pytest.raises(BackboneError, match="begins at block 1 to 2"):
        derive_upper(tiny_backbone(), first)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_front_shows_the_base_s_own_bits_and_is_kept(architecture, depth) -> None:
    base = tiny_backbone(architecture)
    ids = streams_of(architecture)[0][0]
    whole, part = Recorder(base), Recorder(front(base, depth))
    read(base, ids, whole)
    read(front(base, depth), ids, part)
    assert front(base, depth).n_layers == depth
    assert torch.equal(part.rows(), whole.rows()[:, : 3 * depth])
    assert front(base, depth) is front(base, depth)
    shared = {p.data_ptr() for p in base.model.parameters()}
    assert {p.data_ptr() for p in front(base, depth).model.parameters()} <= shared


def test_a_front_of_all_layers_or_of_quantised_weights_is_the_base() -> None:
    base = Backbone(tiny_model(), tokenizer_for("llama"), name="tiny")
    assert front(base, 3) is front(base, 4) is base
    base._quantised = True  # as `load` leaves it for a quantised checkpoint
    assert front(base, 1) is base


def test_a_front_does_not_outlive_its_base() -> None:
    base = Backbone(tiny_model(), tokenizer_for("llama"), name="tiny")
    made, of_base = weakref.ref(front(base, 1)), weakref.ref(base)
    del base
    gc.collect()
    assert of_base() is made() is None
