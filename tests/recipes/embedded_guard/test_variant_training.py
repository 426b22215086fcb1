"""Training on the fly against a plain loop over stored activations, resumption, scores as they are served."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from caches import exchange
from models import random_head, tiny_backbone

from lockgate.backbones import Feed, SessionPool
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.errors import TrainingError
from lockgate.evaluation import auroc
from lockgate.exchanges import Exchange, Message
from lockgate.guards import Stages, score_exchanges
from lockgate.training import ActivationTap, WindowCache, build_cache
from recipes.embedded_guard.fresh_passes import plan_batches
from recipes.embedded_guard.sequences import SequenceLoss
from recipes.embedded_guard.variant_scores import score_variants
from recipes.embedded_guard.variant_training import PassConfig, VariantConfig, train_on_the_fly

HARM = "boat boat boat boat boat boat boat"
ALL = (0, 1, 2)
PASS = PassConfig(tokens=5_000, batch=5, standardise_on=2, keep_every=2, seed=3)
PLAIN = VariantConfig("plain", ALL, window=1, loss=SequenceLoss("mean"), lr=0.01)


def rows(count: int = 24) -> list[Exchange]:
    """Exchanges of many lengths; the harmful ones answer with one word over and over."""
    made = []
    for i in range(count):
        row = exchange(i, words=(3 * i) % 17, label=float(i % 2))
        if i % 2:
            row = replace(row, messages=(row.messages[0], Message("assistant", HARM[: 5 * (1 + i % 7)])))
        made.append(row)
    return made


def variants() -> list[VariantConfig]:
    """One of every kind, at three sites."""
    return [
        PLAIN,
        VariantConfig("smooth", (2, 0), "mlp", 4, loss=SequenceLoss("softmax"), lr=0.01),
        VariantConfig("cummax", (1,), loss=SequenceLoss("cummax"), lr=0.01),
        VariantConfig("annealed", ALL, window=64, loss=SequenceLoss("annealed"), lr=0.01),
        VariantConfig("topk", ALL, "attention", loss=SequenceLoss("topk", top=3, variance=0.1), lr=0.01),
        VariantConfig("rolling", ALL, "attention", 5, "attention", SequenceLoss("max"), lr=0.01),
    ]


def stored(planned, site: str = "residual") -> torch.Tensor:
    """Activations `[tokens, layers, hidden]` of one exchange, read alone, float64."""
    backbone = tiny_backbone()
    tap = ActivationTap(ALL, site, backbone.hidden_size)
    with SessionPool(backbone, 512) as pool:
        pool.step([Feed(pool.open(512), planned.token_ids)], tap)
    return tap.hidden[:, planned.prefix_length :].transpose(0, 1).double()


def slow_training(data, config: PassConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain variant over stored activations in float64: folded weights and bias."""
    batches = plan_batches(
        tiny_backbone(), data, tokens=config.tokens, max_tokens=448, batch=config.batch, seed=config.seed
    )
    known = {planned.id: stored(planned) for batch in batches for planned in batch}
    seen = torch.cat([known[p.id] for batch in batches[: config.standardise_on] for p in batch])
    mean, std = seen.mean(0), seen.std(0, correction=0) + 1e-3
    labels = [planned.label for batch in batches for planned in batch]
    shares = {label: len(labels) / (2 * labels.count(label)) for label in (0.0, 1.0)}
    weight = torch.zeros(3, 32, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW(
        [
            {"params": [weight], "lr": PLAIN.lr, "weight_decay": PLAIN.weight_decay},
            {"params": [bias], "lr": 0.01, "weight_decay": 0.0},
        ]
    )
    for number, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * number / len(batches)))
        total = torch.zeros((), dtype=torch.float64)
        for planned in batch:
            logits = (((known[planned.id] - mean) / std) * weight).sum((1, 2)) + bias
            target = torch.full_like(logits, planned.label)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
            total = total + shares[planned.label] * loss / len(batch)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    folded = weight.detach() / std
    return folded, bias.detach() - (folded * mean).sum()


def test_on_the_fly_is_training_on_stored_activations() -> None:
    data = rows()
    folded, bias = slow_training(data, PASS)
    head = train_on_the_fly(tiny_backbone(), data, [PLAIN], PASS)[0]
    torch.testing.assert_close(head.weights[0].double(), folded, rtol=1e-3, atol=1e-4)
    assert head.bias.item() == pytest.approx(bias.item(), rel=1e-3, abs=1e-3)
    assert (head.layers, head.site, head.gamma) == (ALL, "residual", 1.0)
    # Neither other sites and heads beside it, nor layers it doesn't read, change it.
    together = train_on_the_fly(tiny_backbone(), data, variants(), PASS)
    torch.testing.assert_close(together[0].weights, head.weights, rtol=1e-3, atol=1e-4)
    alone = train_on_the_fly(tiny_backbone(), data, [variants()[1]], PASS)[0]
    torch.testing.assert_close(together[1].weights, alone.weights, rtol=1e-3, atol=1e-4)
    assert together[1].layers == (2, 0)
    assert together[5].weights.shape == (2, 3, 32)


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_ends_in_the_same_heads(tmp_path) -> None:
    data = rows()
    whole = train_on_the_fly(tiny_backbone(), data, variants(), PASS)
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("step 4/"):
            raise Stop

    with pytest.raises(Stop):
        train_on_the_fly(tiny_backbone(), data, variants(), PASS, checkpoint=tmp_path / "c", report=stop)
    resumed = train_on_the_fly(
        tiny_backbone(), data, variants(), PASS, checkpoint=tmp_path / "c", report=lines.append
    )
    # Stopped before the fourth step was kept: it goes on behind the second.
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "4/5", "5/5"]
    again = train_on_the_fly(
        tiny_backbone(), data, variants(), PASS, checkpoint=tmp_path / "c", report=lines.append
    )
    assert len(lines) == 4
    for first, second, third in zip(whole, resumed, again, strict=True):
        assert torch.equal(first.weights, second.weights)
        assert torch.equal(first.bias, second.bias)
        assert torch.equal(second.weights, third.weights)
    other = train_on_the_fly(
        tiny_backbone(), data, variants(), replace(PASS, seed=4), checkpoint=tmp_path / "c"
    )
    assert not torch.equal(other[0].weights, whole[0].weights)


def test_every_variant_learns() -> None:
    data = rows(120)
    heads = train_on_the_fly(tiny_backbone(), data, variants(), replace(PASS, tokens=20_000, batch=4))
    windows = [None] * 5 + [5]
    scores = np.array(
        [
            [np.fmax(s.max_prompt, s.max_answer) for s in row]
            for row in score_variants(tiny_backbone(), heads, windows, data)
        ]
    )
    harmful = np.array([row.label == 1.0 for row in data])
    for variant, column in zip(variants(), scores.T, strict=True):
        assert auroc(column, harmful) > 0.65, variant.name


def test_the_budget_of_tokens_and_the_longest_exchange() -> None:
    data = rows()
    few = plan_batches(tiny_backbone(), data, tokens=300, max_tokens=20, batch=4, seed=0)
    assert [len(batch) for batch in few[:-1]] == [4] * (len(few) - 1)
    lengths = [len(planned.token_ids) for batch in few for planned in batch]
    assert sum(lengths) <= 300 < sum(lengths) + 20
    assert max(lengths) == 20
    more = plan_batches(tiny_backbone(), data, tokens=10_000, max_tokens=20, batch=4, seed=0)
    flat = [planned.id for batch in more for planned in batch]
    assert sorted(flat) == sorted(row.id for row in data)
    assert flat[: len(lengths)] == [planned.id for batch in few for planned in batch]


@pytest.mark.parametrize(
    ("data", "chosen", "message"),
    [
        (rows()[::2], [PLAIN], "only one"),
        ([replace(row, label=None) for row in rows()], [PLAIN], "needs a label"),
        (rows(), [], "at least one variant"),
        (rows(), [replace(PLAIN, layers=())], "at least one variant"),
        (rows(), [PLAIN, PLAIN], "the same name"),
    ],
)
def test_what_cannot_be_trained(data, chosen, message) -> None:
    with pytest.raises(TrainingError, match=message):
        train_on_the_fly(tiny_backbone(), data, chosen, PASS)


def test_too_few_tokens() -> None:
    with pytest.raises(TrainingError, match="no exchange fits"):
        train_on_the_fly(tiny_backbone(), rows(), [PLAIN], replace(PASS, tokens=2))


def test_linear_variants_score_as_serving_does() -> None:
    data = [*rows(), Exchange((Message("user", "a"), Message("assistant", "")))]
    heads = [random_head(tiny_backbone(), seed, gamma) for seed, gamma in ((0, 0.1), (1, 1.0))]
    ours = list(score_variants(tiny_backbone(), heads, [None, None], data))
    theirs = list(
        score_exchanges(tiny_backbone(), [Stages(head, Thresholds(float("inf"))) for head in heads], data)
    )
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal([a.max_prompt, a.max_answer], [b.max_prompt, b.max_answer])
            assert a.tokens == b.tokens


def test_rolling_attention_scores_by_hand() -> None:
    """The largest pooled value from the sixteenth scored token on, or at the end of what is shorter."""
    backbone, data = tiny_backbone(), rows(8)
    linear = random_head(backbone, 2)
    head = ProbeHead(ALL, "residual", linear.weights[:2], linear.bias[:2], 1.0, ("query",))
    for row, found in zip(data, score_variants(backbone, [head], [4], data), strict=True):
        chat = backbone.render(row.messages)
        planned = plan_batches(
            backbone, [replace(row, label=0.0)], tokens=999, max_tokens=999, batch=1, seed=0
        )[0][0]
        logits = torch.einsum("tlh,olh->to", stored(planned), head.weights.double()) + head.bias
        pooled = [
            float((logits[max(0, t - 3) : t + 1, 1].softmax(0) * logits[max(0, t - 3) : t + 1, 0]).sum())
            for t in range(len(logits))
        ]
        judged = range(15, len(pooled)) if len(pooled) >= 16 else [len(pooled) - 1]
        answer = [pooled[t] for t in judged if t + chat.prefix_length >= chat.answer_start]
        expected = max(answer) if answer else float("nan")
        assert found[0].max_answer == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_a_cache_and_a_fresh_pass_read_the_same_tokens(tmp_path) -> None:
    data = rows(6)
    list(build_cache(tiny_backbone(), data, tmp_path, layers=ALL, site="residual", max_tokens=30))
    cache = WindowCache(tmp_path)
    batches = plan_batches(tiny_backbone(), data, tokens=9_999, max_tokens=30, batch=6, seed=0)
    planned = {p.id: p for p in batches[0]}
    for row in cache.exchanges:
        tokens = stored(planned[row.id])
        window = tokens[:16].mean(0) if len(tokens) >= 16 or len(tokens) <= 8 else None
        if window is not None:
            np.testing.assert_allclose(cache.windows(row)[0], window, rtol=2e-3, atol=2e-3)
