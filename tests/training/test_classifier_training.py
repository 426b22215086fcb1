"""Fine-tuning learns, uses the computation of serving, and continues where it stopped."""

import copy

import pytest
import torch
from judges import VERDICT_WORDS, planted
from models import tiny_backbone, tiny_model, tokenizer_for

from lockgate.backbones import Backbone, Feed
from lockgate.classifiers import score_blocks
from lockgate.errors import ConfigError, TrainingError
from lockgate.training import ClassifierConfig, check_settings, train_classifier
from lockgate.training._classifier_data import select_examples
from lockgate.training._classifier_run import ClassifierRun

QUICK = {
    "words": VERDICT_WORDS,
    "layers": 2,
    "rank": 4,
    "lr": 5e-3,
    "tokens_per_step": 400,
    "max_tokens": 128,
}
ROWS = [planted(i, float(i % 2)) for i in range(24)]


@pytest.mark.parametrize(("architecture", "head"), [("gemma2", "verdict"), ("qwen2", "value")])
def test_it_learns_a_planted_word_and_leaves_the_base_alone(architecture, head) -> None:
    base = Backbone(tiny_model(architecture), tokenizer_for(architecture), name="base")
    before = copy.deepcopy(base.model.state_dict())
    config = ClassifierConfig(**QUICK, head=head, tokens=9000)
    losses: list[float] = []
    classifier = train_classifier(
        base, ROWS, config, report=lambda line: losses.append(float(line.split()[3]))
    )
    fifth = len(losses) // 5
    assert sum(losses[-fifth:]) < 0.5 * sum(losses[:fifth])
    last = [scores.logits[-1] for scores in score_blocks(classifier, ROWS)]
    assert sum(a > b for a in last[1::2] for b in last[::2]) > 0.9 * 144
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    training = classifier.record.training
    assert training is not None
    assert training["exchanges"] == {"harmful": 12, "harmless": 12}
    assert 9000 <= training["tokens_seen"] < 9100
    assert training["steps"] == len(losses)


@pytest.mark.parametrize("head", ["verdict", "value"])
@pytest.mark.parametrize("weighting", ["mean", "softmax"])
def test_the_loss_is_that_of_the_logits_that_serving_gives(head, weighting) -> None:
    base = tiny_backbone("gemma2")
    config = ClassifierConfig(**QUICK, head=head, weighting=weighting)
    rows = [planted(i, (0.0, 0.0, 0.7)[i % 3]) for i in range(6)]
    run = ClassifierRun(base, select_examples(rows, "exchange"), config)
    with torch.no_grad():
        for parameter in run._parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    classifier = run.classifier()
    total = 0.0
    step = run.steps[0]
    for row in step:
        cuts = row.cuts if head == "verdict" else list(range(row.answer_start, len(row.ids) + 1))
        logits = []
        for cut in cuts:
            ids = [*row.ids[:cut], *classifier.suffix]
            with classifier.pool(len(ids)) as pool:
                logits.append(classifier.verdicts(pool.read([Feed(pool.open(len(ids)), ids)])[0][-1:])[0])
        z = torch.tensor(logits, dtype=torch.float64)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            z, torch.full_like(z, row.label), reduction="none"
        )
        plain = weighting == "mean" or head == "value"
        loss = losses.mean() if plain else (losses * z.softmax(0)).sum()
        total += float(loss) * (6 / (2 * 2) if row.label >= 0.5 else 6 / (2 * 4))
    assert float(run.loss(step, 0.0).detach()) == pytest.approx(total / len(step), rel=1e-3)


@pytest.mark.parametrize("head", ["verdict", "value"])
def test_a_run_that_was_killed_ends_in_the_same_adapter(tmp_path, head) -> None:
    base = tiny_backbone()
    config = ClassifierConfig(**QUICK, head=head, tokens=1500)
    expected = train_classifier(base, ROWS, config)

    def stop(line: str) -> None:
        if line.startswith("step 4/"):
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_classifier(base, ROWS, config, checkpoint=checkpoint, checkpoint_every=2, report=stop)
    lines: list[str] = []
    resumed = train_classifier(
        base, ROWS, config, checkpoint=checkpoint, checkpoint_every=2, report=lines.append
    )
    assert lines[0].startswith("step 3/")
    assert resumed.sha256 == expected.sha256
    lines.clear()
    assert train_classifier(base, ROWS, config, checkpoint=checkpoint).sha256 == expected.sha256
    other = ClassifierConfig(**QUICK, head=head, tokens=1500, seed=1)
    train_classifier(base, ROWS, other, checkpoint=checkpoint, report=lines.append)
    assert lines[0].startswith("step 1/")


def test_precision_depth_and_reading_are_options() -> None:
    base = tiny_backbone("qwen3")
    config = ClassifierConfig(**{**QUICK, "layers": 9}, dtype="bfloat16", depth=2, tokens=300)
    classifier = train_classifier(base, ROWS, config)
    assert classifier.record.adapter.blocks == range(2)
    assert classifier.backbone.n_layers == 2
    assert classifier.backbone.model.dtype == torch.float32
    assert all(tensor.dtype == torch.float32 for tensor in classifier.tensors.values())
    prompts = train_classifier(base, ROWS, ClassifierConfig(**QUICK, reads="prompt", tokens=300))
    assert next(score_blocks(prompts, ROWS)).ends == [0]


def test_what_cannot_be_trained_is_refused() -> None:
    base = tiny_backbone()
    with pytest.raises(TrainingError, match="needs both labels"):
        train_classifier(base, ROWS[::2], ClassifierConfig(**QUICK))
    with pytest.raises(ConfigError, match=r"is . tokens for tiny-llama"):
        train_classifier(base, ROWS, ClassifierConfig(max_tokens=64))
    for wrong in ({"depth": 4}, {"depth": 0}, {"max_tokens": 513}):
        with pytest.raises(ConfigError, match="has 3 blocks and a context of 512"):
            train_classifier(base, ROWS, ClassifierConfig(**{**QUICK, **wrong}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cuts": 0},
        {"tokens": 0},
        {"rank": 0},
        {"lr": 0.0},
        {"warmup": 1.0},
        {"dtype": "float16"},
        {"tau": 0.0},
    ],
)
def test_settings_that_cannot_be(wrong) -> None:
    with pytest.raises(ConfigError, match="expected"):
        ClassifierConfig(**wrong)


@pytest.mark.parametrize("head", ["verdict", "value"])
@pytest.mark.parametrize(("layers", "rank"), [(1, 1), (2, 4), (9, 7)])
def test_the_size_of_a_classifier_is_known_before_it_is_trained(tmp_path, head, layers, rank) -> None:
    base = tiny_backbone()
    config = ClassifierConfig(**{**QUICK, "layers": layers, "rank": rank}, head=head, tokens=1)
    size = check_settings(base, config)
    made = train_classifier(base, ROWS, config)
    assert size == sum(4 * tensor.numel() for tensor in made.tensors.values())
    made.save(tmp_path / "c")
    weights = sum(path.stat().st_size for path in (tmp_path / "c").glob("*.safetensors"))
    assert size < weights
    assert check_settings(base, config, beside=10, most_bytes=size + 10) == size
    with pytest.raises(ConfigError, match="makes a classifier of"):
        train_classifier(base, ROWS, config, most_bytes=size - 1)
    with pytest.raises(ConfigError, match="and the rest of the bundle takes"):
        check_settings(base, config, beside=11, most_bytes=size + 10)


def test_a_classifier_that_is_too_large_is_told_which_rank_fits() -> None:
    base = tiny_backbone()
    config = ClassifierConfig(**{**QUICK, "rank": 64})
    for most in (5_000, 50_000, 100_000):
        with pytest.raises(ConfigError) as caught:
            check_settings(base, config, most_bytes=most)
        fits = int(str(caught.value).partition("(rank ")[2].partition(" ")[0])
        assert check_settings(base, ClassifierConfig(**{**QUICK, "rank": fits}), most_bytes=most) <= most
        with pytest.raises(ConfigError):
            check_settings(base, ClassifierConfig(**{**QUICK, "rank": fits + 1}), most_bytes=most)
    with pytest.raises(ConfigError, match="take fewer layers"):
        check_settings(base, config, most_bytes=100)
