"""Window means, compared with sums over single tokens."""

import json

import numpy as np
import pytest
import torch
from caches import exchange
from models import tiny_backbone

from lockgate.backbones import Feed, SessionPool
from lockgate.classifiers import WINDOW
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange, Message
from lockgate.training import STRIDE, WindowCache, build_cache
from lockgate.training._windows import ActivationTap, _window_means

LAYERS = (2, 0)


def build(path, rows, *, site="residual", max_tokens=10_000, shard_size=3, layers=LAYERS) -> WindowCache:
    steps = build_cache(
        tiny_backbone(), rows, path, layers=layers, site=site, max_tokens=max_tokens, shard_size=shard_size
    )
    assert list(steps) == [min(i, len(rows)) for i in range(shard_size, len(rows) + shard_size, shard_size)]
    return WindowCache(path)


def read_alone(row: Exchange, site="residual", max_tokens=10_000):
    """Activations `[tokens, layers, hidden]` of prompt and answer; where the answer begins."""
    backbone = tiny_backbone()
    chat = backbone.render(row.messages)
    ids, prefix = chat.token_ids[: chat.answer_end], chat.prefix_length
    cut = max(0, len(ids) - max_tokens)
    ids = ids[:prefix] + ids[prefix + cut :]
    tap = ActivationTap(LAYERS, site, backbone.hidden_size)
    with SessionPool(backbone, 512) as pool:
        pool.step([Feed(pool.open(512), ids)], tap)
    return tap.hidden[:, prefix:].transpose(0, 1).double().numpy(), chat.answer_start - cut - prefix


def slow_windows(tokens: np.ndarray, answer: int) -> tuple[list, int]:
    """Means of the 16 tokens up to each multiple of 8 and to the last token; one mean if there are few."""
    count = len(tokens)
    ends = list(range(WINDOW, count + STRIDE, STRIDE))
    ends = [min(end, count) for end in ends] or [count]
    starts = [max(0, -(-end // STRIDE) * STRIDE - WINDOW) for end in ends]
    means = [tokens[start:end].mean(0) for start, end in zip(starts, ends, strict=True)]
    first = next((i for i, end in enumerate(ends) if end > answer), len(ends) - 1)
    return means, first


ROWS = [exchange(i, words) for i, words in enumerate((0, 1, 2, 3, 5, 8, 12, 13, 30))]


@pytest.mark.parametrize("site", ["residual", "attention", "mlp"])
def test_windows_are_the_means_of_their_tokens(tmp_path, site) -> None:
    cache = build(tmp_path / "w", ROWS, site=site)
    assert [row.id for row in cache.exchanges] == [row.id for row in ROWS]
    for row, cached in zip(ROWS, cache.exchanges, strict=True):
        means, first = slow_windows(*read_alone(row, site))
        np.testing.assert_allclose(cache.windows(cached), means, rtol=2e-3, atol=2e-3)
        assert cached.first_answer_window == first
        assert (cached.label, cached.source) == (0.0, "made")


@pytest.mark.parametrize("tokens", [*range(1, 42)])
def test_every_length(tokens) -> None:
    values = torch.arange(1.0, tokens + 1)
    blocks = torch.stack([part.sum() for part in values.split(STRIDE)])[None, :, None]
    means, ends = _window_means(blocks, tokens)
    expected, _ = slow_windows(values.double().numpy(), 0)
    np.testing.assert_allclose(means[:, 0, 0], expected)
    assert ends[-1] == tokens


def test_what_is_too_long_keeps_its_end(tmp_path) -> None:
    rows = [exchange(1, 40), exchange(2, 3)]
    cache = build(tmp_path / "w", rows, max_tokens=50)
    for row, cached in zip(rows, cache.exchanges, strict=True):
        means, first = slow_windows(*read_alone(row, max_tokens=50))
        np.testing.assert_allclose(cache.windows(cached), means, rtol=2e-3, atol=2e-3)
        assert cached.first_answer_window == first


def test_one_token_and_no_token_exchanges(tmp_path) -> None:
    rows = [
        Exchange((Message("user", ""), Message("assistant", ""))),
        Exchange((Message("user", ""), Message("assistant", "a"))),
        Exchange((Message("assistant", "a"),)),
        Exchange((Message("assistant", ""),)),
        Exchange((Message("system", "a"), Message("assistant", ""))),
    ]
    cache = build(tmp_path / "w", rows)
    assert [row.end - row.start for row in cache.exchanges] == [1] * 5
    assert all(row.first_answer_window == 0 for row in cache.exchanges)
    tiny = build(tmp_path / "x", rows, max_tokens=1)
    assert [row.end - row.start for row in tiny.exchanges] == [1] * 5


def test_an_interrupted_run_goes_on_behind_the_last_whole_shard(tmp_path) -> None:
    whole = build(tmp_path / "whole", ROWS)
    steps = build_cache(
        tiny_backbone(), ROWS, tmp_path / "w", layers=LAYERS, site="residual", max_tokens=10_000, shard_size=3
    )
    assert next(steps) == 3
    steps.close()
    # Killed while the second shard was written: its numbers are there, its JSON is not.
    (tmp_path / "w" / "0001.npy").write_bytes(b"half")
    (tmp_path / "w" / "0001.part").write_text("{")
    stamp = (tmp_path / "w" / "0000.npy").stat().st_mtime_ns
    cache = build(tmp_path / "w", ROWS)
    assert (tmp_path / "w" / "0000.npy").stat().st_mtime_ns == stamp
    assert cache.exchanges == whole.exchanges
    for ours, theirs in zip(cache.shards, whole.shards, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (ROWS[::-1], {}),
        (ROWS, {"layers": (0, 2)}),
        (ROWS, {"site": "mlp"}),
        (ROWS, {"max_tokens": 99}),
        (ROWS[:6], {}),
        (ROWS[:4], {}),
    ],
)
def test_other_data_or_settings_are_not_mixed_in(tmp_path, rows, settings) -> None:
    build(tmp_path / "w", ROWS)
    with pytest.raises(TrainingError, match="use another directory"):
        build(tmp_path / "w", rows, **settings)


def test_an_empty_or_damaged_cache(tmp_path) -> None:
    with pytest.raises(TrainingError, match="no finished shard"):
        WindowCache(tmp_path)
    build(tmp_path / "w", ROWS)
    shard, rows = tmp_path / "w" / "0001.npy", tmp_path / "w" / "0001.json"
    content = shard.read_bytes()
    for damaged in (content[:50], content[:-5]):
        shard.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"0001.json: damaged"):
            WindowCache(tmp_path / "w")
    shard.write_bytes(content)
    rows.write_text(json.dumps({**json.loads(rows.read_text()), "exchanges": [{"id": "x"}]}))
    with pytest.raises(TrainingError, match=r"0001.json: damaged"):
        WindowCache(tmp_path / "w")


def test_precisions_are_not_mixed(tmp_path) -> None:
    cache = build(tmp_path / "w", ROWS)
    assert cache.meta["dtype"] == "float32"
    for number, dtype in (("0001", "bfloat16"), ("0002", None)):
        rows = tmp_path / "w" / f"{number}.json"
        content = json.loads(rows.read_text())
        changed = {key: value for key, value in content["meta"].items() if key != "dtype"}
        changed |= {"dtype": dtype} if dtype else {}
        rows.write_text(json.dumps({**content, "meta": changed}))
        message = rf"{number}.json: " + (
            "made with other settings .dtype." if dtype else "does not say in which precision"
        )
        with pytest.raises(TrainingError, match=message):
            WindowCache(tmp_path / "w")
        with pytest.raises(TrainingError, match=message):
            build(tmp_path / "w", ROWS)
        rows.write_text(json.dumps(content))


def test_caches_of_several_processes_join(tmp_path) -> None:
    parts = [build(tmp_path / name, rows) for name, rows in (("a", ROWS[:4]), ("b", ROWS[4:]))]
    whole, joined = build(tmp_path / "whole", ROWS), WindowCache.join(parts)
    for ours, theirs in zip(joined.exchanges, whole.exchanges, strict=True):
        assert ours.id == theirs.id
        np.testing.assert_allclose(joined.windows(ours), whole.windows(theirs), rtol=2e-3, atol=2e-3)
    other = build(tmp_path / "other", ROWS, site="mlp")
    with pytest.raises(TrainingError, match="other settings"):
        WindowCache.join([parts[0], other])


def test_activations_beyond_float16_are_an_error(tmp_path, monkeypatch) -> None:
    see = ActivationTap.see
    monkeypatch.setattr(ActivationTap, "see", lambda self, *key: see(self, *key[:2], key[2] * 1e6))
    with pytest.raises(TrainingError, match="beyond float16"):
        build(tmp_path / "w", ROWS)
