"""`lockgate synthesize` from a constitution to a folder, with a local server as the generator."""

import json
from typing import Any

import pytest
from factory_runs import POLICY, tiny_plan
from fake_endpoint import serving_endpoint
from generator_options import ENDPOINT, REFUSED
from test_factory_faults import write_reply

from lockgate.cli import main
from lockgate.cli._factory import GeneratorSettings, generator_sources
from lockgate.constitution import dump_constitution
from lockgate.errors import ConfigError
from lockgate.synthesis.factory import FactoryPlan

PLAN = tiny_plan(queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1})


@pytest.fixture
def run(capsys, tmp_path):
    (tmp_path / "plan.yaml").write_text(PLAN.to_yaml())
    (tmp_path / "policy.yaml").write_text(dump_constitution(POLICY))

    def run(*arguments: Any, plan: bool = True) -> tuple[int, str, str]:
        given = ["synthesize", tmp_path / "policy.yaml", "--out", tmp_path / "out"]
        given += ["--plan", tmp_path / "plan.yaml"] if plan else []
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*given, *arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_from_a_policy_to_a_data_set_and_on_after_a_used_up_budget(run, tmp_path, monkeypatch) -> None:
    with serving_endpoint(manners=lambda body, attempt: write_reply(body)) as endpoint:
        at = ("--generator", endpoint.url, "--model", "writer", "--json")
        code, _, err = run(*at, "--budget-tokens", 500)
        assert code == 2
        assert "the budget is used up" in err
        code, out, err = run(*at)
        assert code == 0, err
        asked = len(endpoint.bodies)
        assert len(endpoint.attempts) == asked
        made = json.loads(out)
        assert made["rows"]["total"] == len((tmp_path / "out" / "exchanges.jsonl").read_text().splitlines())
        assert "answers: " in err
        code, out, err = run(*at[:4])
        assert code == 0
        assert f"{made['rows']['total']} exchanges" in out
        assert len(endpoint.bodies) == asked


def test_a_writer_and_its_judge_share_one_budget() -> None:
    url = "http://127.0.0.1:1/v1"
    writer, judge = generator_sources((url, "writer"), (url, "judge"), settings_of(max_tokens=500))
    assert writer.get().budget is judge.get().budget
    assert judge.get().budget.max_tokens == 500
    # A writer in process costs time alone: the budget is then the judge's.
    _, judge = generator_sources(("embedded", None), (url, "judge"), settings_of(max_tokens=500))
    assert judge.get().budget.max_tokens == 500
    with pytest.raises(ConfigError, match="a budget is for endpoints"):
        generator_sources(("embedded", None), ("embedded", None), settings_of(max_tokens=500))


def settings_of(**changes: Any) -> GeneratorSettings:
    return GeneratorSettings(
        **{"key_env": None, "concurrency": 1, "device": "cpu", "dtype": "float32", "streams": 1, **changes}
    )


def test_a_dry_run_asks_nobody(run, tmp_path) -> None:
    code, out, err = run("--dry-run", "--json", "--price-prompt", 1, "--price-completion", 2)
    assert code == 0, err
    estimate = json.loads(out)
    assert estimate["requests"] == sum(estimate["requests_by_purpose"].values())
    assert estimate["cost"] > 0
    assert not (tmp_path / "out").exists()
    code, out, _ = run("--dry-run")
    assert code == 0
    expected, most, *purposes = out.splitlines()
    assert expected.startswith(f"expected: {estimate['requests']} requests")
    assert most.startswith(f"at most: {estimate['at_most']['requests']} requests")
    assert estimate["at_most"]["cost"] > estimate["cost"]
    assert len(purposes) == len(estimate["at_most"]["requests_by_purpose"])


def test_plans_are_shown_as_they_would_be_used(run, tmp_path) -> None:
    for arguments, name in (((), "small"), (("--generator", "http://127.0.0.1:1/v1"), "large")):
        code, out, _ = run("--show-plan", *arguments, plan=False)
        assert code == 0
        (tmp_path / "shown.yaml").write_text(out)
        assert FactoryPlan.from_yaml(tmp_path / "shown.yaml") == FactoryPlan.preset(name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *REFUSED,
        (("--generator", "http://user@host/v1", "--model", "m"), "base_url"),
        ((*ENDPOINT, "--model", "m", "--budget-usd", "1"), "max_cost needs prices"),
        (("--budget-tokens", "5"), "a budget is for endpoints"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(run, tmp_path, arguments, words) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()
