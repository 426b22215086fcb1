"""A broken endpoint ends the run and records nothing. Single failed requests are rejections."""

import asyncio
import time
from collections.abc import Iterator
from itertools import cycle

import pytest
from fake_endpoint import Endpoint, reply, serving_endpoint
from starlette.responses import HTMLResponse, JSONResponse, Response

from lockgate.errors import BudgetExhausted, GeneratorError
from lockgate.exchanges import Exchange, Message
from lockgate.synthesis import (
    Budget,
    Completion,
    EndpointConfig,
    EndpointGenerator,
    GenerateStep,
    GenerationFailure,
    GenerationRequest,
    GeneratorSource,
    Pipeline,
    PipelineResult,
    ScriptedGenerator,
)
from lockgate.synthesis._reply import is_content_code
from lockgate.synthesis.factory import endpoint_source

TURNED_AWAY = {"error": {"code": "unsupported_parameter", "message": "say rabbit otherwise"}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving_endpoint() as served:
        yield served


async def never_wait(seconds: float) -> None:
    """Takes the place of sleeping."""


def config_of(endpoint: Endpoint, **settings) -> EndpointConfig:
    return EndpointConfig(base_url=endpoint.url, model="m", trust_env=False, **settings)


def generator_for(endpoint: Endpoint, budget: Budget | None = None, **settings) -> EndpointGenerator:
    return EndpointGenerator(config_of(endpoint, **settings), budget=budget, sleep=never_wait)


def ask(text: str, max_tokens: int = 20) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), max_tokens)


def ask_row(row: Exchange, seed: int) -> GenerationRequest:
    return GenerationRequest(row.messages, 20, seed=seed)


def take_row(row: Exchange, completion: Completion) -> Exchange:
    return row


def run(endpoint: Endpoint, folder, rows: int, *, batch_rows: int = 64, **settings) -> PipelineResult:
    source = endpoint_source(config_of(endpoint, concurrency=1, **settings))
    step = GenerateStep("write", source, request=ask_row, parse=take_row, batch_rows=batch_rows)
    texts = (f"trick {number}" for number in range(rows))
    return Pipeline([step], folder).run([Exchange((Message("user", text),)) for text in texts])


def turn_away(*_) -> Response:
    return JSONResponse(TURNED_AWAY, 400)


@pytest.mark.parametrize(
    ("manners", "words"),
    [
        (turn_away, r"HTTP 400, unsupported_parameter: \d+"),
        (lambda *_: HTMLResponse("<p>rabbit</p>"), r"the reply is not JSON: \d+"),
        (lambda *_: JSONResponse({}, 413), r"HTTP 413: \d+"),
    ],
)
@pytest.mark.parametrize("rows", [2, 20, 100])
def test_a_broken_endpoint_is_an_error_and_the_mended_one_is_asked_again(
    endpoint, tmp_path, manners, words, rows
) -> None:
    endpoint.manners = manners
    for _ in range(2):
        with pytest.raises(GeneratorError, match=words) as caught:
            run(endpoint, tmp_path, rows)
        assert "max_tokens" in str(caught.value)
        assert "rabbit" not in str(caught.value)
    assert len(endpoint.bodies) <= 64
    endpoint.manners = lambda *_: None
    assert run(endpoint, tmp_path, rows).steps[0].rows_out == rows


def test_an_endpoint_that_breaks_later_ends_the_run_as_well(endpoint, tmp_path) -> None:
    endpoint.manners = lambda *_: turn_away() if len(endpoint.bodies) > 64 else None
    with pytest.raises(GeneratorError, match="answered none of 32"):
        run(endpoint, tmp_path, 128)
    assert len(endpoint.bodies) == 64 + 32
    with pytest.raises(GeneratorError, match="answered none of 9"):
        run(endpoint, tmp_path, 64 + 9)
    endpoint.manners = lambda *_: None
    result = run(endpoint, tmp_path, 128)
    assert (result.steps[0].rows_out, result.steps[0].rows_run) == (128, 64)


def test_single_requests_that_go_wrong_are_rejected_rows(endpoint, tmp_path) -> None:
    manners = cycle([lambda: None, turn_away, lambda: Response(b"{]")])
    endpoint.manners = lambda *_: next(manners)()
    # The last batch is one of two rows that both go wrong.
    step = run(endpoint, tmp_path, 30, batch_rows=28).steps[0]
    assert step.rejected == {"generator_not_accepted": 10, "generator_malformed": 10}
    assert step.rows_out == 10


@pytest.mark.parametrize(
    "manners",
    [
        lambda *_: JSONResponse({"error": {"code": "content_policy_violation"}}, 400),
        lambda *_: JSONResponse(reply("", finish="content_filter")),
    ],
)
def test_an_endpoint_that_will_not_write_about_something_is_not_broken(endpoint, tmp_path, manners) -> None:
    endpoint.manners = manners
    assert run(endpoint, tmp_path, 70).steps[0].rejected == {"generator_filtered": 70}


def test_whoever_says_so_gets_failures_however_many(endpoint) -> None:
    endpoint.manners = turn_away
    outcomes = generator_for(endpoint, stop_after_failures=None).generate([ask("a")] * 40)
    assert outcomes == [GenerationFailure("not_accepted", "HTTP 400, unsupported_parameter")] * 40
    with pytest.raises(GeneratorError, match="answered none of 3"):
        generator_for(endpoint, stop_after_failures=3, concurrency=1).generate([ask("a")] * 3)


def test_a_generator_counts_anew_after_its_error(endpoint) -> None:
    generator = generator_for(endpoint, stop_after_failures=3, concurrency=1)
    for asked in (3, 6):
        endpoint.manners = turn_away
        with pytest.raises(GeneratorError):
            generator.generate([ask("a")] * 9)
        assert len(endpoint.bodies) == asked


def test_later_attempts_hold_what_failed_before_and_are_not_judged(tmp_path) -> None:
    def script(request: GenerationRequest) -> str | GenerationFailure:
        number = int(request.messages[0].content.split()[-1])
        return "fine" if number < 4 else GenerationFailure("malformed")

    source = GeneratorSource("scripted", lambda: ScriptedGenerator(script))
    step = GenerateStep("write", source, request=ask_row, parse=take_row, attempts=2)
    rows = [Exchange((Message("user", f"trick {number}"),)) for number in range(30)]
    step = Pipeline([step], tmp_path).run(rows).steps[0]
    assert (step.rows_out, step.rejected) == (4, {"generator_malformed": 26})


def test_replies_that_are_lost_are_paid_for(endpoint) -> None:
    """Prompt estimate and `max_tokens` of each attempt that was sent and not read."""
    request = ask("a", max_tokens=100)
    each = request.estimated_prompt_tokens + 100
    for manners, lost in (
        (lambda *_: Response(status_code=504), 3),
        (lambda *_: Response(status_code=503), 0),
        (lambda *_: Response(b"{]"), 1),
    ):
        endpoint.manners = manners
        generator = generator_for(endpoint, retries=2, give_up="reject")
        generator.generate([request])
        assert generator.budget.prompt_tokens + generator.budget.completion_tokens == lost * each
    endpoint.hold = 99
    endpoint.full.clear()
    slow = generator_for(endpoint, retries=1, give_up="reject", timeout_s=0.2, connect_timeout_s=60)
    slow.generate([request])
    assert slow.budget.prompt_tokens + slow.budget.completion_tokens == 2 * each


def test_lost_replies_use_a_budget_up_before_it_is_overdrawn(endpoint) -> None:
    endpoint.manners = lambda *_: Response(status_code=504)
    request = ask("a", max_tokens=100)
    each = request.estimated_prompt_tokens + 100
    generator = generator_for(endpoint, retries=9, budget=Budget(max_tokens=3 * each + 50))
    with pytest.raises(BudgetExhausted):
        generator.generate([request])
    assert len(endpoint.bodies) == 3


def test_what_is_in_flight_when_the_consumer_leaves_is_paid_for(endpoint) -> None:
    generator = generator_for(endpoint)
    requests = [ask(str(number), max_tokens=100) for number in range(2)]

    async def leave() -> None:
        call = generator.start(requests)
        sent, waits = (asyncio.ensure_future(asyncio.Event().wait()) for _ in requests)
        call.tasks = {sent: 0, waits: 1}
        call.waiting = {waits}
        await call.close()

    asyncio.run(leave())
    assert generator.budget.completion_tokens == 100


def test_a_longer_retry_after_that_comes_meanwhile_counts(endpoint) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            call.not_before = time.monotonic() + 90

    config = config_of(endpoint, backoff_s=0)
    call = EndpointGenerator(config, sleep=sleep).start([])
    call.not_before = time.monotonic() + 10
    asyncio.run(call._wait(0))
    assert len(waits) == 2
    assert waits[0] <= 10
    assert 80 < waits[1] <= 90


def test_the_idempotency_key_is_what_answers_are_kept_under(endpoint) -> None:
    for top_p in (0.5, 0.9):
        generator_for(endpoint, extra_body={"top_p": top_p}).generate([ask("a")])
    assert len(endpoint.attempts) == 2


@pytest.mark.parametrize(
    ("code", "about_content"),
    [
        ("content_policy_violation", True),
        ("invalid_prompt", True),
        ("moderation_blocked", True),
        ("unsupported_content_type", False),
        ("context_length_exceeded", False),
        ("unsupported_parameter", False),
    ],
)
def test_codes_about_content_are_told_from_those_about_the_form(code, about_content) -> None:
    assert is_content_code(code) is about_content
