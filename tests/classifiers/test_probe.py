"""The probe's logits are W . activations + b beside any other reader. Broken files are refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_backbone
from safetensors.torch import save_file

from lockgate.backbones import SITES, Feed, SessionPool
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import BackboneError, BackboneMismatch, GuardError

IDS = [list(range(10, 30)), list(range(50, 57)), [9]]


def make_head(
    seed: int, layers=(0, 1, 2), site="residual", categories=("a", "b"), hidden: int = 32
) -> ProbeHead:
    random = torch.Generator().manual_seed(seed)
    outputs = 1 + len(categories)
    weights = torch.randn(outputs, len(layers), hidden, generator=random)
    return ProbeHead(
        tuple(layers), site, weights, torch.randn(outputs, generator=random), 0.3, tuple(categories)
    )


class Activations:
    def __init__(self) -> None:
        self.wanted = [(layer, site) for layer in range(3) for site in SITES]
        self.seen: dict = {}

    def begin(self, tokens) -> None: ...

    def see(self, layer, site, hidden) -> None:
        self.seen[layer, site] = hidden.double()


def step(tap) -> None:
    backbone = tiny_backbone()
    with SessionPool(backbone, 100) as pool:
        pool.step([Feed(pool.open(30), ids) for ids in IDS], tap)


HEADS = st.builds(
    make_head,
    seed=st.integers(0, 99),
    layers=st.permutations([0, 1, 2]).flatmap(lambda order: st.integers(1, 3).map(lambda n: order[:n])),
    site=st.sampled_from(SITES),
    categories=st.sampled_from([(), ("a",), ("a", "b")]),
)


@settings(max_examples=25, deadline=None)
@given(heads=st.lists(HEADS, min_size=1, max_size=4))
def test_logits_are_the_dot_products_of_all_heads(heads) -> None:
    kept, tap = Activations(), ProbeTap(heads, 32)
    step(kept)
    step(tap)
    assert tap.logits.shape == (28, sum(head.n_outputs for head in heads))
    assert tap.logits.dtype == torch.float32
    for number, head in enumerate(heads):
        joined = torch.cat([kept.seen[layer, head.site] for layer in head.layers], 1)
        expected = joined @ head.weights.double().flatten(1).T + head.bias.double()
        found = tap.logits[:, tap.columns(number)].double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_logits_start_at_the_bias_in_every_step() -> None:
    tap = ProbeTap([make_head(0)], 32)
    step(tap)
    first = tap.logits.clone()
    step(tap)
    torch.testing.assert_close(tap.logits, first)


def test_only_layers_with_a_weight_are_hooked() -> None:
    tap = ProbeTap([make_head(0, (2,)), make_head(1, (0, 2), "mlp")], 32)
    assert set(tap.wanted) == {(2, "residual"), (0, "mlp"), (2, "mlp")}


def test_half_precision_is_added_up_in_float32() -> None:
    head = make_head(0, (0,))
    tap = ProbeTap([head], 32)
    hidden = torch.randn(4, 32).bfloat16()
    tap.begin(4)
    tap.see(0, "residual", hidden)
    torch.testing.assert_close(tap.logits, hidden.float() @ head.weights[:, 0].T + head.bias)


def test_heads_of_another_size_or_depth() -> None:
    with pytest.raises(BackboneMismatch, match="reads 24 dimensions, the backbone has 32"):
        ProbeTap([make_head(0), make_head(0, hidden=24)], 32)
    with pytest.raises(BackboneError, match="layer 7"):
        step(ProbeTap([make_head(0, (1, 7))], 32))


@given(head=HEADS, gamma=st.floats(1e-6, 1))
@settings(max_examples=20, deadline=None)
def test_a_saved_head_is_the_same(tmp_path_factory, head, gamma) -> None:
    head = ProbeHead(head.layers, head.site, head.weights, head.bias, gamma, head.category_ids)
    path = tmp_path_factory.mktemp("head") / "probe.safetensors"
    head.save(path)
    loaded = ProbeHead.load(path)
    assert (loaded.layers, loaded.site, loaded.gamma) == (head.layers, head.site, head.gamma)
    assert loaded.category_ids == head.category_ids
    assert torch.equal(loaded.weights, head.weights)
    assert torch.equal(loaded.bias, head.bias)


def test_a_file_that_is_missing_or_cut(tmp_path) -> None:
    path = tmp_path / "probe.safetensors"
    with pytest.raises(GuardError, match=r"probe\.safetensors: not a readable probe"):
        ProbeHead.load(path)
    make_head(0).save(path)
    whole = path.read_bytes()
    for length in (0, 4, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(GuardError, match=r"probe\.safetensors"):
            ProbeHead.load(path)


GOOD = {
    "format": "lockgate-probe-1",
    "layers": "[0, 1, 2]",
    "site": "residual",
    "gamma": "0.3",
    "category_ids": '["a", "b"]',
}


@pytest.mark.parametrize(
    "meta",
    [
        {"format": "lockgate-probe-2"},
        {"format": None},
        {"layers": None},
        {"layers": "0,1,2"},
        {"layers": "[0, 1]"},
        {"layers": "[0, 1, 1]"},
        {"layers": "5"},
        {"site": "head"},
        {"gamma": "fast"},
        {"gamma": "0"},
        {"gamma": "nan"},
        {"category_ids": '["a"]'},
        {"category_ids": None},
    ],
)
def test_metadata_that_do_not_fit(tmp_path, meta) -> None:
    path, head = tmp_path / "probe.safetensors", make_head(0)
    content = {key: value for key, value in {**GOOD, **meta}.items() if value is not None}
    save_file({"weights": head.weights, "bias": head.bias}, path, metadata=content)
    with pytest.raises(GuardError, match=r"probe\.safetensors"):
        ProbeHead.load(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights": torch.zeros(3, 3, 32)},
        {"bias": torch.zeros(3)},
        {"weights": torch.zeros(3, 96), "bias": torch.zeros(3)},
        {"weights": torch.zeros(3, 3, 32), "bias": torch.zeros(4)},
        {"weights": torch.full((3, 3, 32), float("nan")), "bias": torch.zeros(3)},
        {"weights": torch.zeros(3, 3, 32), "bias": torch.full((3,), float("inf"))},
    ],
)
def test_tensors_that_do_not_fit(tmp_path, tensors) -> None:
    path = tmp_path / "probe.safetensors"
    save_file(tensors, path, metadata=GOOD)
    with pytest.raises(GuardError, match=r"probe\.safetensors"):
        ProbeHead.load(path)


def test_equal_heads_give_equal_files(tmp_path) -> None:
    """A bundle holds the file's hash: it must not change from one saving to the next."""
    contents = set()
    for number in range(8):
        make_head(3).save(tmp_path / str(number))
        contents.add((tmp_path / str(number)).read_bytes())
    assert len(contents) == 1
