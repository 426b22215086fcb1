import pytest
import torch
from models import tiny_backbone

from lockgate.backbones import Feed, SessionPool
from lockgate.backbones._taps import attach
from lockgate.errors import BackboneError


class Sink:
    def __init__(self, *wanted) -> None:
        self.wanted = wanted

    def begin(self, tokens) -> None: ...

    def see(self, layer, site, hidden) -> None:
        self.seen = (layer, site, tuple(hidden.shape))


@pytest.mark.parametrize("layer", [-1, 3, 99])
def test_a_layer_that_is_not_there(layer) -> None:
    backbone = tiny_backbone()
    with pytest.raises(BackboneError, match=f"layer {layer} asked for, but the backbone has layers 0 to 2"):
        attach(Sink((0, "residual"), (layer, "residual")), backbone.layers)
    assert not any(layer._forward_hooks for layer in backbone.layers)


def test_a_block_without_the_site() -> None:
    blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(BackboneError, match="no `self_attn`: use the residual site"):
        attach(Sink((0, "attention")), blocks)
    with pytest.raises(BackboneError, match="no `mlp`"):
        attach(Sink((0, "mlp")), blocks)


def test_a_tap_sees_rows_of_the_hidden_size() -> None:
    backbone, sink = tiny_backbone(), Sink((1, "mlp"))
    with SessionPool(backbone, 50) as pool:
        pool.step([Feed(pool.open(10), [1, 2, 3]), Feed(pool.open(10), [4])], sink)
    assert sink.seen == (1, "mlp", (4, backbone.hidden_size))


def test_the_last_residual_stands_before_the_final_norm() -> None:
    backbone = tiny_backbone()
    kept = {}

    class Keep(Sink):
        def see(self, layer, site, hidden) -> None:
            kept[layer] = hidden.clone()

    with SessionPool(backbone, 50) as pool:
        logits = pool.step([Feed(pool.open(10), [1, 2, 3], True)], Keep((2, "residual")))[0]
    normed = backbone._decoder.norm(kept[2])
    torch.testing.assert_close(logits, backbone.next_token_logits(normed)[-1])
