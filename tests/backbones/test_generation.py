"""Drawing tokens: the likelihoods decide, and each stream has its own random numbers."""

import pytest
import torch

from lockgate.backbones.generation import _draw


def drawn(logits: torch.Tensor, banned: list[int], temperature: float, seed: int) -> list[int]:
    randoms = [torch.Generator().manual_seed(seed + row) for row in range(len(logits))]
    return _draw(logits, torch.tensor(banned, dtype=torch.int64), temperature, randoms)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    row = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    rows, banned = 4000, [3]
    counts = torch.bincount(torch.tensor(drawn(row.repeat(rows, 1), banned, temperature, 7)), minlength=5)
    allowed = row.clone()
    allowed[banned] = float("-inf")
    expected = (allowed / temperature).softmax(0)
    error = 5 * (expected * (1 - expected) / rows).sqrt() + 1e-9
    assert ((counts / rows - expected).abs() <= error).all()
    assert counts[3] == 0


def test_greedy_takes_the_likeliest_that_is_allowed() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 5.0, -1.0]])
    assert drawn(logits, [1], 0.0, 0) == [2, 0]


def test_a_stream_draws_the_same_whoever_is_beside_it() -> None:
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    together = drawn(logits, [0, 299], 0.8, 11)
    alone = [drawn(logits[row : row + 1], [0, 299], 0.8, 11 + row)[0] for row in range(6)]
    assert together == alone
    assert drawn(logits, [0, 299], 0.8, 11) == together


@pytest.mark.parametrize("place", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_range_draw_a_token_that_can_be(
    monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(place, dtype=torch.float64))
    logits = torch.zeros(1, 9)
    assert drawn(logits, [0, 1, 7, 8], 1.0, 0)[0] in range(2, 7)
