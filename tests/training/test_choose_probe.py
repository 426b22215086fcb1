"""Settings are chosen on rows that a fit has not seen, and a stopped choice goes on."""

from dataclasses import replace

import numpy as np
import pytest
from caches import write_cache

from lockgate.errors import TrainingError
from lockgate.training import (
    LowRateRecall,
    ProbeConfig,
    choose_probe,
    fit_probes,
    grouped_folds,
    window_scores,
)

N, HIDDEN = 90, 8
STANDARD = ProbeConfig("standard", (0,), epochs=4, batch=16, lr=0.02, weight_decay=0.0)
CONFIGS = (
    STANDARD,
    replace(STANDARD, name="layer 1", layers=(1,)),
    replace(STANDARD, name="short", epochs=1),
)


def made_rows(signal: float = 1.0) -> list[tuple]:
    """Rows with a weak signal in layer 1; layer 0 is loud noise."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(N):
        windows = rng.normal(size=(1 + number % 3, 2, HIDDEN))
        windows[:, 0] *= 3
        windows[:, 1, 0] += signal * 4 * (number % 3 == 0)
        rows.append((float(number % 3 == 0), None, windows, 0))
    return rows


@pytest.fixture
def setting(tmp_path):
    cache = write_cache(tmp_path / "cache", made_rows())
    harmful = np.array([row.label >= 0.5 for row in cache.exchanges])
    folds, groups = grouped_folds([[row.id] for row in cache.exchanges], harmful, 3)
    return cache, folds, LowRateRecall(harmful, groups, ["own"] * N)


def test_scores_are_of_rows_that_the_fit_has_not_seen(setting, tmp_path) -> None:
    cache, folds, judge = setting
    made = choose_probe(cache, CONFIGS[:1], folds, judge, work=tmp_path / "work")
    for fold in range(3):
        own = folds == fold
        training = [row for row, held in zip(cache.exchanges, own, strict=True) if not held]
        (head,) = fit_probes(cache, training, CONFIGS[:1])
        held = [row for row, held in zip(cache.exchanges, own, strict=True) if held]
        assert made.scores[own].tolist() == window_scores(head, cache, held).tolist()
    assert made.tried[0].value == judge.value(made.scores)
    assert (made.tried[0].gain, made.tried[0].error) == (0.0, 0.0)


def test_better_settings_are_taken_only_beyond_their_error(setting, tmp_path) -> None:
    cache, folds, judge = setting
    made = choose_probe(cache, CONFIGS, folds, judge, work=tmp_path / "work")
    named = {one.name: one for one in made.tried}
    assert list(named) == [config.name for config in CONFIGS]
    best = max(made.tried, key=lambda one: one.value)
    assert made.config.name == (best.name if best.gain > best.error else "standard")
    assert made.config.name == "layer 1"


def test_a_stopped_choice_goes_on_with_the_same_result(setting, tmp_path, monkeypatch) -> None:
    cache, folds, judge = setting
    whole = choose_probe(cache, CONFIGS, folds, judge, work=tmp_path / "whole")
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose_probe(cache, CONFIGS, folds, judge, work=tmp_path / "work", report=stop)
    assert seen == [(1, 6), (2, 6)]
    fits = []
    original = fit_probes

    def counted(*arguments, **options):
        fits.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr("lockgate.training._choose.fit_probes", counted)
    again = choose_probe(cache, CONFIGS, folds, judge, work=tmp_path / "work")
    assert len(fits) == 4
    assert (again.config, again.tried) == (whole.config, whole.tried)
    assert again.scores.tolist() == whole.scores.tolist()
    assert not list((tmp_path / "work").glob("*.safetensors"))


def test_other_data_are_fitted_anew(setting, tmp_path) -> None:
    cache, folds, judge = setting
    first = choose_probe(cache, CONFIGS[:1], folds, judge, work=tmp_path / "work")
    moved = (folds + 1) % 3
    second = choose_probe(cache, CONFIGS[:1], moved, judge, work=tmp_path / "work")
    assert first.scores.tolist() == pytest.approx(second.scores.tolist())
    assert len(list((tmp_path / "work").glob("*.json"))) == 6


def test_candidates_and_folds_are_checked(setting, tmp_path) -> None:
    cache, folds, judge = setting
    with pytest.raises(TrainingError, match="different names"):
        choose_probe(cache, (STANDARD, STANDARD), folds, judge, work=tmp_path / "work")
    with pytest.raises(TrainingError, match="different names"):
        choose_probe(cache, (), folds, judge, work=tmp_path / "work")
    with pytest.raises(TrainingError, match="89 folds for 90"):
        choose_probe(cache, CONFIGS, folds[1:], judge, work=tmp_path / "work")
