"""Fitting: scikit-learn's optimum, correctly folded heads, and runs that continue where they stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from caches import write_cache
from sklearn.linear_model import LogisticRegression

from lockgate.errors import TrainingError
from lockgate.training import ProbeConfig, WindowCache, fit_probes
from lockgate.training._fit import _Run

PLAIN = ProbeConfig("plain", (0, 1), loss="mean", epochs=400, batch=1000, lr=0.05, weight_decay=0.0)


def toy_cache(
    path, n=120, windows=1, hidden=4, seed=0, categories=(None,), layers=(0, 1), share=0.5
) -> WindowCache:
    """Overlapping classes: the optimum is finite."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = float(random.random() < share)
        count = random.integers(1, windows + 1)
        means = random.normal(3, 2, (count, len(layers), hidden)) * np.arange(1, hidden + 1)
        means[:, 0, 0] += 1.5 * label
        rows.append((label, categories[i % len(categories)] if label else None, means, int(count) - 1))
    return write_cache(path, rows, layers)


def logits(head, windows: np.ndarray) -> np.ndarray:
    return (
        np.asarray(windows, float).reshape(len(windows), -1) @ head.weights[0].numpy().reshape(-1)
        + head.bias[0].item()
    )


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_plain_loss_gives_scikit_learns_regression(tmp_path, share) -> None:
    cache = toy_cache(tmp_path / "w", n=150, share=share)
    head = fit_probes(cache, cache.exchanges, [PLAIN])[0]
    features = np.stack([np.asarray(cache.windows(row), float).reshape(-1) for row in cache.exchanges])
    labels = np.array([row.label for row in cache.exchanges])
    # Both classes weigh the same in sum.
    model = LogisticRegression(C=1e8, class_weight="balanced", max_iter=5000, tol=1e-10)
    scaled = (features - features.mean(0)) / features.std(0)
    model.fit(scaled, labels)
    expected = model.decision_function(scaled)
    np.testing.assert_allclose(logits(head, features), expected, atol=0.03)
    np.testing.assert_allclose(
        head.weights[0].numpy().reshape(-1),
        model.coef_[0] / features.std(0),
        atol=0.02 / features.std(0).min(),
    )


def test_exchanges_weigh_alike_however_long_they_are(tmp_path) -> None:
    """Repeating each exchange's one window changes nothing."""
    short = toy_cache(tmp_path / "short", n=40)
    rows = [(row.label, None, np.repeat(np.asarray(short.windows(row)), 5, 0), 0) for row in short.exchanges]
    long = write_cache(tmp_path / "long", rows)
    config = replace(PLAIN, epochs=30)
    for kind in ("mean", "softmax", "max"):
        a, b = (fit_probes(c, c.exchanges, [replace(config, loss=kind)])[0] for c in (short, long))
        torch.testing.assert_close(a.weights, b.weights, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(a.bias, b.bias, rtol=1e-2, atol=1e-2)


def test_heads_give_the_logits_of_the_fit(tmp_path) -> None:
    """Standardisation is folded in: on raw windows the head says what training said on standardised ones."""
    cache = toy_cache(tmp_path / "w", windows=4, categories=("b", "a"))
    config = replace(PLAIN, epochs=5, loss="softmax")
    run = _Run(cache, cache.exchanges, [config], ("a", "b"))
    for epoch in range(5):
        run.epoch(epoch)
    head, batch = run.heads()[0], run._batch(cache.exchanges)
    inside = batch.windows.flatten(1) @ run.weights[0].flatten(1).T + run.biases[0]
    raw = torch.from_numpy(np.concatenate([cache.windows(row) for row in cache.exchanges])).float()
    outside = torch.einsum("nlh,olh->no", raw, head.weights) + head.bias
    torch.testing.assert_close(inside.detach(), outside, rtol=1e-4, atol=1e-4)
    assert head.category_ids == ("a", "b")
    assert head.n_outputs == 3


@pytest.mark.parametrize("layers", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0), (1,)])
def test_layers_may_stand_in_any_order(tmp_path, layers) -> None:
    cache = toy_cache(tmp_path / "w", layers=(0, 1, 2))
    config = replace(PLAIN, layers=layers, epochs=20)
    head = fit_probes(cache, cache.exchanges, [config])[0]
    ordered = fit_probes(cache, cache.exchanges, [replace(config, layers=tuple(sorted(layers)))])[0]
    assert head.layers == layers
    for index, layer in enumerate(layers):
        other = ordered.layers.index(layer)
        torch.testing.assert_close(head.weights[:, index], ordered.weights[:, other], rtol=1e-3, atol=1e-4)


def test_variants_side_by_side_do_not_touch_one_another(tmp_path) -> None:
    cache = toy_cache(tmp_path / "w", windows=3)
    base = replace(PLAIN, epochs=4, batch=32)
    configs = [base, replace(base, layers=(1,)), replace(base, loss="max", regions="answer", lr=0.01)]
    together = fit_probes(cache, cache.exchanges, configs)
    for config, head in zip(configs, together, strict=True):
        alone = fit_probes(cache, cache.exchanges, [config])[0]
        assert torch.equal(alone.weights, head.weights)
        assert torch.equal(alone.bias, head.bias)


def test_regions_choose_the_windows(tmp_path) -> None:
    """Windows before the answer carry the opposite sign: only the answer's windows are learned from."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(60):
        label = float(i % 2)
        sign = 2 * label - 1
        windows = random.normal(0, 0.5, (4, 1, 2))
        windows[:3, 0, 0] -= sign
        windows[3:, 0, 0] += sign
        rows.append((label, None, windows, 3))
    cache = write_cache(tmp_path / "w", rows, (0,))
    config = replace(PLAIN, layers=(0,), epochs=40)
    whole, answer = fit_probes(cache, cache.exchanges, [config, replace(config, regions="answer")])
    assert answer.weights[0, 0, 0] > 0 > whole.weights[0, 0, 0]


def test_categories_are_learned_from_rows_that_name_them(tmp_path) -> None:
    random = np.random.default_rng(0)
    names = {0: None, 1: "a", 2: "b", 3: None}
    rows = []
    for i in range(80):
        kind = i % 4
        windows = random.normal(0, 0.3, (2, 1, 3))
        windows[:, 0, kind - 1 if kind in (1, 2) else 2] += 2.0 if kind else 0.0
        rows.append((float(kind > 0), names[kind], windows, 0))
    cache = write_cache(tmp_path / "w", rows, (0,))
    config = replace(PLAIN, layers=(0,), epochs=60)
    head = fit_probes(cache, cache.exchanges, [config], category_ids=("a", "b"))[0]
    for kind, column in ((1, 1), (2, 2)):
        means = torch.stack(
            [
                torch.from_numpy(np.asarray(cache.windows(row), np.float32)).mean((0, 1))
                for row in cache.exchanges[kind::4]
            ]
        )
        found = means @ head.weights[:, 0].T + head.bias
        assert (found[:, 1:].argmax(1) + 1 == column).all()
    # The heads that report do not move the one that decides.
    alone = fit_probes(cache, cache.exchanges, [config])[0]
    torch.testing.assert_close(alone.weights[0], head.weights[0], rtol=1e-3, atol=1e-4)


def test_a_batch_without_any_known_category_spoils_nothing(tmp_path) -> None:
    cache = toy_cache(tmp_path / "w", n=21, categories=(None, "other", "a"), share=0.8)
    config = replace(PLAIN, epochs=3, batch=1)
    head = fit_probes(cache, cache.exchanges, [config], category_ids=("a",))[0]
    assert head.weights.isfinite().all()
    assert head.bias.isfinite().all()


def interrupted_fit(cache, config, checkpoint, after: int):
    def stop(line: str) -> None:
        if line.startswith(f"epoch {after + 1}/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_probes(cache, cache.exchanges, config, category_ids=("a",), checkpoint=checkpoint, report=stop)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_fit_that_was_killed_goes_on_to_the_same_bits(tmp_path, after) -> None:
    cache = toy_cache(tmp_path / "w", windows=3, categories=("a", None))
    base = replace(PLAIN, epochs=6, batch=32, loss="softmax", weight_decay=0.1)
    # Eleven variants: parameter 1 and parameter 10 must not be taken for one another.
    configs = [replace(base, lr=0.01 * (i + 1), layers=((0, 1), (1,))[i % 2]) for i in range(11)]
    whole = fit_probes(cache, cache.exchanges, configs, category_ids=("a",))
    checkpoint = tmp_path / "fit.safetensors"
    interrupted_fit(cache, configs, checkpoint, after)
    lines: list[str] = []
    resumed = fit_probes(
        cache, cache.exchanges, configs, category_ids=("a",), checkpoint=checkpoint, report=lines.append
    )
    assert len(lines) == 6 - after
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.weights, b.weights)
        assert torch.equal(a.bias, b.bias)
    again = fit_probes(cache, cache.exchanges, configs, category_ids=("a",), checkpoint=checkpoint)
    assert torch.equal(again[3].weights, whole[3].weights)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_not_used(tmp_path) -> None:
    cache = toy_cache(tmp_path / "w")
    config, checkpoint = replace(PLAIN, epochs=2), tmp_path / "fit.safetensors"
    fit_probes(cache, cache.exchanges, [config], checkpoint=checkpoint)
    fresh = fit_probes(cache, cache.exchanges, [replace(config, lr=0.2)])[0]
    other = fit_probes(cache, cache.exchanges, [replace(config, lr=0.2)], checkpoint=checkpoint)[0]
    assert torch.equal(fresh.weights, other.weights)
    renamed = [replace(row, category="a") if row.label else row for row in cache.exchanges]
    first = fit_probes(cache, cache.exchanges, [config], category_ids=("a",), checkpoint=checkpoint)[0]
    second = fit_probes(cache, renamed, [config], category_ids=("a",), checkpoint=checkpoint)[0]
    assert not torch.equal(first.weights, second.weights)
    content = checkpoint.read_bytes()
    for damaged in (b"", content[:20], content[:-9]):
        checkpoint.write_bytes(damaged)
        again = fit_probes(cache, renamed, [config], category_ids=("a",), checkpoint=checkpoint)[0]
        assert torch.equal(again.weights, second.weights)


def test_soft_labels_pull_less(tmp_path) -> None:
    rows = [(label, None, np.full((1, 1, 1), x), 0) for label, x in ((0.8, 1.0), (0.2, -1.0)) * 10]
    cache = write_cache(tmp_path / "w", rows, (0,))
    head = fit_probes(cache, cache.exchanges, [replace(PLAIN, layers=(0,))])[0]
    probabilities = 1 / (1 + np.exp(-logits(head, np.array([[1.0], [-1.0]]))))
    np.testing.assert_allclose(probabilities, [0.8, 0.2], atol=0.01)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_label_alone_trains_nothing(tmp_path, label) -> None:
    cache = write_cache(tmp_path / "w", [(label, None, np.ones((1, 2, 3)), 0)] * 4)
    with pytest.raises(TrainingError, match="both labels"):
        fit_probes(cache, cache.exchanges, [PLAIN])
    with pytest.raises(TrainingError, match="both labels"):
        fit_probes(cache, [], [PLAIN])


def test_configs_that_do_not_fit(tmp_path) -> None:
    cache = toy_cache(tmp_path / "w")
    with pytest.raises(TrainingError, match=r"layers \[5\] are not in the cache"):
        fit_probes(cache, cache.exchanges, [replace(PLAIN, layers=(0, 5))])
    with pytest.raises(TrainingError, match="same epochs, batch and seed"):
        fit_probes(cache, cache.exchanges, [PLAIN, replace(PLAIN, seed=1)])
    with pytest.raises(TrainingError, match="at least one"):
        fit_probes(cache, cache.exchanges, [])
