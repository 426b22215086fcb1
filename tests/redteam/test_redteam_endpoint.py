"""Campaigns over HTTP: against our own server with a guard, and against servers that misbehave."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from browsers import serving_app
from lab import query
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.tiny import MARK, save_marking_guard
from lockgate.decisions import LogOptions
from lockgate.errors import ConfigError, GeneratorError
from lockgate.gateway import Gateway, GatewayOptions, create_app
from lockgate.guards import Guard
from lockgate.redteam import Campaign, QuerySet, run_campaign


@pytest.fixture
def campaign(tmp_path) -> Callable[..., Campaign]:
    def made(url: str, attacker: str | None = None, **endpoint: Any) -> Campaign:
        marked = query(1, twin=False)
        marked = marked.model_copy(update={"text": f"{marked.text} {MARK}"})
        queries = QuerySet(name="locks", constitution="stage-magic", queries=(query(0), marked))
        (tmp_path / "locks.yaml").write_text(queries.model_dump_json())
        settings = {"base_url": f"{url}/v1", "model": "m", "backoff_s": 0.0, "trust_env": False, **endpoint}
        return Campaign.model_validate(
            {
                "name": "live",
                "queries": str(tmp_path / "locks.yaml"),
                "attacks": ["plain" if attacker is None else "pair"],
                "max_tokens": 8,
                "variants": {"live": {"endpoint": settings}},
                **(
                    {}
                    if attacker is None
                    else {"attacks": ["pair"], "attacker": {**settings, "model": attacker}}
                ),
            }
        )

    return made


def rows_in(folder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def test_a_guarded_server_halts_and_the_campaign_sees_it(tmp_path, campaign):
    guard, backbone = save_marking_guard(tmp_path)
    gateway = Gateway.from_guard(
        Guard.load(guard, backbone=str(backbone)), GatewayOptions(LogOptions(tmp_path / "log.db"))
    )
    with serving_app(create_app(gateway), lifespan="on") as url:
        result = run_campaign(campaign(url), tmp_path / "out")
    halted = {row["query"]: row["halted"] for row in rows_in(tmp_path / "out") if not row["twin"]}
    assert halted["lock-1"]
    assert result["variants"]["live"]["halted"]["count"] == sum(halted.values())
    # The server is gone, and every reply is kept.
    assert run_campaign(campaign(url), tmp_path / "out") == result


class Manners:
    """A server that does what the test says at its n-th request."""

    def __init__(self, *answers: tuple[int, dict[str, Any]]) -> None:
        self.answers, self.bodies = list(answers), []

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        status, content = self.answers.pop(0) if self.answers else (200, said("Fine."))
        return JSONResponse(content, status, headers={"Retry-After": "0"})


def said(text: str | None, finish: str = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def test_rate_limits_are_waited_for_and_halts_keep_what_came_before(tmp_path, campaign):
    full = query().answers[0]
    server = Manners(
        (429, {}), (503, {}), (200, said(full, "content_filter")), (200, said(full)), (200, said(None))
    )
    with serving_app(server.app) as url:
        result = run_campaign(campaign(url, concurrency=1), tmp_path / "out")
    rows = {(row["query"], row["twin"]): row for row in rows_in(tmp_path / "out")}
    halted = rows["lock-0", False]
    assert (halted["halted"], halted["success"], halted["answer"]) == (True, True, full)
    assert rows["lock-0", True]["success"] is False  # the twin's
    assert rows["lock-1", False]["failed"] == "malformed"
    assert result["variants"]["live"]["failed"] == 1
    assert len(server.bodies) == 5


def test_a_server_that_dies_ends_the_run_and_nothing_is_asked_twice(tmp_path, campaign):
    server = Manners((200, said("Fine.")), *[(500, {})] * 3)
    with serving_app(server.app) as url:
        with pytest.raises(GeneratorError):
            run_campaign(campaign(url, concurrency=1, retries=2), tmp_path / "out")
        assert not (tmp_path / "out" / "result.json").exists()
        assert len(server.bodies) == 4
        result = run_campaign(campaign(url, concurrency=1, retries=2), tmp_path / "out")
    assert len(server.bodies) == 6  # three attempts, the first of them kept
    assert result["variants"]["live"]["attempts"] == 2


def test_an_attacker_model_is_asked_for_attempts(tmp_path, campaign):
    server = Manners()
    with serving_app(server.app) as url:
        result = run_campaign(campaign(url, attacker="inventor", concurrency=1), tmp_path / "out")
    assert result["adaptive"] == ["pair"]
    assert {body["model"] for body in server.bodies} == {"inventor", "m"}
    with pytest.raises(ConfigError, match="attacks: unknown pair"):
        run_campaign(campaign(url).model_copy(update={"attacks": ("pair",)}), tmp_path / "other")
