"""`lockgate build` makes a guard from a policy. A local server is the generator."""

import json
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / name) for name in ("assembly", "synthesis")]

from build_runs import POLICY, labelled_row, traffic_row, write_rows
from factory_runs import tiny_plan
from fake_endpoint import serving_endpoint
from generator_options import REFUSED
from test_factory_faults import write_reply

from lockgate.cli import main
from lockgate.cli._build import build
from lockgate.cli._synthesize import synthesize
from lockgate.constitution import dump_constitution
from lockgate.guards import read_bundle
from lockgate.synthesis.factory import JudgePlan

PLAN = tiny_plan(queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1})


@pytest.fixture
def run(capsys, tmp_path, saved_backbone):
    (tmp_path / "plan.yaml").write_text(PLAN.to_yaml())
    (tmp_path / "policy.yaml").write_text(dump_constitution(POLICY))
    write_rows(tmp_path / "traffic.jsonl", [traffic_row(i) for i in range(90)])
    write_rows(tmp_path / "data.jsonl", [labelled_row(i, float(i % 2)) for i in range(80)])

    def run(*arguments: Any, command: str = "build", policy: bool = True) -> tuple[int, str, str]:
        given: list[Any] = [command]
        if policy:
            given += [tmp_path / "policy.yaml", "--out", tmp_path / "guard", "--plan", tmp_path / "plan.yaml"]
            given += ["--backbone", saved_backbone("llama"), "--workers", 1, "--epochs", 2, "--folds", 0]
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*given, *arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.mark.slow
def test_from_a_policy_to_a_guard_and_on_after_a_used_up_budget(run, tmp_path) -> None:
    with serving_endpoint(manners=lambda body, attempt: write_reply(body)) as endpoint:
        at = ("--generator", endpoint.url, "--model", "writer", "--data", tmp_path / "data.jsonl")
        code, _, err = run(*at, "--budget-tokens", 500)
        assert code == 2
        assert "the budget is used up" in err
        assert not (tmp_path / "guard").exists()
        code, out, err = run(*at)
        assert code == 0, err
        asked = len(endpoint.bodies)
        assert "UNCALIBRATED" in out
        assert "what a stronger generator would change" in out or "next:" in out
        assert "read training rows: " in err
        assert read_bundle(tmp_path / "guard").record.provisional is not None
        code, out, err = run(*at, "--benign", tmp_path / "traffic.jsonl", "--json")
        assert code == 0, err
        made = json.loads(out)
        assert made["report"]["claim"]["budget"] == 0.05
        assert Path(made["pages"]["html"]).is_file()
        # What was synthesized is not asked for again.
        assert len(endpoint.bodies) == asked
    code, out, _ = run("--json", "--guard", tmp_path / "guard", command="doctor", policy=False)
    checks = {check["name"]: check["found"] for check in json.loads(out)["checks"]}
    assert checks[str(tmp_path / "guard")].endswith("one stage, calibrated")


def test_a_dry_run_reckons_and_does_nothing(run, tmp_path) -> None:
    code, out, err = run("--dry-run", "--json", "--benign", tmp_path / "traffic.jsonl")
    assert code == 0, err
    found = json.loads(out)
    assert found["synthesis"]["requests"] > 0
    assert found["budget"] == {"possible": 0.05, "prompts": 72, "wished": 0.0005, "wished_needs": 5990}
    code, out, _ = run("--dry-run", "--price-prompt", 1, "--price-completion", 2)
    assert code == 0
    assert "the guard will be uncalibrated" in out
    assert ", cost " in out
    assert "synthesize, expected: " in out
    assert "synthesize, at most: " in out
    code, out, _ = run("--dry-run", "--json", "--judge", "embedded")
    assert json.loads(out)["synthesis"]["requests_by_purpose"]["judge"] > 0
    assert not (tmp_path / "guard.build").exists()


def test_a_judge_that_does_not_agree_ends_a_build(run, tmp_path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.model_copy(update={"judge": JudgePlan(least_rows=80)}).to_yaml())
    with serving_endpoint(manners=lambda body, attempt: write_reply(body)) as endpoint:
        code, _, err = run(
            *("--generator", endpoint.url, "--model", "writer"),
            *("--judge", endpoint.url, "--judge-model", "judge", "--judge-rows", tmp_path / "data.jsonl"),
        )
        assert code == 2
        assert "judge judge: agrees with 50.0% of 80 hand-labelled rows" in err
        assert {body["model"] for body in endpoint.bodies} == {"judge"}


def test_options_of_the_factory_are_the_same_in_both_commands() -> None:
    both = [signature(command).parameters for command in (build, synthesize)]
    shared = set(both[0]) & set(both[1])
    assert {"judge", "judge_model", "judge_rows", "budget_usd", "price_prompt", "price_completion"} <= shared
    for name in shared - {"out", "evaluation", "dry_run"}:
        assert both[0][name].annotation is both[1][name].annotation, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *REFUSED,
        (("--judge-rows", "no-such.jsonl"), "no-such.jsonl: no such file"),
        (("--budget-usd", "1"), "a budget is for endpoints"),
        (("--benign", "no-such.jsonl"), "no-such.jsonl: no such file"),
        (("--update", "no-such-guard"), "no such guard"),
        (("--budget", "0"), "budget: expected a share"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(run, tmp_path, arguments, words) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "guard").exists()
    assert not (tmp_path / "guard.build" / "data").exists()
