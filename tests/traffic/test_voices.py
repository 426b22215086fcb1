"""Calibration of a second stage with a text baseline, alone or beside a classifier."""

import json

import numpy as np
import pytest
from classifying import tiny_classifier
from judges import planted as exchange
from models import tiny_backbone
from parts import make_guard
from voices import random_text

from lockgate.backbones import Backbone
from lockgate.calibration import Trace, calibrate_cascade
from lockgate.cascade import Cascade
from lockgate.cli import main
from lockgate.errors import CalibrationError, ConfigError
from lockgate.exchanges import PromptPrints, read_exchanges, write_exchanges
from lockgate.guards import Guard, VoiceRecord
from lockgate.tables import ScoresTable
from lockgate.traffic import CalibrationPlan, SecondStagePlan, StagedScores, gather_evidence, score_stages
from lockgate.traffic._voices import SHARES, choose_voices

N = 60
BOTH = (VoiceRecord(kind="classifier", weight=0.3, mean=0.2, std=1.5), VoiceRecord(kind="text", weight=0.7))


@pytest.fixture
def guard(tmp_path, saved_backbone) -> Guard:
    return make_guard(Backbone.load(saved_backbone("llama")), flag_on="both").save(tmp_path / "guard")


@pytest.fixture
def files(tmp_path):
    write_exchanges(tmp_path / "traffic.jsonl", [exchange(i, 0.0) for i in range(N)])
    write_exchanges(tmp_path / "dev.jsonl", [exchange(1000 + i, float(i % 3 == 0)) for i in range(45)])
    tiny_classifier().save(tmp_path / "classifier")
    random_text().save(tmp_path / "text")
    return tmp_path


def test_traces_hold_each_voice_and_mix_as_a_guard_does(guard, files) -> None:
    source = files / "traffic.jsonl"
    read = score_stages(guard, tiny_classifier(), [source], files / "work", text=random_text())
    rows = list(read_exchanges(source))
    assert set(read.voices) == {"classifier", "text"}
    asked = guard.with_cascade(tiny_classifier(), Cascade(0.0, 1e9, 0.5), text=random_text(), voices=BOTH)
    mixed = read.mixed(BOTH)
    for index, score in enumerate(asked.score_many(rows[:8], all_blocks=True)):
        for name in read.voices:
            np.testing.assert_allclose(read.voices[name][index], score.voices[name], atol=1e-4)
        own = [block.classifier for block in score.blocks]
        np.testing.assert_allclose(mixed.traces[index].classifier, own, atol=1e-3)
        np.testing.assert_array_equal(mixed.traces[index].probe, read.traces[index].probe)
    some = read.select(np.arange(N) % 2 == 1)
    assert len(some.table) == len(some.traces) == len(some.voices["text"]) == N // 2
    np.testing.assert_array_equal(some.voices["text"][0], read.voices["text"][1])


@pytest.mark.parametrize("judges", [("text",), ("classifier", "text")])
def test_the_guard_does_on_its_traffic_what_was_calibrated(guard, files, judges) -> None:
    stage = SecondStagePlan(
        files / "classifier" if "classifier" in judges else None,
        (files / "dev.jsonl",),
        escalation=0.4,
        lost=0.0,
        text=files / "text",
    )
    plan = CalibrationPlan(budget=0.1, second_stage=stage)
    with gather_evidence(guard, files / "traffic.jsonl", plan) as evidence:
        made = evidence.apply(evidence.choose()).save(files / "two")
    assert set(made.record.judges) <= set(judges)
    assert len(evidence.shares) == (len(SHARES) if len(judges) > 1 else 0)
    scored = list(made.score_many(read_exchanges(files / "traffic.jsonl")))
    assert sum(score.flagged for score in scored) == made.calibration.flagged <= made.calibration.k
    np.testing.assert_allclose(
        [score.mixed_max for score in scored], evidence.table.floats("mixed_max"), atol=1e-3
    )
    assert np.mean([score.stage == 2 for score in scored]) == evidence.stages.escalated
    told = evidence.mixture
    rows = {row.name: row for row in told.arrangements}
    assert list(rows) == ["probe alone", "second stage behind the probe", "second stage alone"]
    harmful = [row for row in read_exchanges(files / "dev.jsonl") if row.label]
    caught = sum(score.flagged for score in made.score_many(harmful))
    behind = rows["second stage behind the probe"]
    assert (behind.recall.flagged, behind.recall.n) == (caught, len(harmful))
    assert behind.flagged == made.calibration.flagged
    assert 0 < behind.cost.verdicts < rows["second stage alone"].cost.verdicts
    assert (rows["probe alone"].cost.verdicts, rows["probe alone"].k) == (0, behind.k)
    assert set(told.voices) == (set(judges) if len(judges) > 1 else set())
    assert told.correlation.n == N
    assert [gain.over for gain in told.gains] == ["probe alone", "second stage alone"]
    assert all(gain.n == len(harmful) for gain in told.gains)
    if len(judges) > 1:
        chosen = {voice.kind: voice.weight for voice in made.record.voices}
        best = max(share.tpr for share in evidence.shares)
        assert chosen.get("text", 0.0) in [share.share for share in evidence.shares if share.tpr == best]


def scores_of(helpful: str, n: int = 40) -> list[StagedScores]:
    """Traffic, harmless and harmful rows of which one voice alone knows the label."""
    draw = np.random.default_rng(1)
    made = []
    for kind in ("traffic", "quiet", "loud"):
        harmful = kind == "loud"
        table = ScoresTable.from_rows(
            {
                "row": i, "id": f"{kind}{i}", "source": "", "label": float(harmful), "category": None,
                "probe_max": 1.0, "max_prompt": 0.0, "max_answer": 1.0, "classifier_max": None,
                "mixed_max": 1.0, "flagged": False, "stage": 1, "flag_token": None, "tokens_stage1": 9,
                "tokens_stage2": 0, "flops_stage1": 0.0, "flops_stage2": 0.0, "cpu_s_stage1": 0.0,
                "cpu_s_stage2": 0.0, "prompt_group": f"{kind}{i}", "length": 9, "verdict_category": None,
            }
            for i in range(n)
        )  # fmt: skip
        voices = {
            name: tuple(draw.normal(size=3) + 9.0 * (harmful and name == helpful) for _ in range(n))
            for name in ("classifier", "text")
        }
        traces = tuple(Trace(draw.normal(size=3), np.zeros(3)) for _ in range(n))
        made.append(StagedScores(table, traces, voices))
    return made


SETTINGS = {"budget": 0.2, "escalation": 0.9, "flag_on": "answer", "selection_fpr": 0.05}


@pytest.mark.parametrize("helpful", ["classifier", "text"])
def test_the_voice_that_knows_gets_the_larger_share(helpful) -> None:
    benign, quiet, loud = scores_of(helpful)
    found = choose_voices(benign, quiet, loud, SETTINGS)
    weights = {voice.kind: voice.weight for voice in found.voices}
    assert weights[helpful] > 0.5 or weights.get("text") == weights.get("classifier")
    table = {row.share: row.tpr for row in found.shares}
    alone = {"classifier": 0.0, "text": 1.0}
    assert table[alone[helpful]] > table[1.0 - alone[helpful]]
    assert table[weights.get("text", 0.0)] == max(table.values())
    # The shares are those that the cascade's own calibration gives.
    for share, tpr in table.items():
        voices = [
            voice.model_copy(update={"weight": weight})
            for voice, weight in zip(scaled(benign), (1 - share, share), strict=True)
        ]
        again = calibrate_cascade(
            benign.mixed(voices).traces, benign.table.groups,
            development_benign=quiet.mixed(voices).traces, development_harmful=loud.mixed(voices).traces,
            **SETTINGS,
        )  # fmt: skip
        assert max(row.tpr for row in again.weights) == pytest.approx(tpr)


def scaled(benign: StagedScores) -> list[VoiceRecord]:
    found = []
    for kind in ("classifier", "text"):
        largest = np.array([logits[1:].max() for logits in benign.voices[kind]])
        found.append(VoiceRecord(kind=kind, weight=1.0, mean=largest.mean(), std=largest.std()))
    return found


def test_voices_that_failed_or_say_one_thing_are_refused() -> None:
    benign, quiet, loud = scores_of("text")
    benign.voices["text"][3][1] = np.inf
    with pytest.raises(CalibrationError, match="verdict of the text failed"):
        choose_voices(benign, quiet, loud, SETTINGS)
    mixed = benign.mixed(BOTH)
    assert mixed.traces[3].classifier[1] == np.inf
    assert np.isfinite(mixed.traces[3].classifier[[0, 2]]).all()
    same = StagedScores(benign.table, benign.traces, {**benign.voices, "text": (np.zeros(3),) * 40})
    with pytest.raises(CalibrationError, match="must differ"):
        choose_voices(same, quiet, loud, SETTINGS)


def test_plans_that_do_not_fit_are_refused(files) -> None:
    with pytest.raises(ConfigError, match="needs a judge"):
        SecondStagePlan(None, weight=0.5)
    with pytest.raises(ConfigError, match=r"weight: .*give development"):
        SecondStagePlan(files / "classifier", weight=0.5, text=files / "text")
    assert SecondStagePlan(None, weight=0.5, text=files / "text").text is not None


def test_traffic_that_the_text_baseline_knows_is_refused(guard, files) -> None:
    text = random_text(seed=3)
    text.training_prompts = PromptPrints.of([exchange(5, 0.0)])
    plan = CalibrationPlan(budget=0.1, second_stage=SecondStagePlan(None, weight=0.5, text=text))
    with (
        pytest.raises(CalibrationError, match="trained on"),
        gather_evidence(guard, files / "traffic.jsonl", plan),
    ):
        pass


@pytest.fixture
def command(files, guard, saved_backbone, capsys):
    def command(*words):
        given = ["calibrate", files / "guard", "--input", files / "traffic.jsonl", "--budget", "0.1"]
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in (*given, "--backbone", saved_backbone("llama"), *words)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return command


def test_the_command_adds_both_judges(command, files) -> None:
    both = ("--classifier", files / "classifier", "--text", files / "text", "--escalation", "0.4")
    code, out, err = command(*both, "--development", files / "dev.jsonl", "--output", files / "two", "--json")
    assert code == 0, err
    stage = json.loads(out)["second_stage"]
    assert [line["text"] for line in stage["shares"]] == list(SHARES)
    assert [voice["kind"] for voice in stage["voices"]] == stage["judges"]
    made = Guard.load(files / "two", backbone=tiny_backbone())
    assert [voice.model_dump() for voice in made.record.voices] == stage["voices"]
    code, out, err = command(*both, "--development", files / "dev.jsonl", "--output", files / "three")
    assert code == 0, err
    assert "text's share\tcaught at 1% of the harmless ones" in out
    code, _, err = command(*both, "--weight", "0.5", "--output", files / "four")
    assert code == 2
    assert "--weight: it does not say how" in err


def test_the_command_adds_a_text_baseline_alone(command, files) -> None:
    words = ("--text", files / "text", "--weight", "0.25", "--escalation", "0.4")
    code, out, err = command(*words, "--output", files / "two")
    assert code == 0, err
    assert "0.25 probe and 0.75 text" in out
    assert Guard.load(files / "two", backbone=tiny_backbone()).record.judges == ("text",)
    code, _, err = command(*words)
    assert code == 2
    assert "--text needs --output" in err
    code, _, err = command("--weight", "0.25", "--output", files / "three")
    assert code == 2
    assert "--classifier, or a text baseline with --text" in err
