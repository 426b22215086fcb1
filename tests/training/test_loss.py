"""Losses and their gradients, compared with slow loops in plain floats."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.training import annealed_share, peak_loss, window_loss

KINDS = ("softmax", "mean", "max")
GROUPS = st.lists(
    st.tuples(st.floats(0, 1), st.lists(st.floats(-30, 30), min_size=1, max_size=6)), min_size=1, max_size=5
)


def bce(z: float, y: float) -> float:
    return math.log1p(math.exp(-abs(z))) + max(z, 0.0) - y * z


def slow_loss(windows: list[float], y: float, kind: str, tau: float) -> float:
    if kind == "mean":
        return sum(bce(z, y) for z in windows) / len(windows)
    peak = max(windows)
    if kind == "max":
        return bce(peak, y)
    weights = [math.exp((z - peak) / tau) for z in windows]
    return sum(w / sum(weights) * bce(z, y) for w, z in zip(weights, windows, strict=True))


def slow_gradient(windows: list[float], y: float, kind: str, tau: float) -> list[float]:
    """Derivatives by hand: the softmax weights depend on the logits too."""
    slopes = [1 / (1 + math.exp(-z)) - y for z in windows]
    if kind == "mean":
        return [slope / len(windows) for slope in slopes]
    if kind == "max":
        top = [z == max(windows) for z in windows]
        return [slope * is_top / sum(top) for slope, is_top in zip(slopes, top, strict=True)]
    raised = [math.exp((z - max(windows)) / tau) for z in windows]
    weights = [value / sum(raised) for value in raised]
    total = slow_loss(windows, y, kind, tau)
    return [
        w * slope + w * (bce(z, y) - total) / tau
        for w, z, slope in zip(weights, windows, slopes, strict=True)
    ]


def pack(groups, dtype=torch.float64):
    logits = torch.tensor([z for _, windows in groups for z in windows], dtype=dtype).unsqueeze(1)
    owners = torch.tensor([i for i, (_, windows) in enumerate(groups) for _ in windows])
    return logits.requires_grad_(), torch.tensor([y for y, _ in groups], dtype=dtype), owners


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(groups=GROUPS, tau=st.floats(0.2, 5), order=st.randoms(use_true_random=False))
def test_value_and_gradient(kind, groups, tau, order) -> None:
    logits, targets, owners = pack(groups)
    shuffle = list(range(len(owners)))
    order.shuffle(shuffle)
    loss = window_loss(logits[shuffle], targets, owners[shuffle], len(groups), kind=kind, tau=tau)
    expected = [slow_loss(windows, y, kind, tau) for y, windows in groups]
    np.testing.assert_allclose(loss[:, 0].detach(), expected, rtol=1e-9, atol=1e-12)
    loss.sum().backward()
    slow = [g for y, windows in groups for g in slow_gradient(windows, y, kind, tau)]
    np.testing.assert_allclose(logits.grad[:, 0], slow, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slow_gradient_is_the_slope(kind) -> None:
    windows, y, step = [0.3, -1.2, 2.0], 0.7, 1e-6
    for i, slope in enumerate(slow_gradient(windows, y, kind, 0.8)):
        up, down = ([z + sign * step * (j == i) for j, z in enumerate(windows)] for sign in (1, -1))
        numeric = (slow_loss(up, y, kind, 0.8) - slow_loss(down, y, kind, 0.8)) / (2 * step)
        assert slope == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_beside_one_another_do_not_mix(kind) -> None:
    logits = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    owners, targets = torch.tensor([0, 0, 1, 2, 2, 2, 2, 1, 0]), torch.tensor([1.0, 0.0, 0.25]).double()
    together = window_loss(logits, targets, owners, 3, kind=kind)
    alone = [window_loss(logits[:, [i]], targets, owners, 3, kind=kind) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_far_logits_stay_finite(kind) -> None:
    logits, targets, owners = pack([(1.0, [-3e4, 3e4, 0.0]), (0.0, [8e4, -8e4])], torch.float32)
    loss = window_loss(logits, targets, owners, 2, kind=kind, tau=0.1)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


def test_one_window_makes_all_kinds_alike() -> None:
    logits, targets, owners = pack([(1.0, [0.4]), (0.3, [-2.0])])
    first, *others = [window_loss(logits, targets, owners, 2, kind=kind) for kind in KINDS]
    for other in others:
        torch.testing.assert_close(first, other)


@settings(max_examples=40)
@given(
    rows=st.lists(st.lists(st.floats(-20, 20), min_size=1, max_size=6), min_size=1, max_size=4),
    label=st.floats(0, 1),
    share=st.floats(0, 1),
)
def test_peak_loss_judges_each_position_by_the_highest_so_far(rows, label, share) -> None:
    tokens = max(map(len, rows))
    # What stands behind an exchange's end would be the highest of all.
    logits = torch.tensor([row + [99.0] * (tokens - len(row)) for row in rows], dtype=torch.float64)
    valid = torch.tensor([[t < len(row) for t in range(tokens)] for row in rows])
    found = peak_loss(logits, valid, torch.full((len(rows),), label, dtype=torch.float64), share)
    for row, loss in zip(rows, found.tolist(), strict=True):
        total = 0.0
        for t, z in enumerate(row):
            top = max(row[: t + 1])
            harmful = (1 - share) / (1 + math.exp(-z)) + share / (1 + math.exp(-top))
            harmless = (1 - share) / (1 + math.exp(z)) + share / (1 + math.exp(top))
            total -= label * math.log(harmful) + (1 - label) * math.log(harmless)
        assert loss == pytest.approx(total / len(row), rel=1e-8, abs=1e-12)


def test_the_share_is_whole_after_three_quarters_of_the_training() -> None:
    assert [annealed_share(part) for part in (0.0, 0.375, 0.75, 1.0)] == [0.0, 0.5, 1.0, 1.0]
