"""The factory under kill -9, on a full disk, and with endpoints that misbehave."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from factory_fault_runner import PLAN
from factory_runs import data_of, run_factory
from fake_endpoint import Endpoint, reply, serving_endpoint
from processes import Command
from starlette.responses import JSONResponse, Response

from lockgate.errors import GeneratorError
from lockgate.exchanges import Message
from lockgate.synthesis import EndpointConfig, GenerationRequest
from lockgate.synthesis.factory import endpoint_source
from lockgate.synthesis.factory._estimate import write_stand_in

KEY = "sk-not-to-be-seen"
_PURPOSES = {PLAN.queries.max_tokens: "questions", 60: "twin-question"}


@pytest.mark.slow
def test_a_killed_run_ends_with_the_data_of_an_undisturbed_one(tmp_path, preloaded) -> None:
    draw = random.Random(20260117)
    cases: dict[str, list[Any]] = {"whole": []}
    cases |= {f"killed-{n}": [draw.uniform(0.01, 0.99)] for n in range(2)}
    cases["killed-late"] = [-3]
    cases["killed-often"] = [0.3, 0.3, 0.3]
    cases["no-room"] = ["no room"]
    task = {"folder": str(tmp_path), "cases": cases}
    command = Command("factory_fault_runner", json.dumps(task), cwd=tmp_path, preloaded=preloaded)
    try:
        command.finish()
    finally:
        command.close()
    status = json.loads((tmp_path / "status.json").read_text())
    expected = data_of(tmp_path / "whole" / "out")
    assert "exchanges.jsonl" in expected
    assert "card.json" in expected
    for name, case in cases.items():
        assert status[name] == [0 if name == "no-room" else 9] * len(case) + [0], name
        assert data_of(tmp_path / name / "out") == expected, name
    error = (tmp_path / "no-room" / "error.txt").read_text()
    assert "Finished" in error
    assert "run again" in error


def write_reply(body: dict[str, Any]) -> Response:
    messages = tuple(Message(message["role"], message["content"]) for message in body["messages"])
    purpose = _PURPOSES.get(body["max_tokens"], "answer")
    request = GenerationRequest(messages, body["max_tokens"], body["temperature"], body["seed"], purpose)
    return JSONResponse(reply(write_stand_in(request)))


def run_against(endpoint: Endpoint, folder: Path, **options: Any) -> Any:
    config = EndpointConfig(
        base_url=endpoint.url,
        model="writer",
        api_key_env="FACTORY_KEY",
        backoff_s=0,
        trust_env=False,
        **options,
    )
    return run_factory(folder, PLAN, source=endpoint_source(config))


@pytest.mark.slow
def test_endpoints_that_misbehave_cost_no_data(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FACTORY_KEY", KEY)
    with serving_endpoint(manners=lambda body, attempt: write_reply(body)) as endpoint:
        run_against(endpoint, tmp_path / "whole")
        expected = data_of(tmp_path / "whole")
        asked = len(endpoint.bodies)

        def storm(body: dict[str, Any], attempt: int) -> Response:
            if attempt < 2:
                return JSONResponse({}, 429, headers={"Retry-After": "0"})
            return write_reply(body)

        endpoint.attempts.clear()
        endpoint.manners = storm
        run_against(endpoint, tmp_path / "storm")
        assert data_of(tmp_path / "storm") == expected

        def expires(body: dict[str, Any], attempt: int) -> Response:
            if len(endpoint.bodies) > asked // 2:
                return JSONResponse({"error": {"code": "invalid_api_key", "message": KEY}}, 401)
            return write_reply(body)

        endpoint.bodies.clear()
        endpoint.manners = expires
        with pytest.raises(GeneratorError, match="FACTORY_KEY") as caught:
            run_against(endpoint, tmp_path / "key", concurrency=1)
        assert KEY not in str(caught.value)
        endpoint.bodies.clear()
        endpoint.manners = lambda body, attempt: write_reply(body)
        run_against(endpoint, tmp_path / "key")
        assert data_of(tmp_path / "key") == expected
        assert len(endpoint.bodies) <= asked - asked // 2

        def garble(body: dict[str, Any], attempt: int) -> Response:
            return Response(b"{]", 200) if body["seed"] % 4 == 0 else write_reply(body)

        endpoint.manners = garble
        result = run_against(endpoint, tmp_path / "garbled")
        rejected = [step["rejected"].get("generator_malformed", 0) for step in result.card["steps"]]
        assert sum(rejected) > 0
        assert result.card["rows"]["by_label"]["harmful"] > 0
    with pytest.raises(GeneratorError, match="gave no answer in 2 attempts"):
        run_against(endpoint, tmp_path / "down", retries=1)
