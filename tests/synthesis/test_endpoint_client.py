import copy
import socket
import sys
from collections.abc import Iterator

import pytest
from fake_endpoint import Endpoint, reply, serving_endpoint, words_of
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from lockgate.errors import BudgetExhausted, GeneratorError, MissingExtra
from lockgate.exchanges import Message
from lockgate.synthesis import (
    Budget,
    CachedGenerator,
    Completion,
    EndpointConfig,
    EndpointGenerator,
    GenerationFailure,
    GenerationRequest,
    RequestCache,
)
from lockgate.synthesis._reply import error_code, read_completion, retry_after
from lockgate.synthesis.factory import endpoint_source


class Waits(list[float]):
    """Takes the place of sleeping: writes down how long it would have been."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving_endpoint() as served:
        yield served


def generator_for(endpoint: Endpoint, sleep: Waits | None = None, **settings) -> EndpointGenerator:
    config = EndpointConfig(base_url=endpoint.url, model="m", trust_env=False, **settings)
    return EndpointGenerator(config, sleep=sleep if sleep is not None else Waits())


def ask(text: str, **options) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), max_tokens=options.pop("max_tokens", 20), **options)


def asked(body: dict) -> str:
    return body["messages"][-1]["content"]


def test_completions_come_back_in_order_and_are_counted(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("STAGE_KEY", "sesame-42")
    generator = generator_for(endpoint, api_key_env="STAGE_KEY", extra_body={"top_p": 0.9})
    requests = [ask(f"trick {i}", seed=i, purpose="query") for i in range(5)]
    outcomes = generator.generate(requests)
    wanted = [
        words_of({"messages": [{"role": "user", "content": f"trick {i}"}], "seed": i}) for i in range(5)
    ]
    assert outcomes == [Completion(text, "stop", 5, 3) for text in wanted]
    assert generator.usage.to_dict()["tokens_by_purpose"] == {"query": 40}
    assert {headers["authorization"] for headers in endpoint.headers} == {"Bearer sesame-42"}
    assert {key for _, key in endpoint.attempts} == {request.key(generator.identity) for request in requests}
    assert endpoint.bodies[0]["top_p"] == 0.9
    assert endpoint.bodies[0]["max_tokens"] == 20


def test_no_more_than_the_limit_are_in_flight(endpoint) -> None:
    endpoint.hold = 3
    generator_for(endpoint, concurrency=3).generate([ask(str(i)) for i in range(8)])
    assert endpoint.most_in_flight == 3


def test_a_storm_of_429_is_waited_out_as_the_endpoint_asks(endpoint) -> None:
    endpoint.manners = lambda body, attempt: (
        Response(status_code=429, headers={"Retry-After": "100"}) if attempt < 2 else None
    )
    waits = Waits()
    generator = generator_for(endpoint, waits, concurrency=4)
    outcomes = generator.generate([ask(str(i)) for i in range(6)])
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    assert generator.usage.retries == 12
    assert len(waits) >= 12
    assert max(waits) > 50
    assert set(endpoint.attempts.values()) == {3}


def test_backoff_grows_with_full_jitter(endpoint) -> None:
    endpoint.manners = lambda body, attempt: Response(status_code=503) if attempt < 4 else None
    waits = Waits()
    generator_for(endpoint, waits, backoff_s=1.0, longest_wait_s=5.0).generate([ask("a")])
    assert len(waits) == 4
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(waits, (2, 4, 5, 5), strict=True))


@pytest.mark.parametrize(
    ("status", "body", "headers", "settings", "words"),
    [
        (401, {"error": {"message": "bad key sesame-42", "code": "invalid_api_key"}}, {}, {}, "STAGE_KEY"),
        (404, {"error": {"code": "model_not_found"}}, {}, {}, "model_not_found"),
        (429, {"error": {"code": "insufficient_quota"}}, {}, {}, "quota"),
        (429, {}, {"Retry-After": "999"}, {}, "longest_wait_s"),
        (500, {}, {}, {"retries": 1}, "2 attempts"),
        (307, {}, {"Location": "/elsewhere"}, {}, "base_url"),
    ],
)
def test_what_is_wrong_with_all_requests_is_one_error_that_names_the_setting(
    endpoint, monkeypatch, status, body, headers, settings, words
) -> None:
    monkeypatch.setenv("STAGE_KEY", "sesame-42")
    endpoint.manners = lambda *_: JSONResponse(body, status, headers)
    generator = generator_for(endpoint, api_key_env="STAGE_KEY", concurrency=2, **settings)
    with pytest.raises(GeneratorError, match=words) as caught:
        generator.generate([ask("hide this rabbit") for _ in range(4)])
    assert "sesame-42" not in str(caught.value)
    assert "rabbit" not in str(caught.value)


def test_a_key_that_is_not_set_is_named_before_anything_is_sent(endpoint, monkeypatch) -> None:
    monkeypatch.delenv("STAGE_KEY", raising=False)
    with pytest.raises(GeneratorError, match="STAGE_KEY is not set"):
        generator_for(endpoint, api_key_env="STAGE_KEY")


def test_an_endpoint_that_is_down_is_an_error_after_the_retries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    waits = Waits()
    generator = generator_for(Endpoint(url=f"http://127.0.0.1:{port}/v1"), waits, retries=2, give_up="reject")
    with pytest.raises(GeneratorError, match="no connection"):
        generator.generate([ask("a")])
    assert len(waits) == 2


def test_what_is_wrong_with_one_request_is_its_outcome(endpoint) -> None:
    def manners(body, attempt):
        text = asked(body)
        if text == "too long":
            return JSONResponse({"error": {"code": "context_length_exceeded", "message": text}}, 400)
        if text == "cut off":
            return Response(b'{"choices": [', media_type="application/json")
        return Response(status_code=500) if text == "poison" else None

    endpoint.manners = manners
    generator = generator_for(endpoint, retries=1, give_up="reject")
    outcomes = generator.generate([ask(text) for text in ("fine", "too long", "cut off", "poison")])
    assert isinstance(outcomes[0], Completion)
    assert outcomes[1] == GenerationFailure("not_accepted", "HTTP 400, context_length_exceeded")
    assert outcomes[2] == GenerationFailure("malformed", "the reply is not JSON")
    assert outcomes[3] == GenerationFailure("no_answer", "HTTP 500 after 2 attempts")
    assert generator.usage.failures == 3


def test_a_silent_endpoint_times_out(endpoint) -> None:
    endpoint.hold = 2
    generator = generator_for(endpoint, retries=0, timeout_s=0.2, connect_timeout_s=60, give_up="reject")
    assert generator.generate([ask("a")]) == [GenerationFailure("no_answer", "timed out after 1 attempts")]


def test_the_budget_ends_the_run_with_everything_paid_for_kept(endpoint, tmp_path) -> None:
    requests = [ask(f"trick {i}") for i in range(10)]
    with RequestCache(tmp_path / "answers.sqlite") as cache:
        poor = generator_for(endpoint, concurrency=3, max_tokens=70)
        with pytest.raises(BudgetExhausted, match="max_tokens"):
            CachedGenerator(poor, cache).generate(requests)
        assert poor.usage.tokens <= 70
        assert 2 <= len(cache) == poor.usage.requests < 10
        rich = generator_for(endpoint)
        outcomes = CachedGenerator(rich, cache).generate(requests)
        assert all(isinstance(outcome, Completion) for outcome in outcomes)
        assert rich.usage.requests == 10 - poor.usage.requests
    assert endpoint.repeated("m") == 0


def test_a_budget_in_money_counts_by_the_prices(endpoint) -> None:
    prices = {"prompt": 1_000_000, "completion": 2_000_000}
    generator = generator_for(endpoint, concurrency=1, prices=prices, max_cost=60)
    with pytest.raises(BudgetExhausted):
        generator.generate([ask("a") for _ in range(9)])
    assert (
        0
        < generator.budget.prices.cost(generator.usage.prompt_tokens, generator.usage.completion_tokens)
        <= 60
    )


def test_generators_that_share_a_budget_spend_it_together(endpoint) -> None:
    config = EndpointConfig(base_url=endpoint.url, model="m", trust_env=False, concurrency=1)
    budget = Budget(max_tokens=70)
    writer, judge = (EndpointGenerator(config, budget=budget) for _ in range(2))
    writer.generate([ask(f"trick {i}") for i in range(4)])
    with pytest.raises(BudgetExhausted, match="48 tokens"):
        judge.generate([ask(f"trick {i}") for i in range(10)])
    assert (writer.usage.tokens, judge.usage.tokens) == (32, 16)


def test_endpoints_with_one_model_name_share_no_answers(endpoint, tmp_path) -> None:
    requests = [ask(f"trick {i}") for i in range(3)]
    with serving_endpoint() as other, RequestCache(tmp_path / "answers.sqlite") as cache:
        for served in (endpoint, other, endpoint, other):
            CachedGenerator(generator_for(served), cache).generate(requests)
        assert (len(endpoint.bodies), len(other.bodies), len(cache)) == (3, 3, 6)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://host/v1/", True),
        ("https://HOST:443/v1", True),
        ("https://host:8443/v1", False),
        ("http://host/v1", False),
        ("https://host/V1", False),
        ("https://[::1]/v1", False),
    ],
)
def test_an_endpoint_is_known_by_model_and_address(url, same) -> None:
    base = EndpointConfig(base_url="https://host/v1", model="m")
    other = EndpointConfig(base_url=url, model="m")
    assert (other.identity == base.identity) == same
    named = base.model_copy(update={"model": "n"})
    warmer = base.model_copy(update={"extra_body": {"top_p": 0.9}})
    assert len({base.identity, named.identity, warmer.identity}) == 3
    assert (endpoint_source(other).name, endpoint_source(other).identity) == ("m", other.identity)
    # Executors send copies of a source.
    assert copy.copy(endpoint_source(other)).identity == other.identity


def test_a_consumer_may_stop_early(endpoint) -> None:
    stream = generator_for(endpoint, concurrency=2).stream([ask(str(i)) for i in range(20)])
    next(stream)
    stream.close()
    assert len(endpoint.bodies) < 20


def test_the_missing_client_is_named_with_its_extra(endpoint, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtra, match=r"lockgate\[synthesis\]"):
        generator_for(endpoint)


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "ftp://host/v1"},
        {"base_url": "http://user:key@host/v1"},
        {"base_url": "http://host:port/v1"},
        {"max_cost": 1.0},
        {"extra_body": {"seed": 3}},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings) -> None:
    with pytest.raises(ValidationError):
        EndpointConfig(**{"base_url": "http://localhost/v1", "model": "m", **settings})


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("nonsense", "the reply is not JSON"),
        ("[1]", "the reply holds no choices"),
        ('{"choices": []}', "the reply holds no choices"),
        ('{"choices": [{}]}', "the choice holds no message"),
        ('{"choices": [{"message": {"content": null}}]}', "the message holds no text"),
        ('{"choices": [{"message": {"content": "\\ud800"}}]}', "the text holds a lone surrogate"),
        ('{"choices": [{"message": {"content": 7}}]}', "the message holds no text"),
    ],
)
def test_malformed_replies_are_failures_with_a_reason(body, outcome) -> None:
    assert read_completion(body.encode(), ask("a")) == GenerationFailure("malformed", outcome)


def test_replies_are_read_as_they_are_meant() -> None:
    import json

    def read(*, keep_filtered: bool = False, **changes) -> object:
        body = json.dumps({**reply("text"), **changes}).encode()
        return read_completion(body, ask("a"), keep_filtered=keep_filtered)

    assert read() == Completion("text", "stop", 5, 3)
    assert read(usage=None) == Completion("text", "stop", ask("a").estimated_prompt_tokens, 2)
    filtered = {"finish_reason": "content_filter", "message": {"content": ""}}
    assert isinstance(read(choices=[filtered]), GenerationFailure)
    assert read(choices=[filtered], keep_filtered=True) == Completion("", "content_filter", 5, 3)
    halted = {"finish_reason": "content_filter", "message": {"content": "so far", "refusal": "no"}}
    assert read(choices=[halted], keep_filtered=True) == Completion("so far", "content_filter", 5, 3)
    odd = {"finish_reason": "content_filter", "message": {"content": 3}}
    assert isinstance(read(choices=[odd], keep_filtered=True), GenerationFailure)
    refused = {"finish_reason": "stop", "message": {"content": None, "refusal": "no"}}
    assert read(choices=[refused]) == Completion("no", "stop", 5, 3)


def test_headers_and_codes_of_errors() -> None:
    assert retry_after(None) is retry_after("soon") is retry_after("inf") is retry_after("nan") is None
    assert retry_after("2.5") == 2.5
    assert retry_after("-1") == 0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert error_code(b'{"error": {"code": null, "type": "rate_limited"}}') == "rate_limited"
    assert (
        error_code(b'{"error": {"code": "a sentence, with text"}}')
        == error_code(b"[]")
        == error_code(b"")
        == ""
    )
