"""Smoothing and losses of whole exchanges against slow loops in float64, slopes by finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.embedded_guard.sequences import (
    SequenceLoss,
    rolling_attention,
    sliding_mean,
    spread_penalty,
    top_mean,
    valid_positions,
)
from recipes.embedded_guard.variant_scores import RollingAttention

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=4)
KINDS = ("softmax", "mean", "max", "cummax", "annealed", "topk")


def bce(z: float, y: float) -> float:
    return max(z, 0) - z * y + math.log1p(math.exp(-abs(z)))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def slow_smooth(tokens: list[float], window: int) -> list[float]:
    """One value per position with a whole window behind it; the mean of all if there is none."""
    if len(tokens) < window:
        return [sum(tokens) / len(tokens)]
    return [sum(tokens[t + 1 - window : t + 1]) / window for t in range(window - 1, len(tokens))]


def slow_loss(z: list[float], y: float, loss: SequenceLoss, progress: float) -> float:
    total = slow_main(z, y, loss, progress)
    if loss.variance:
        raised = [math.exp(v / loss.variance_tau) for v in z]
        mean = sum(r * v for r, v in zip(raised, z, strict=True)) / sum(raised)
        spread = sum(r * (v - mean) ** 2 for r, v in zip(raised, z, strict=True)) / sum(raised)
        total += loss.variance * (1 - y) * spread
    return total


def slow_main(z: list[float], y: float, loss: SequenceLoss, progress: float) -> float:
    n = len(z)
    if loss.kind == "mean":
        return sum(bce(v, y) for v in z) / n
    if loss.kind == "softmax":
        raised = [math.exp(v / loss.tau) for v in z]
        return sum(r * bce(v, y) for r, v in zip(raised, z, strict=True)) / sum(raised)
    if loss.kind == "max":
        return bce(max(z), y)
    if loss.kind == "topk":
        best = sorted(z, reverse=True)[: loss.top]
        return bce(sum(best) / len(best), y)
    share = 1.0 if loss.kind == "cummax" else min(1.0, progress / 0.75)
    total = 0.0
    for t in range(n):
        p = (1 - share) * sigmoid(z[t]) + share * max(sigmoid(v) for v in z[: t + 1])
        total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return total / n


def ragged(lengths: list[int], seed: int) -> torch.Tensor:
    """Random logits `[n, tokens]` in float64, with numbers behind the ends that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(lengths), max(lengths), dtype=torch.float64, generator=generator)


@settings(max_examples=40)
@given(lengths=LENGTHS, window=st.sampled_from([1, 2, 3, 5, 16]), seed=st.integers(0, 99))
def test_smoothing_and_its_positions(lengths, window, seed) -> None:
    logits = ragged(lengths, seed)
    valid = valid_positions(torch.tensor(lengths), max(lengths), window)
    smoothed = sliding_mean(logits, window)
    for row, length in enumerate(lengths):
        expected = slow_smooth(logits[row, :length].tolist(), window)
        np.testing.assert_allclose(smoothed[row][valid[row]], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(
    lengths=LENGTHS,
    window=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
    tau=st.floats(0.3, 4),
    top=st.integers(1, 10),
    progress=st.floats(0, 1),
    variance=st.sampled_from([0.0, 0.3]),
)
def test_losses(kind, lengths, window, seed, tau, top, progress, variance) -> None:
    loss = SequenceLoss(kind, tau=tau, top=top, variance=variance, variance_tau=1.7)
    logits = ragged(lengths, seed)
    targets = torch.tensor([(0.0, 1.0, 0.3)[(seed + i) % 3] for i in range(len(lengths))]).double()
    valid = valid_positions(torch.tensor(lengths), max(lengths), window)
    found = loss(sliding_mean(logits, window), valid, targets, progress)
    expected = [
        slow_loss(slow_smooth(logits[i, :length].tolist(), window), float(targets[i]), loss, progress)
        for i, length in enumerate(lengths)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [0.0, 0.3])
def test_gradients(kind, variance) -> None:
    """Through smoothing, window weights, peaks and penalty; nothing comes from behind an exchange's end."""
    loss, lengths, window = SequenceLoss(kind, tau=0.8, top=2, variance=variance), [5, 2, 7], 2
    logits, targets = ragged(lengths, 5).requires_grad_(), torch.tensor([0.0, 1.0, 0.4]).double()
    valid = valid_positions(torch.tensor(lengths), 7, window)
    loss(sliding_mean(logits, window), valid, targets, 0.3).sum().backward()
    step = 1e-6
    for i, length in enumerate(lengths):
        tokens, y = logits[i, :length].tolist(), float(targets[i])
        for t in range(length):
            up, down = (
                slow_loss(
                    slow_smooth([v + sign * step * (j == t) for j, v in enumerate(tokens)], window),
                    y,
                    loss,
                    0.3,
                )
                for sign in (1, -1)
            )
            assert logits.grad[i, t] == pytest.approx((up - down) / (2 * step), abs=1e-6)
        assert not logits.grad[i, length:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_far_logits_stay_finite(kind) -> None:
    logits = torch.tensor([[-3e4, 3e4, 0.0], [8e4, -8e4, 1.0]], requires_grad=True)
    valid = valid_positions(torch.tensor([3, 2]), 3, 1)
    for progress in (0.0, 0.4, 1.0):
        loss = SequenceLoss(kind, variance=0.01)(logits, valid, torch.tensor([1.0, 0.0]), progress)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logits.grad.isfinite().all()


def test_top_mean_of_all_is_the_mean_and_of_one_the_maximum() -> None:
    lengths = [1, 4, 9]
    logits, valid = ragged(lengths, 3), valid_positions(torch.tensor(lengths), 9, 1)
    means = [logits[i, :length].mean() for i, length in enumerate(lengths)]
    torch.testing.assert_close(top_mean(logits, valid, 9), torch.stack(means))
    torch.testing.assert_close(top_mean(logits, valid, 100), torch.stack(means))
    torch.testing.assert_close(
        top_mean(logits, valid, 1), torch.stack([logits[i, :n].max() for i, n in enumerate(lengths)])
    )


@given(level=st.floats(-20, 20), length=st.integers(1, 9), tau=st.floats(0.3, 4))
def test_a_level_has_no_spread(level, length, tau) -> None:
    logits = torch.full((1, 9), level, dtype=torch.float64)
    valid = valid_positions(torch.tensor([length]), 9, 1)
    assert spread_penalty(logits, valid, tau).item() == pytest.approx(0.0, abs=1e-12)
    harmful, harmless = torch.ones(1).double(), torch.zeros(1).double()
    spiked = logits.clone()
    spiked[0, 0] += 3.0
    for target, changes in ((harmful, False), (harmless, length > 1)):
        plain, penalised = (SequenceLoss("mean", variance=v)(spiked, valid, target, 0.0) for v in (0.0, 1.0))
        assert (penalised > plain + 1e-9).item() is changes


@settings(max_examples=25)
@given(lengths=LENGTHS, window=st.sampled_from([1, 2, 4, 16]), seed=st.integers(0, 99), cut=st.integers(0, 9))
def test_rolling_attention_in_training_is_that_of_serving(lengths, window, seed, cut) -> None:
    values, queries = ragged(lengths, seed), ragged(lengths, seed + 100)
    pooled = rolling_attention(values, queries, window)
    for row, length in enumerate(lengths):
        tokens = torch.stack([values[row, :length], queries[row, :length]], 1).numpy()
        stream = RollingAttention(window)
        served = np.concatenate([stream.consume(part) for part in (tokens[:cut], tokens[cut:])])
        np.testing.assert_allclose(pooled[row, :length], served[:, 0], rtol=1e-10, atol=1e-12)


def test_attention_without_a_query_is_the_sliding_mean() -> None:
    values = ragged([9, 4], 1)
    torch.testing.assert_close(
        rolling_attention(values, torch.zeros_like(values), 3), sliding_mean(values, 3)
    )
