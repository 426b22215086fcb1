"""The board adds up what `ProbeTap` adds up, and a row that a layer did not write can't be read."""

import numpy as np
import pytest
import torch
from models import random_head, tiny_backbone

from lockgate.backbones import Feed, SessionPool
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import BackboneMismatch
from lockgate.vllm._board import Board, attach

TOKENS = list(range(40, 60))


def board_for(backbone, head: ProbeHead, tokens: int = 32) -> Board:
    return Board(head, tokens, backbone.hidden_size, backbone.n_layers, backbone.device)


class Collected:
    """A tap that keeps what it sees."""

    def __init__(self, layers: int) -> None:
        self.wanted = [(layer, "residual") for layer in range(layers)]
        self.seen: list[torch.Tensor] = []

    def begin(self, tokens: int) -> None:
        self.seen.clear()

    def see(self, layer: int, site: str, hidden: torch.Tensor) -> None:
        self.seen.append(hidden.clone())


class Block(torch.nn.Module):
    """A block as vLLM has it: its output is what it adds, and the residual stream before that."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.25 * self.output, 0.75 * self.output


def test_blocks_write_the_rows_that_a_tap_reads() -> None:
    backbone = tiny_backbone("llama")
    head = random_head(backbone)
    tap, collected = ProbeTap([head], backbone.hidden_size), Collected(backbone.n_layers)
    with SessionPool(backbone, 256) as pool:
        for each in (tap, collected):
            pool.step([Feed(pool.open(64), TOKENS)], each)
    blocks = torch.nn.ModuleList(map(Block, collected.seen))
    board = board_for(backbone, head)
    attach(board, blocks)
    board.poison(len(TOKENS))
    for block in blocks:
        block()
    found = board.check(board.copy(len(TOKENS)))
    np.testing.assert_allclose(found, tap.logits.numpy(), atol=1e-5)


def test_a_pair_of_hidden_and_residual_is_added_in_the_models_precision() -> None:
    backbone = tiny_backbone("llama")
    head = random_head(backbone)
    board = board_for(backbone, head)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 5, 32, generator=generator).bfloat16() for _ in board.layers]
    board.poison(5)
    for number, (hidden, residual) in enumerate(parts):
        board.add(number, hidden, residual)
    expected = head.bias + sum(
        (hidden + residual).float() @ head.weights[:, head.layers.index(layer)].T
        for layer, (hidden, residual) in zip(board.layers, parts, strict=True)
    )
    np.testing.assert_allclose(board.check(board.copy(5)), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_row_that_one_layer_missed_is_not_a_number() -> None:
    backbone = tiny_backbone("llama")
    board = board_for(backbone, random_head(backbone))
    assert len(board.layers) > 1
    hidden = torch.ones(4, 32)
    board.poison(4)
    assert np.isnan(board.check(board.copy(4))).all()
    for number in range(len(board.layers)):
        board.add(number, hidden if number == 0 else hidden[:3], None)
    found = board.check(board.copy(4))
    assert np.isfinite(found[:3]).all()
    assert np.isnan(found[3]).all()
    board.poison(2)
    assert np.isnan(board.check(board.copy(3))).tolist() == [[True] * 3, [True] * 3, [False] * 3]


def test_a_model_of_another_shape() -> None:
    backbone = tiny_backbone("llama")
    head = random_head(backbone)
    for hidden, layers in ((64, 3), (32, 1)):
        with pytest.raises(BackboneMismatch, match="Serve the one it was made for"):
            Board(head, 8, hidden, layers, torch.device("cpu"))
