"""`lockgate calibrate --judge`: a judge of text behind a guard's probe, and by itself."""

import json
import math
import random

import numpy as np
import pytest
import yaml
from models import random_head, tiny_backbone
from scripted_judge import serving_judge
from starlette.responses import JSONResponse
from text_judges import save_sequence

from lockgate.cascade import Thresholds
from lockgate.cli import main
from lockgate.constitution import constitution_path, load_constitution
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from lockgate.guards import Guard, read_bundle
from lockgate.judges import SequenceFile, open_judge
from lockgate.traffic import ScoreThreshold

WORDS = ("mill", "lock", "boat", "orchard", "lantern", "mirror", "kettle", "ladder")
N = 60


def row(number: int, label: float | None = None, answer: bool = True) -> Exchange:
    """An exchange with a prompt of its own."""
    draw = random.Random(number)
    asked = Message("user", f"{number} " + " ".join(draw.choices(WORDS, k=4)))
    said = Message("assistant", " ".join(draw.choices(WORDS, k=draw.randint(3, 9))))
    return Exchange((asked, said) if answer else (asked,), label)


@pytest.fixture
def parts(tmp_path):
    """Folders and files that the command reads."""
    backbone = tiny_backbone()
    Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone),
        thresholds=Thresholds(0.5, flag_on="both"),
    ).save(tmp_path / "guard")
    save_sequence(tmp_path / "judge")
    price = {"prompt": 2.0, "currency": "EUR"}
    settings = {"kind": "sequence-classifier", "path": "judge", "price": price}
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(settings))
    write_exchanges(tmp_path / "traffic.jsonl", [row(i) for i in range(N)] + [row(999, answer=False)])
    write_exchanges(tmp_path / "dev.jsonl", [row(1000 + i, float(i % 3 == 0)) for i in range(45)])
    return tmp_path


@pytest.fixture
def run(capsys, saved_backbone, parts):
    def run(*more, guard=True, judge="judge.yaml", output="two", traffic="traffic.jsonl"):
        words = ["calibrate", *([parts / "guard", "--backbone", saved_backbone("llama")] if guard else [])]
        words += ["--input", parts / traffic, "--budget", "0.1", "--judge", parts / judge]
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*words, "--output", parts / output, *more)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_the_written_guard_does_on_its_traffic_what_was_calibrated(run, parts, saved_backbone):
    code, out, err = run(
        *("--development", parts / "dev.jsonl", "--escalation", "0.4", "--stride", "4"),
        *("--judge-alone", "--json"),
    )
    assert code == 0, err
    found = json.loads(out)
    stage, calibration = found["second_stage"], found["calibration"]
    assert (calibration["n"], found["without_answer"]) == (N, 1)
    guard = Guard.load(parts / "two", backbone=saved_backbone("llama"))
    again = list(guard.score_many([row(i) for i in range(N)]))
    assert np.mean([score.stage == 2 for score in again]) == stage["escalated"] > 0
    assert stage["escalated"] <= 0.4
    assert sum(score.flagged for score in again) == calibration["flagged"] <= calibration["k"]
    ranked = sorted((score.mixed_max, score.exchange.id) for score in again if score.stage == 2)[::-1]
    best = [(found["id"], found["score"]) for found in found["highest"]]
    assert [name for name, _ in best] == [name for _, name in ranked[:30]]
    np.testing.assert_allclose([own for _, own in best], [own for own, _ in ranked[:30]], atol=1e-4)
    record = read_bundle(parts / "two").record
    assert (record.judges, record.cascade.stride) == (("judge",), 4)
    assert not (parts / "two.state").exists()
    assert "judge `judge` (sequence-classifier" in (parts / "two" / "README.md").read_text()


def test_the_report_compares_the_judge_alone_and_behind_the_probe(run, parts, saved_backbone):
    more = ("--development", parts / "dev.jsonl", "--escalation", "0.4", "--judge-alone", "--json")
    code, out, err = run(*more)
    assert code == 0, err
    report = json.loads(out)["second_stage"]["judge"]
    rows = {found["name"]: found for found in report["arrangements"]}
    assert list(rows) == ["probe alone", "judge behind the probe", "judge alone"]
    # An oracle: the judge's own verdicts on whole exchanges, and the rule of calibration by hand.
    judge = open_judge(SequenceFile(path=str(parts / "judge")))
    logits = sorted(reading.logit for reading in judge.judge([row(i).messages for i in range(N)]))
    alone = rows["judge alone"]
    cut = logits[-1 - alone["k"]]
    harmful = [found for found in read_exchanges(parts / "dev.jsonl") if found.label]
    caught = sum(reading.logit > cut for reading in judge.judge([found.messages for found in harmful]))
    assert (alone["recall"]["flagged"], alone["recall"]["n"]) == (caught, 15)
    assert (alone["asked"], alone["cost"]["verdicts"]) == (1.0, N)
    behind, probe = rows["judge behind the probe"], rows["probe alone"]
    guard = Guard.load(parts / "two", backbone=saved_backbone("llama"))
    scores = list(guard.score_many(harmful))
    assert behind["recall"]["flagged"] == sum(score.flagged for score in scores)
    traffic = list(guard.score_many([row(i) for i in range(N)]))
    assert behind["asked"] == np.mean([score.stage == 2 for score in traffic])
    verdicts = sum(not math.isnan(block.classifier) for score in traffic for block in score.blocks)
    assert behind["cost"]["verdicts"] == verdicts > 0
    assert behind["cost"]["money"] == pytest.approx(behind["cost"]["prompt_tokens"] * 2e-6)
    assert (probe["cost"]["verdicts"], probe["k"]) == (0, alone["k"])
    correlation = report["correlation"]
    readings = judge.judge([row(i).messages for i in range(N)])
    highest = [max(score.max_prompt, score.max_answer) for score in traffic]
    wanted = np.corrcoef(highest, [reading.logit for reading in readings])[0, 1]
    assert correlation["pearson"] == pytest.approx(wanted, abs=1e-4)
    assert correlation["n"] == N
    assert correlation["spearman_interval"][0] <= correlation["spearman"]
    gains = {gain["over"]: gain for gain in report["gains"]}
    assert set(gains) == {"probe alone", "judge alone"}
    for over, gain in gains.items():
        difference = behind["recall"]["flagged"] - rows[over]["recall"]["flagged"]
        assert gain["gained"] - gain["lost"] == difference


def test_text_shows_one_table_with_costs(run, parts):
    code, out, err = run("--weight", "0.5", "--escalation", "0.4")
    assert code == 0, err
    head = next(line for line in out.splitlines() if line.startswith("arrangement"))
    assert head.split("\t")[-1] == "EUR"
    assert "judge behind the probe\t" in out
    assert "judge alone" not in out
    assert "0.50 probe and 0.50 judge" in out


def test_a_judge_by_itself_gets_a_threshold_with_a_bound(run, parts):
    code, out, err = run("--development", parts / "dev.jsonl", "--json", guard=False, output="judge.json")
    assert code == 0, err
    found = ScoreThreshold.read(parts / "judge.json")
    judge = open_judge(SequenceFile(path=str(parts / "judge")))
    logits = [reading.logit for reading in judge.judge([row(i).messages for i in range(N)])]
    assert (found.column, found.n) == ("logit", N)
    assert found.cut == pytest.approx(sorted(logits)[-1 - found.k], abs=1e-5)
    # Sums in another batch may move the score at the cut itself by a rounding.
    clear = [logit for logit in logits if abs(logit - found.cut) > 1e-5]
    assert sum(map(found.flags, clear)) == found.flagged == found.k
    document = json.loads(out)
    assert document["judge"]["cost"]["verdicts"] == N + 45
    assert document["threshold"]["recall"]["n"] == 15
    assert not (parts / "judge.json.state").exists()
    assert document["judge"]["sha256"] == judge.sha256


def test_bad_input_is_told_before_the_judge_reads(run, parts):
    """Each is one error that names what is wrong, and none leaves an output."""
    write_exchanges(parts / "overlap.jsonl", [row(i, float(i % 2)) for i in range(6)])
    write_exchanges(parts / "harmful.jsonl", [row(1, 1.0)])
    (parts / "typo.yaml").write_text("kind: sequence-classifier\npath: judge\nharmfull: [unsafe]\n")
    other = {"kind": "sequence-classifier", "path": "judge", "policy": {"name": "gardening", "version": 1}}
    (parts / "other.yaml").write_text(yaml.safe_dump(other))
    weight = ("--weight", "0.5")
    cases = [
        ({"judge": "typo.yaml"}, weight, "harmfull: Extra inputs are not permitted"),
        ({"judge": "other.yaml"}, weight, "is for the policy gardening (version 1)"),
        ({"judge": "nothing"}, weight, "no such judge"),
        ({}, ("--development", parts / "overlap.jsonl"), "6 exchanges have a prompt of the traffic"),
        ({"guard": False}, ("--development", parts / "overlap.jsonl"), "have a prompt of the traffic"),
        ({"guard": False, "traffic": "harmful.jsonl"}, (), "labelled harmful"),
        ({}, (*weight, "--training", parts / "traffic.jsonl"), "trained on"),
        ({"guard": False}, ("--training", parts / "traffic.jsonl"), "trained on"),
        ({}, (*weight, "--classifier", parts / "judge"), "it is asked alone"),
        ({}, (*weight, "--drift", "auto"), "drift: it is chosen on verdicts of all blocks"),
        ({}, (*weight, "--lost", "0.1"), "--lost"),
        ({"guard": False}, ("--escalation", "0.1"), "--escalation needs a guard"),
    ]
    for options, more, message in cases:
        code, _, err = run(*more, output="none", **options)
        assert (code, message in err) == (2, True), (options, more, err)
        assert not (parts / "none").exists()


def endpoint_file(parts, scripted, **more):
    """A judge's file for a scripted endpoint."""
    settings = {
        "kind": "endpoint", "url": scripted.url, "model": "m", "trust_env": False, "retries": 0,
        "template": {"prompt": "{conversation}\nYes or No?", "harmful": ["Yes"], "harmless": ["No"]}, **more,
    }  # fmt: skip
    (parts / "endpoint.yaml").write_text(yaml.safe_dump(settings))


def marked(number: int) -> Exchange:
    """A row whose answer has as many exclamation marks as its number says."""
    made = row(number)
    said = made.messages[1].content + "!" * (number % 7)
    return Exchange((made.messages[0], Message("assistant", said)))


def test_a_run_that_was_interrupted_asks_an_endpoint_nothing_twice(run, parts):
    write_exchanges(parts / "traffic.jsonl", [marked(number) for number in range(200)])
    broken = JSONResponse({"error": {}}, 503)
    with serving_judge(lambda body, number: broken if number == 150 else None) as scripted:
        endpoint_file(parts, scripted)
        code, _, err = run(guard=False, judge="endpoint.yaml", output="judge.json")
        assert (code, "HTTP 503" in err, "run the same command again" in err) == (2, True, True)
        assert not (parts / "judge.json").exists()
        code, out, err = run("--json", guard=False, judge="endpoint.yaml", output="judge.json")
        assert code == 0, err
    prompts = [body["messages"][0]["content"] for body in scripted.bodies]
    checks = 2  # one of each run, on words of our own
    assert len(prompts) == 200 + checks + 1  # the request that failed
    found = json.loads(out)
    assert found["judge"]["cost"]["verdicts"] == 200
    highest = {entry["id"] for entry in found["highest"][:28]}
    assert highest == {marked(number).id for number in range(200) if number % 7 == 6}
    assert ScoreThreshold.read(parts / "judge.json").n == 200


@pytest.mark.slow
def test_an_endpoint_behind_the_probe_reads_only_what_escalates(run, parts, saved_backbone):
    write_exchanges(parts / "traffic.jsonl", [marked(number) for number in range(N)])
    with serving_judge() as scripted:
        endpoint_file(parts, scripted, price={"prompt": 1.0, "completion": 3.0})
        more = ("--weight", "0", "--escalation", "0.3", "--json", "--stride", "16")
        code, out, err = run(*more, judge="endpoint.yaml")
        assert code == 0, err
        found = json.loads(out)["second_stage"]
        row_of = {entry["name"]: entry for entry in found["judge"]["arrangements"]}
        behind = row_of["judge behind the probe"]
        assert behind["cost"]["verdicts"] == len(scripted.bodies) - 1
        guard = Guard.load(parts / "two", backbone=saved_backbone("llama"))
        scores = list(guard.score_many([marked(number) for number in range(N)]))
        guard.judge.close()
    asked = [score for score in scores if score.stage == 2]
    assert len(asked) == found["escalated"] * N == behind["asked"] * N
    assert sum(score.flagged for score in scores) == behind["flagged"]
    assert behind["cost"]["money"] > 0


def test_an_endpoint_that_is_wrong_costs_one_request(run, parts):
    with serving_judge() as scripted:
        endpoint_file(parts, scripted, template={"prompt": "{answer}", "harmful": ["x"], "harmless": ["z"]})
        for options in ({"guard": False}, {}):
            code, _, err = run(*(() if options else ("--weight", "0.5")), judge="endpoint.yaml", **options)
            assert (code, "none of the verdict words" in err) == (2, True)
    assert len(scripted.bodies) == 2


@pytest.fixture
def direct(monkeypatch):
    """No proxy stands between the command and a server of this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.slow
def test_an_address_with_its_model_is_a_judge(run, parts, direct, saved_backbone, monkeypatch):
    monkeypatch.setenv("MY_KEY", "k9-open")
    write_exchanges(parts / "traffic.jsonl", [marked(number) for number in range(N)])
    with serving_judge() as scripted:
        address = ("--judge", scripted.url, "--judge-model", "m", "--judge-key-env", "MY_KEY")
        code, out, err = run("--json", *address, "--judge-rule", "no boats", guard=False, output="judge.json")
        assert code == 0, err
        assert json.loads(out)["judge"]["kind"] == "endpoint"
        asked = scripted.bodies[-1]["messages"][0]["content"]
        assert ("Rule: no boats" in asked, scripted.headers[-1]["authorization"]) == (True, "Bearer k9-open")
        # Behind a guard its policy is the rule, and the guard loads again.
        code, out, err = run(*address, "--weight", "0", "--escalation", "0.3")
        assert code == 0, err
        guard = Guard.load(parts / "two", backbone=saved_backbone("llama"))
        guard.judge.close()
    asked = scripted.bodies[-1]["messages"][0]["content"]
    assert all(entry.title in asked for entry in guard.constitution.harmful)
    assert "k9-open" not in (parts / "two" / "judge.yaml").read_text()


def test_an_address_without_what_it_takes_is_told_at_once(run, parts):
    address, model = ("--judge", "http://127.0.0.1:9/v1"), ("--judge-model", "m")
    cases = [
        (address, "name it with --judge-model"),
        (model, "--judge-model goes with an address"),
        (("--judge-rule", "no boats"), "--judge-rule goes with an address"),
        ((*address, *model, "--judge-key-env", "NOT_SET"), "NOT_SET is not set"),
        ((*address, "--judge-model", "Llama-Guard-3-1B", "--judge-rule", "x"), "has a policy of its own"),
    ]
    for more, message in cases:
        for guard in (True, False):
            code, _, err = run(*more, *(("--weight", "0.5") if guard else ()), guard=guard, output="none")
            assert (code, message in err) == (2, True), (more, err)
            assert not (parts / "none").exists()
