import json

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from lockgate.classifiers.text import TextBaseline, TextBaselineConfig, exchange_text
from lockgate.errors import GuardError, TrainingError
from lockgate.exchanges import Exchange, Message, PromptPrints, prompt_group

SMALL = TextBaselineConfig(bits=12, cs=(1.0, 10.0), folds=3)
TOPICS = ("rivers", "bread", "clocks", "maps", "birds", "tin cans")


def exchange(prompt, answer, label):
    return Exchange((Message("user", prompt), Message("assistant", answer)), label=label)


def make_rows(n=120):
    """Answers that give away PLACEHOLDER steps are harmful; prompts say nothing about it."""
    rows, groups = [], []
    for i in range(n):
        topic = TOPICS[i % len(TOPICS)]
        harmful = (i // len(TOPICS)) % 2
        answer = f"PLACEHOLDER step {i} about {topic}" if harmful else f"a short history of {topic}, part {i}"
        rows.append(exchange(f"tell me about {topic}", answer, 0.9 if harmful else 0.2))
        groups.append(f"{topic}-{i // 12}")
    return rows, groups


@pytest.fixture(scope="module")
def fitted():
    rows, groups = make_rows()
    return TextBaseline.fit(rows, groups, SMALL), rows


def test_learns_the_answer(fitted):
    baseline, rows = fitted
    scores = baseline.decision_function(rows)
    labels = np.array([row.label >= 0.5 for row in rows])
    assert scores.dtype == np.float64
    assert scores[labels].min() > scores[~labels].max()
    assert baseline.c in SMALL.cs
    assert [row.c for row in baseline.cross_validation] == list(SMALL.cs)


def test_agrees_with_scikit_learns_own_pipeline(fitted):
    baseline, rows = fitted
    texts = [exchange_text(row.messages, "exchange") for row in rows]
    blocks = []
    for options in (
        {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
        {"analyzer": "char_wb", "ngram_range": (3, 5)},
    ):
        counts = HashingVectorizer(n_features=2**12, norm=None, alternate_sign=False, **options).transform(
            texts
        )
        blocks.append(TfidfTransformer(sublinear_tf=True).fit_transform(counts))
    features = sparse.hstack(blocks, format="csr")
    model = LogisticRegression(C=baseline.c, solver="liblinear", dual=True, random_state=0)
    model.fit(features, [row.label >= 0.5 for row in rows])
    np.testing.assert_allclose(baseline.decision_function(rows), model.decision_function(features), atol=1e-3)


def test_saved_and_loaded_scores_are_the_same_bits(fitted, tmp_path):
    baseline, rows = fitted
    baseline.save(tmp_path / "text")
    loaded = TextBaseline.load(tmp_path / "text")
    assert np.array_equal(baseline.decision_function(rows), loaded.decision_function(rows))
    assert loaded.config == baseline.config
    assert loaded.cross_validation == baseline.cross_validation
    assert (loaded.n_rows, loaded.n_groups) == (baseline.n_rows, baseline.n_groups) == (120, 60)
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == [
        "text_baseline.json",
        "text_baseline.safetensors",
    ]


def test_fitting_again_gives_the_same_bits(fitted):
    baseline, rows = fitted
    again = TextBaseline.fit(*make_rows(), SMALL)
    assert np.array_equal(baseline.decision_function(rows), again.decision_function(rows))


def test_a_row_scores_the_same_alone_and_in_a_batch(fitted):
    baseline, rows = fitted
    alone = np.array([baseline.decision_function([row])[0] for row in rows[:10]])
    assert np.array_equal(alone, baseline.decision_function(iter(rows))[:10])
    assert baseline.decision_function([]).shape == (0,)


def test_views_read_their_own_part():
    messages = (
        Message("system", "s"),
        Message("user", "u1"),
        Message("assistant", "a1"),
        Message("user", "u2"),
        Message("assistant", "a2", tool_calls=({"function": {"name": "ring"}},)),
    )
    assert exchange_text(messages, "answer").split()[:2] == ["[assistant]", "a2"]
    assert "ring" in exchange_text(messages, "answer")
    prompt = exchange_text(messages, "prompt")
    assert "u2" in prompt
    assert "a1" in prompt
    assert "a2" not in prompt
    assert "a2" in exchange_text(messages, "exchange")
    assert exchange_text(messages[:2], "answer") == ""
    assert "u1" in exchange_text(messages[:2], "prompt")


def test_prompt_view_cannot_see_the_answer():
    rows, groups = make_rows()
    baseline = TextBaseline.fit(rows, groups, TextBaselineConfig(view="prompt", bits=12, cs=(1.0,), folds=3))
    same_prompt = [exchange("tell me about maps", answer, None) for answer in ("PLACEHOLDER", "history")]
    scores = baseline.decision_function(same_prompt)
    assert scores[0] == scores[1]


@pytest.mark.parametrize("text", ["", "\ud800 lone", "日本語のテキスト", "\x00\u202e", "a" * 100_000])
def test_any_text_gets_a_finite_score(fitted, text):
    assert np.isfinite(fitted[0].decision_function([exchange(text, text, None)])).all()


def test_unusable_training_data_is_refused():
    rows, groups = make_rows(24)
    unlabelled = [*rows[:-1], exchange("a", "b", None)]
    for bad_rows, bad_groups, message in [
        (unlabelled, groups, "no label"),
        (rows, groups[:-1], "one each"),
        (rows, ["one"] * 24, "folds"),
        ([exchange("a", "b", 0.0)] * 24, groups, "both classes"),
    ]:
        with pytest.raises(TrainingError, match=message):
            TextBaseline.fit(bad_rows, bad_groups, SMALL)


def test_a_label_within_one_group_is_refused():
    rows = [exchange("a", "PLACEHOLDER", 1.0)] * 6 + [exchange("b", "fine", 0.0)] * 12
    with pytest.raises(TrainingError, match="one class only"):
        TextBaseline.fit(rows, ["x"] * 6 + ["y", "z"] * 6, SMALL)


def test_half_a_fit_is_an_error():
    rows, groups = make_rows()
    with pytest.raises(TrainingError, match="did not converge in 1 iterations"):
        TextBaseline.fit(rows, groups, TextBaselineConfig(bits=12, cs=(100.0,), folds=3, max_iter=1))


def test_damaged_files_are_refused(fitted, tmp_path):
    baseline, _ = fitted
    with pytest.raises(GuardError, match="cannot be read"):
        TextBaseline.load(tmp_path)
    baseline.save(tmp_path)
    tensors = tmp_path / "text_baseline.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GuardError, match="incomplete or damaged"):
        TextBaseline.load(tmp_path)
    tensors.write_bytes(whole)
    config = tmp_path / "text_baseline.json"
    record = json.loads(config.read_text())
    record["config"]["bits"] = 13
    config.write_text(json.dumps(record))
    with pytest.raises(GuardError, match="shape"):
        TextBaseline.load(tmp_path)
    config.write_text('{"format": 99}')
    with pytest.raises(GuardError, match="format 1"):
        TextBaseline.load(tmp_path)


def test_half_precision_halves_the_file_and_saving_changes_no_bit(fitted, tmp_path):
    baseline, rows = fitted
    rounded = baseline.rounded()
    rounded.save(tmp_path / "half")
    baseline.save(tmp_path / "whole")
    loaded = TextBaseline.load(tmp_path / "half")
    assert np.array_equal(loaded.decision_function(rows), rounded.decision_function(rows))
    np.testing.assert_allclose(rounded.decision_function(rows), baseline.decision_function(rows), atol=0.05)
    sizes = [(tmp_path / name / "text_baseline.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.51 * sizes[1]
    assert loaded.idf.dtype == loaded.coefficients.dtype == np.float32
    assert loaded.sha256 == rounded.sha256 != baseline.sha256
    assert rounded.rounded().sha256 == rounded.sha256


def test_the_hash_is_that_of_what_decides_scores(fitted, tmp_path):
    baseline, _ = fitted
    baseline.save(tmp_path / "text")
    assert TextBaseline.load(tmp_path / "text").sha256 == baseline.sha256
    other = TextBaseline(
        baseline.config,
        idf=baseline.idf,
        coefficients=-baseline.coefficients,
        intercept=baseline.intercept,
        c=baseline.c,
    )
    assert other.sha256 != baseline.sha256


def test_fingerprints_of_training_prompts_are_kept_beside_it(fitted, tmp_path):
    baseline, rows = fitted
    known = TextBaseline.load(saved(baseline, tmp_path / "text"))
    assert known.training_prompts is None
    known.training_prompts = PromptPrints.of(rows)
    again = TextBaseline.load(saved(known, tmp_path / "text"))
    assert again.training_prompts.holds([prompt_group(row) for row in rows]).all()
    known.save(tmp_path / "text", prompts=False)
    assert TextBaseline.load(tmp_path / "text").training_prompts is None


def saved(baseline, folder):
    baseline.save(folder)
    return folder
