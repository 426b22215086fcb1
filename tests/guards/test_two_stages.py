"""A guard of two stages: files, single exchanges, streams and simulated traces agree."""

import math
import shutil
from contextlib import nullcontext
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import yaml
from classifying import random_classifier, tiny_classifier
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import tiny_backbone
from parts import make_exchange, make_guard, policy, rewrite

from lockgate.calibration import choose_threshold
from lockgate.cascade import Cascade, simulate
from lockgate.classifiers import ExchangeClassifier, score_blocks
from lockgate.constitution import hash_constitution
from lockgate.errors import BackboneMismatch, ConfigError, ExchangeError, GuardError
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.guards import Guard, _guard, read_bundle
from lockgate.tables import BlockTrace, ScoresTable
from lockgate.traffic import _files, score_file

ARCHITECTURES = ("llama", "qwen2_sliding", "gemma2")
PROMPT = [{"role": "user", "content": "why does the canal run past the mill"}]
WORDS = [
    "the",
    "lock",
    "holds",
    "the",
    "water",
    "back",
    "between",
    "two",
    "gates",
    "and",
    "lets",
    "a",
    "boat",
    "in",
]


@cache
def scale(architecture: str) -> tuple[float, float, float, float]:
    """Mean and spread of both stages on this backbone."""
    guard, rows = make_guard(tiny_backbone(architecture)), [make_exchange(i, 8 + i) for i in range(12)]
    probe = [guard.score(row.messages).max_score for row in rows]
    found = [max(s.logits) for s in score_blocks(tiny_classifier(architecture), rows)]
    return tuple(float(v) for v in (np.mean(probe), np.std(probe), np.mean(found), np.std(found)))


def make_cascade(
    architecture: str = "llama", escalate: float = -0.5, flag: float = 0.5, **options
) -> Cascade:
    """A cascade in standard units of this backbone's scores."""
    probe_mean, probe_std, classifier_mean, classifier_std = scale(architecture)
    return Cascade(
        probe_mean + escalate * probe_std, flag, options.pop("weight", 0.5), probe_mean, probe_std,
        classifier_mean, classifier_std, **{"tolerance": 1e-3, **options},
    )  # fmt: skip


def two_stages(architecture: str = "llama", *, classifier=None, flag_on="answer", **cascade) -> Guard:
    guard = make_guard(tiny_backbone(architecture), flag_on=flag_on)
    return guard.with_cascade(
        classifier or tiny_classifier(architecture), make_cascade(architecture, **cascade)
    )


def answered(words: int) -> list[dict[str, str]]:
    return [*PROMPT, {"role": "assistant", "content": " ".join(WORDS[i % 14] for i in range(words))}]


def on_edge(guard: Guard, blocks) -> bool:
    """Whether float noise may decide on an escalation or a flag."""
    readings = guard.cascade.corrected_blocks(np.array([block.probe for block in blocks]))
    return bool((np.abs(readings[~np.isnan(readings)] - guard.cascade.escalate) < 1e-2).any())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_scoring_streaming_and_simulating_agree(architecture, data) -> None:
    guard = two_stages(
        architecture,
        flag_on=data.draw(st.sampled_from(["answer", "both"])),
        escalate=data.draw(st.sampled_from([-9.0, -1.0, 0.0, 0.5, 9.0])),
        flag=data.draw(st.sampled_from([-9.0, 0.0, 1.0, 9.0])),
        stride=data.draw(st.sampled_from([1, 3, 8])),
        calm_blocks=data.draw(st.integers(1, 3)),
        weight=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        drift=data.draw(st.sampled_from([0.0, 1.0, 5.0])),
        delay=data.draw(st.sampled_from([0, 4, 16])),
    )
    messages = answered(data.draw(st.integers(0, 30)))
    whole = guard.score(messages)
    traced = next(iter(guard.score_many([Exchange(tuple(Message(**m) for m in messages))], all_blocks=True)))
    assume(not on_edge(guard, traced.blocks))
    assume(abs(whole.mixed_max - guard.cascade.flag) > 1e-2)
    # The trace of all blocks holds what the cascade would do.
    outcome = simulate(
        [row.probe for row in traced.blocks], [row.classifier for row in traced.blocks], guard.cascade,
        flag_on=guard.thresholds.flag_on,
    )  # fmt: skip
    assert outcome.mixed_max == pytest.approx(whole.mixed_max, abs=1e-3)
    assert (outcome.flagged, outcome.escalated) == (whole.flagged, whole.stage == 2)
    asked = [number for number, row in enumerate(whole.blocks) if not math.isnan(row.classifier)]
    assert asked == list(outcome.judged_blocks)
    np.testing.assert_allclose(
        [row.probe for row in whole.blocks], [row.probe for row in traced.blocks], atol=1e-3
    )
    # The same, token by token, in any pieces.
    ids = guard.backbone.chat.encode_text(messages[1]["content"])
    cuts = sorted({0, len(ids), *data.draw(st.sets(st.integers(0, len(ids)), max_size=9))})
    with guard.stream(PROMPT) as stream:
        shown = [stream.released]
        for start, end in pairwise(cuts):
            stream.push(ids[start:end])
            shown.append(stream.released)
        last = stream.finish()
        shown.append(stream.released)
    state = stream._state
    assert stream.failure is None
    assert state.mixed_max == pytest.approx(whole.mixed_max, abs=1e-3)
    assert state.classifier_max == pytest.approx(whole.classifier_max, abs=1e-3, nan_ok=True)
    assert (last.flagged, state.flag_token) == (whole.flagged, whole.flag_token)
    assert state.verdicts == len(asked)
    assert shown == sorted(shown)
    assert (shown[-1] == len(ids)) == (not last.flagged) or not ids


@settings(max_examples=25, deadline=None)
@given(data=st.data(), stages=st.sampled_from([1, 2]))
def test_no_more_is_released_than_was_pushed_whoever_spoke_last(data, stages) -> None:
    flag_on = data.draw(st.sampled_from(["answer", "both"]))
    escalate = data.draw(st.sampled_from([-9.0, 0.0, 9.0]))
    guard = two_stages(
        flag_on=flag_on,
        escalate=escalate,
        flag=data.draw(st.sampled_from([0.0, 9.0])),
        stride=data.draw(st.sampled_from([1, 3, 8])),
    )
    if stages == 1:
        guard = make_guard(tiny_backbone(), flag_on=flag_on, flag=data.draw(st.sampled_from([0.2, 9.0])))
    roles = data.draw(st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=5))
    turns = [{"role": role, "content": " ".join(WORDS[turn:])} for turn, role in enumerate(roles)]
    ids = guard.backbone.chat.encode_text(answered(data.draw(st.integers(0, 20)))[1]["content"])
    with guard.stream(turns) as stream:
        assert stream.released == 0
        for pushed, token in enumerate(ids, 1):
            stream.push(token)
            assert stream.released <= pushed
            if stages == 2 and escalate < -1:
                # All is suspicious: nothing leaves before the verdict on its block.
                assert stream.released <= pushed - pushed % guard.cascade.stride
        stream.finish()
        assert stream.released == len(ids) or stream.verdict.flagged
    assert stream.failure is None
    whole = guard.score([*turns, {"role": "assistant", "content": guard.backbone.decode(ids)}])
    assert stream._state.max_prompt == pytest.approx(whole.max_prompt, abs=1e-3, nan_ok=True)
    assert stream._state.max_answer == pytest.approx(whole.max_answer, abs=1e-3, nan_ok=True)


@given(numbers=st.lists(st.integers(0, 30), min_size=1, max_size=9), words=st.integers(0, 40))
@settings(max_examples=5, deadline=None)
def test_batch_mates_change_nothing(numbers, words) -> None:
    guard = two_stages(escalate=0.0)
    rows = [make_exchange(i, words + i) for i in numbers]
    together = list(guard.score_many(rows, first_number=3))
    assert [score.number for score in together] == list(range(3, 3 + len(rows)))
    for row, found in zip(rows, together, strict=True):
        alone = guard.score(row.messages)
        if not on_edge(guard, alone.blocks):
            assert found.mixed_max == pytest.approx(alone.mixed_max, abs=1e-3)
            assert (found.tokens_stage2, found.stage) == (alone.tokens_stage2, alone.stage)
            assert found.flops_stage2 == pytest.approx(alone.flops_stage2)


def test_costs_count_the_prefix_once_and_every_suffix() -> None:
    guard = two_stages(escalate=-9.0, flag=9.0)
    row = make_exchange(4, 30)
    chat = guard.backbone.render(row.messages)
    found = guard.score(row.messages)
    suffix = guard.classifier.tokens_per_verdict
    verdicts = sum(not math.isnan(block.classifier) for block in found.blocks)
    assert verdicts == -(-(chat.answer_end - chat.answer_start) // 8)
    assert found.tokens_stage2 == chat.answer_end - chat.prefix_length + suffix * verdicts
    everything = found.tokens_stage2 * guard.classifier.backbone.flops_per_token(chat.answer_end)
    assert 0.5 * everything < found.flops_stage2 < 1.2 * everything
    assert found.cpu_s_stage2 > 0
    calm = two_stages(escalate=99.0).score(row.messages)
    assert (calm.stage, calm.tokens_stage2, calm.flops_stage2, calm.cpu_s_stage2) == (1, 0, 0.0, 0.0)
    assert (calm.mixed_max, calm.flagged) == (-math.inf, False)
    assert math.isnan(calm.classifier_max)


def test_longer_than_the_context_is_judged_in_windows() -> None:
    guard = two_stages(escalate=-9.0, flag=99.0)
    row = make_exchange(5, 400)
    assert len(guard.backbone.render(row.messages).token_ids) > 2 * guard.backbone.context_length
    found = guard.score(row.messages)
    traced = next(iter(guard.score_many([row], all_blocks=True)))
    np.testing.assert_allclose(
        [block.classifier for block in found.blocks[1:]],
        [block.classifier for block in traced.blocks[1:]], atol=1e-3,
    )  # fmt: skip


def test_prompts_alone_and_empty_answers() -> None:
    for messages in (PROMPT, [*PROMPT, {"role": "assistant", "content": ""}]):
        found = two_stages(escalate=-9.0, flag=-9.0).score(messages)
        assert (found.flagged, found.stage, found.mixed_max) == (False, 1, -math.inf)
        assert two_stages(escalate=-9.0, flag=-9.0, flag_on="both").score(messages).flagged
    bare = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"},
            {"role": "assistant", "content": ""}]  # fmt: skip
    assert two_stages(escalate=-9.0).score(bare).blocks[0].end == 0
    list(two_stages(escalate=-9.0).score_many([Exchange((Message("assistant", ""),))], all_blocks=True))


def test_earlier_turns_are_read_and_never_judged() -> None:
    """Escalation looks at the last turn alone; the classifier reads the whole conversation."""
    turns = [*answered(20), {"role": "user", "content": "and then"}, {"role": "assistant", "content": "no"}]
    guard = two_stages(escalate=-9.0, flag=9.0)
    found = guard.score(turns)
    chat = guard.backbone.render([Message(**turn) for turn in turns])
    assert len(found.blocks) == 2
    assert found.tokens_stage2 > chat.answer_start - chat.prefix_length
    # An edited or regenerated answer behind the same turns is scored anew, whatever came of the first one.
    assert guard.score(turns).mixed_max == pytest.approx(found.mixed_max, abs=1e-4)
    edited = guard.score([*turns[:-1], {"role": "assistant", "content": "yes, the boat"}])
    assert edited.mixed_max != pytest.approx(found.mixed_max, abs=1e-4)


def test_a_value_head_is_a_second_stage_too() -> None:
    guard = two_stages(classifier=tiny_classifier("llama", "value"), escalate=-9.0, flag=99.0, stride=3)
    assert guard.classifier.tokens_per_verdict == 0
    whole = guard.score(answered(14))
    with guard.stream(PROMPT) as stream:
        for token in guard.backbone.chat.encode_text(answered(14)[1]["content"]):
            stream.push(token)
        stream.finish()
    assert stream._state.mixed_max == pytest.approx(whole.mixed_max, abs=1e-3)


class BrokenClassifier(ExchangeClassifier):
    def verdict_logits(self, hidden):
        raise RuntimeError("private words")


def broken_classifier(kind: type = BrokenClassifier) -> ExchangeClassifier:
    good = tiny_classifier()
    return kind(good.base, good.record, good.tensors)


class SilentClassifier(ExchangeClassifier):
    def verdict_logits(self, hidden):
        return super().verdict_logits(hidden) * math.nan


@pytest.mark.parametrize(
    ("kind", "reason"), [(BrokenClassifier, "RuntimeError"), (SilentClassifier, "no finite number")]
)
def test_a_verdict_that_fails_flags_and_says_why(kind, reason, caplog) -> None:
    guard = two_stages(classifier=broken_classifier(kind), escalate=-9.0, flag=math.inf)
    with guard.stream(PROMPT) as stream:
        stream.push(guard.backbone.chat.encode_text(answered(12)[1]["content"]))
        assert stream.verdict.flagged
        assert stream.released == 0
        assert reason in stream.failure
    assert "private" not in caplog.text


def test_a_classifier_without_numbers_flags_offline_too() -> None:
    guard = two_stages(classifier=broken_classifier(SilentClassifier), escalate=-9.0, flag=math.inf)
    for all_blocks in (False, True):
        found = next(iter(guard.score_many([make_exchange(3, 20)], all_blocks=all_blocks)))
        assert (found.flagged, found.mixed_max) == (True, math.inf)
        assert found.blocks[-1].classifier == math.inf


# Files


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "CHUNK", 7)
    rows = [make_exchange(i, 1 + 2 * i, label=float(i % 2)) for i in range(16)]
    rows[3] = Exchange((Message("user", "a prompt alone"),), None, None, "prompts")
    write_exchanges(tmp_path / "rows.jsonl", rows)
    return tmp_path / "rows.jsonl"


def test_a_file_says_what_score_says_and_its_trace_too(source, tmp_path) -> None:
    guard = two_stages(escalate=0.0, flag=0.5)
    table = score_file(guard, source, tmp_path / "a.parquet", blocks=tmp_path / "a.blocks.parquet")
    assert set(table.floats("stage")) == {1.0, 2.0}
    full = score_file(
        guard, source, tmp_path / "b.parquet", blocks=tmp_path / "b.blocks.parquet", all_blocks=True
    )
    asked, everything = (BlockTrace.read(tmp_path / f"{name}.blocks.parquet") for name in "ab")
    assert not np.isnan(everything.classifier).any()
    np.testing.assert_array_equal(asked.end, everything.end)
    for one, other in zip(table.table.to_pylist(), full.table.to_pylist(), strict=True):
        blocks = everything.of(one["row"])
        outcome = simulate(
            everything.probe[blocks], everything.classifier[blocks], guard.cascade, flag_on="answer"
        )
        assert one["mixed_max"] == pytest.approx(outcome.mixed_max, abs=1e-3)
        assert other["mixed_max"] == pytest.approx(outcome.mixed_max, abs=1e-3)
        assert one["flagged"] == other["flagged"] == outcome.flagged
        assert (one["stage"] == 2) == (one["classifier_max"] is not None) == outcome.escalated
        assert (one["tokens_stage2"] > 0) == outcome.escalated
        assert other["tokens_stage2"] > one["tokens_stage2"] or one["tokens_stage1"] < 8
        assert np.isfinite(asked.classifier[asked.of(one["row"])]).sum() == len(outcome.judged_blocks)
    assert table.table.equals(ScoresTable.read(tmp_path / "a.parquet").table)


def test_a_run_with_other_blocks_is_no_run_to_go_on_with(source, tmp_path) -> None:
    guard = two_stages(escalate=9.0)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(guard, source, tmp_path / "a.parquet", report=stop)
    table = score_file(guard, source, tmp_path / "a.parquet", all_blocks=True)
    assert (table.floats("tokens_stage2") > 0).all()


def test_a_guard_of_one_stage_has_no_trace(source, tmp_path) -> None:
    guard = make_guard()
    with pytest.raises(GuardError, match="one stage"):
        score_file(guard, source, tmp_path / "a.parquet", blocks=tmp_path / "b.parquet")
    with pytest.raises(GuardError, match="one stage"):
        list(guard.score_many([make_exchange(1)], all_blocks=True))
    with pytest.raises(ConfigError, match="does not exist"):
        score_file(two_stages(), source, tmp_path / "a.parquet", blocks=tmp_path / "no" / "b.parquet")


# The bundle


@pytest.fixture
def bundle(tmp_path):
    two_stages(escalate=0.0).save(tmp_path / "guard")
    return tmp_path / "guard"


def test_a_saved_guard_of_two_stages_scores_the_same(bundle, tmp_path) -> None:
    made, loaded = two_stages(escalate=0.0), Guard.load(bundle, backbone=tiny_backbone())
    assert loaded.cascade == made.cascade
    assert loaded.classifier.sha256 == made.classifier.sha256
    for row in (make_exchange(i, 20) for i in range(3)):
        assert loaded.score(row.messages).mixed_max == pytest.approx(
            made.score(row.messages).mixed_max, abs=1e-4
        )
    again = loaded.save(tmp_path / "again")
    assert again.record == loaded.record
    assert (tmp_path / "again" / "guard.yaml").read_bytes() == (bundle / "guard.yaml").read_bytes()
    loaded.save(bundle)
    assert sum(path.stat().st_size for path in bundle.rglob("*")) < 25e6
    card = (bundle / "README.md").read_text()
    assert "## Two stages" in card
    assert "tiny-judge" in card


def test_a_drift_is_kept_and_told_and_0_is_not_written(bundle, tmp_path) -> None:
    plain = read_bundle(bundle).record
    assert "drift" not in yaml.safe_load((bundle / "guard.yaml").read_text())["cascade"]
    assert (plain.cascade.drift, plain.cascade.to_cascade().drift) == (0.0, 0.0)
    assert "Length:" not in (bundle / "README.md").read_text()
    made = two_stages(escalate=0.0, drift=0.3).save(tmp_path / "other")
    loaded = Guard.load(tmp_path / "other", backbone=tiny_backbone())
    assert made.cascade.drift == loaded.cascade.drift == 0.3
    assert loaded.cascade == two_stages(escalate=0.0, drift=0.3).cascade
    assert yaml.safe_load((tmp_path / "other" / "guard.yaml").read_text())["cascade"]["drift"] == 0.3
    card = (tmp_path / "other" / "README.md").read_text()
    assert "Length: in a block that ends at t answer tokens, 0.3000 x log2(1 + t / 64) logits" in card
    found = choose_threshold(np.arange(4000) / 1000, [str(i) for i in range(4000)], 0.01, 1e-3)
    assert loaded.with_calibration(found).cascade.drift == 0.3


def test_a_delay_is_kept_and_told_and_0_is_not_written(bundle, tmp_path) -> None:
    assert "delay" not in yaml.safe_load((bundle / "guard.yaml").read_text())["cascade"]
    assert read_bundle(bundle).record.cascade.to_cascade().delay == 0
    assert "Delay:" not in (bundle / "README.md").read_text()
    made = two_stages(escalate=0.0, delay=16).save(tmp_path / "other")
    loaded = Guard.load(tmp_path / "other", backbone=tiny_backbone())
    assert made.cascade.delay == loaded.cascade.delay == 16
    assert "newest 16 answer tokens" in (tmp_path / "other" / "README.md").read_text()
    found = choose_threshold(np.arange(4000) / 1000, [str(i) for i in range(4000)], 0.01, 1e-3)
    assert loaded.with_calibration(found).cascade.delay == 16


@pytest.mark.parametrize(
    ("key", "value"),
    [*(("drift", value) for value in (-0.1, math.inf, math.nan, "much")), ("delay", -1), ("delay", 0.5)],
)
def test_a_bundle_with_a_drift_or_delay_that_makes_no_sense(bundle, key, value) -> None:
    rewrite(bundle / "guard.yaml", lambda content: content["cascade"].update({key: value}))
    with pytest.raises(GuardError, match=key):
        read_bundle(bundle)


def test_calibration_sets_the_mixed_threshold(bundle) -> None:
    guard = Guard.load(bundle, backbone=tiny_backbone())
    found = choose_threshold(np.arange(4000) / 1000, [str(i) for i in range(4000)], 0.01, 1e-3)
    calibrated = guard.with_calibration(found, flag_on="both").save(bundle)
    assert (calibrated.cascade.flag, calibrated.cascade.tolerance) == (found.threshold, 1e-3)
    assert calibrated.thresholds.flag == guard.thresholds.flag
    assert calibrated.thresholds.flag_on == "both"
    assert calibrated.cascade.escalate == guard.cascade.escalate
    assert "mixed score" in (bundle / "README.md").read_text()


def test_a_changed_or_missing_classifier_is_named(bundle) -> None:
    for name in ("adapter_model.safetensors", "classifier.yaml", "adapter_config.json"):
        path = bundle / "classifier" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-2])
        with pytest.raises(GuardError, match=name):
            read_bundle(bundle)
        path.unlink()
        with pytest.raises(GuardError, match="classifier: expected exactly"):
            read_bundle(bundle)
        path.write_bytes(whole)
    (bundle / "classifier" / "more").write_text("x")
    with pytest.raises(GuardError, match="expected exactly"):
        read_bundle(bundle)
    shutil.rmtree(bundle / "classifier")
    with pytest.raises(GuardError, match="lacks its classifier"):
        read_bundle(bundle)


def test_another_classifier_in_its_place_is_refused(bundle, tmp_path) -> None:
    guard = make_guard().save(tmp_path / "one")
    assert (guard.classifier, guard.cascade) == (None, None)
    content = yaml.safe_load((tmp_path / "one" / "guard.yaml").read_text())
    assert not {"classifier", "cascade"} & set(content)
    shutil.copytree(bundle / "classifier", tmp_path / "one" / "classifier")
    with pytest.raises(GuardError, match="names no classifier"):
        read_bundle(tmp_path / "one")


def test_stages_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(BackboneMismatch, match=r"was made for backbone .* differ in tensors_sha256"):
        make_guard().with_cascade(tiny_classifier("qwen2"), make_cascade())
    with pytest.raises(GuardError, match="must read exchanges"):
        make_guard().with_cascade(random_classifier(tiny_backbone(), reads="prompt"), make_cascade())
    other = {"constitution": {"name": "other", "version": "1"}}
    with pytest.raises(GuardError, match=r"trained for the policy other .*, the probe for stage-magic"):
        make_guard().with_cascade(random_classifier(tiny_backbone(), training=other), make_cascade())
    for unnamed in (None, {}, {"constitution": None}, {"constitution": "stage-magic"}):
        with pytest.raises(GuardError, match=r"tiny-judge does not say which policy .* --constitution"):
            make_guard().with_cascade(random_classifier(tiny_backbone(), training=unnamed), make_cascade())
    constitution, text = policy()
    same = {"constitution": {"name": constitution.name, "version": str(constitution.version)}}
    classifier = random_classifier(tiny_backbone(), training=same)
    parts = {
        "name": "tiny", "backbone": tiny_backbone(), "constitution": constitution, "constitution_yaml": text,
        "head": make_guard().head, "thresholds": make_guard().thresholds,
    }  # fmt: skip
    assert Guard.create(**parts, classifier=classifier, cascade=make_cascade()).cascade is not None
    changed = constitution.model_copy(update={"harmful": constitution.harmful[:1]})
    for told, refused in ((constitution, False), (changed, True)):
        known = {"constitution": {**same["constitution"], "sha256": hash_constitution(told)}}
        second = random_classifier(tiny_backbone(), training=known)
        with pytest.raises(GuardError, match="another text of the policy") if refused else nullcontext():
            Guard.create(**parts, classifier=second, cascade=make_cascade())
    for half in ({"classifier": classifier}, {"cascade": make_cascade()}):
        with pytest.raises(GuardError, match="needs both a classifier and a cascade"):
            Guard.create(**parts, **half)


def test_a_bundle_whose_classifier_names_no_policy_is_refused_and_the_classifier_is_not(
    tmp_path, monkeypatch
) -> None:
    unnamed = random_classifier(tiny_backbone(), training=None)
    with monkeypatch.context() as patched:
        patched.setattr(_guard, "check_classifier", lambda *_: None)
        two_stages(classifier=unnamed).save(tmp_path / "guard")
    assert ExchangeClassifier.load(tmp_path / "guard" / "classifier", tiny_backbone()).sha256
    with pytest.raises(GuardError, match="does not say which policy"):
        Guard.load(tmp_path / "guard", backbone=tiny_backbone())


def test_a_bad_exchange_is_named_by_its_place() -> None:
    guard = make_guard(tiny_backbone("gemma2")).with_cascade(
        tiny_classifier("gemma2"), make_cascade("gemma2")
    )
    rows = [make_exchange(0), Exchange((Message("assistant", "private"),))]
    with pytest.raises(ExchangeError, match=r"exchange 101 \([0-9a-f]{16}\)") as caught:
        list(guard.score_many(rows, first_number=100))
    assert "private" not in str(caught.value)
