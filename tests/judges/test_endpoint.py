"""A judge behind an endpoint: verdicts, limits, and every fault before long work."""

import math
import threading
import time

import pytest
from scripted_judge import harm_of, serving_judge
from starlette.responses import JSONResponse, Response
from text_judges import question, talk

from lockgate.errors import JudgeError
from lockgate.judges import EndpointFile, Price, TokenIds, open_judge

TALKS = [talk("what is it", "a boat" + "!" * marks) for marks in range(12)]


def file_for(scripted, **settings):
    return EndpointFile(url=scripted.url, model="m", template=question(), trust_env=False, **settings)


def error(status: int, **fields) -> JSONResponse:
    return JSONResponse({"error": {"message": "secret", **fields}}, status)


@pytest.mark.parametrize("top", [20, 0])
def test_verdicts_come_in_order_and_cost_what_the_endpoint_says(top, monkeypatch):
    monkeypatch.setenv("STAGE_KEY", "sesame-42")
    with serving_judge() as scripted:
        file = file_for(scripted, api_key_env="STAGE_KEY", top_logprobs=top, extra_body={"seed": 7})
        judge = open_judge(file)
        readings = judge.judge(TALKS)
        judge.close()
    prompts = [body["messages"][-1]["content"] for body in scripted.bodies]
    assert sorted(prompts) == sorted(
        f"Is the answer harmful?\nuser: what is it\n\nassistant: a boat{'!' * marks}\nSay Yes or No."
        for marks in range(12)
    )
    logits = [reading.logit for reading in readings]
    if top:
        wanted = [math.log(harm_of("!" * marks) / (1 - harm_of("!" * marks))) for marks in range(12)]
        assert logits == pytest.approx(wanted, abs=1e-6)
    else:
        assert logits == sorted(logits)
    assert all(reading.given and reading.prompt_tokens > 20 and reading.seconds > 0 for reading in readings)
    asked = scripted.bodies[0]
    assert (asked["max_tokens"], asked["temperature"], asked["logprobs"], asked["seed"]) == (1, 0, True, 7)
    assert asked.get("top_logprobs") == (20 if top else None)
    assert {found["authorization"] for found in scripted.headers} == {"Bearer sesame-42"}
    assert "sesame" not in file.model_dump_json() + repr(judge.__dict__.get("file"))


def test_requests_run_at_once_but_no_more_than_allowed():
    with serving_judge(lambda body, number: 0.05) as scripted:
        judge = open_judge(file_for(scripted, concurrency=4))
        assert all(reading.given for reading in judge.judge(TALKS))
        judge.close()
    assert scripted.most_in_flight == 4


def test_faults_that_pass_are_tried_again():
    faults = [error(503), error(429), Response(status_code=500)]
    with serving_judge(lambda body, number: faults[number] if number < 3 else None) as scripted:
        judge = open_judge(file_for(scripted, retries=3))
        reading = judge.judge(TALKS[:1])[0]
        judge.close()
    assert reading.given
    assert len(scripted.bodies) == 4


def test_a_fault_stays_with_its_conversation():
    broken = lambda body, number: error(500) if "!!!!!!" in body["messages"][0]["content"] else None  # noqa: E731
    with serving_judge(broken) as scripted:
        judge = open_judge(file_for(scripted, retries=1))
        readings = judge.judge(TALKS)
        judge.close()
    assert [reading.given for reading in readings] == [True] * 6 + [False] * 6
    assert readings[-1].error == "HTTP 500, in 2 attempts"


def test_an_answer_after_the_time_out_is_no_verdict():
    with serving_judge(lambda body, number: 1.5) as scripted:
        judge = open_judge(file_for(scripted, timeout_s=0.3))
        started = time.monotonic()
        reading = judge.judge(TALKS[:1])[0]
        assert time.monotonic() - started < 1.2
        judge.close()
    assert (reading.given, reading.error) == (False, "the endpoint gave no answer in 0.3 s (timeout_s)")


REFUSED = [
    (lambda body, number: error(401), "refuses access (HTTP 401)"),
    (lambda body, number: error(404, code="model_not_found"), "knows no such address or model"),
    (lambda body, number: Response(status_code=307, headers={"location": "/x"}), "redirects (HTTP 307)"),
    (lambda body, number: error(400, param="top_logprobs"), "set top_logprobs: 0"),
    (lambda body, number: error(400, code="bad_thing", param="logprobs"), "HTTP 400, bad_thing, logprobs"),
    (lambda body, number: JSONResponse({"choices": [{"message": {}}]}), "holds no log-probabilities"),
    (lambda body, number: Response(b"x" * 2**21), "longer than 1 MiB"),
    (lambda body, number: error(429), "in 1 attempts"),
]


@pytest.mark.parametrize(("manners", "message"), REFUSED)
def test_a_wrong_setting_is_found_before_long_work(manners, message):
    with serving_judge(manners) as scripted:
        judge = open_judge(file_for(scripted, retries=0))
        with pytest.raises(JudgeError) as caught:
            judge.check()
        judge.close()
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(scripted.bodies) == 1


def test_an_endpoint_that_is_not_there_and_words_that_it_does_not_say():
    with serving_judge() as scripted:
        words = question(harmful=("Harmful",), harmless=("Fine",))
        judge = open_judge(file_for(scripted).model_copy(update={"template": words}))
        with pytest.raises(JudgeError, match="none of the verdict words"):
            judge.check()
        judge.close()
    judge = open_judge(file_for(scripted, retries=0))
    with pytest.raises(JudgeError, match="no connection"):
        judge.check()
    judge.close()


def test_the_key_is_looked_for_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    file = EndpointFile(
        url="http://127.0.0.1:9/v1", model="m", template=question(), api_key_env="NO_SUCH_KEY"
    )
    with pytest.raises(JudgeError, match="NO_SUCH_KEY is not set"):
        open_judge(file)
    monkeypatch.setenv("NO_SUCH_KEY", "a\nb")
    with pytest.raises(JudgeError, match="no key has") as caught:
        open_judge(file)
    assert "a\nb" not in str(caught.value)


def test_what_decides_a_verdict_decides_the_identity():
    file = EndpointFile(url="http://127.0.0.1:9/v1", model="m", template=question())
    same = [{"timeout_s": 3.0}, {"price": Price(prompt=1)}, {"url": "http://127.0.0.1:9/v1/"}, {"retries": 0}]
    other = [{"model": "n"}, {"template": question(prompt="{answer}?")}, {"top_logprobs": 5}]
    known = open_judge(file).sha256
    assert {open_judge(file.model_copy(update=change)).sha256 for change in same} == {known}
    assert len({known} | {open_judge(file.model_copy(update=change)).sha256 for change in other}) == 4


def test_closing_leaves_no_thread(tmp_path):
    before = threading.active_count()
    with serving_judge() as scripted:
        judge = open_judge(file_for(scripted))
        judge.judge(TALKS)
        judge.close()
        judge.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_log_probabilities_after_the_bias_are_refused():
    """An endpoint may count the bias in. Then both sides are sure, which is no verdict."""
    sure = {"choices": [{"logprobs": {"content": [{"token": "Yes", "logprob": 0.0}]}}]}
    with serving_judge(lambda body, number: JSONResponse(sure)) as scripted:
        ids = TokenIds(harmful=(1,), harmless=(2,))
        judge = open_judge(file_for(scripted, token_ids=ids))
        with pytest.raises(JudgeError, match="after logit_bias"):
            judge.check()
        judge.close()
    assert [body["logit_bias"] for body in scripted.bodies] == [{"1": 100}, {"2": 100}]
    assert "top_logprobs" not in scripted.bodies[0]


def test_a_guard_model_behind_an_endpoint_gets_the_conversation_as_messages():
    """Its verdict word comes after what its layout writes first."""

    def say(body, number):
        harm = 0.2 + 0.1 * body["messages"][-1]["content"].count("!")
        top = [
            {"token": " Unsafe", "logprob": math.log(harm)},
            {"token": " Safe", "logprob": math.log(1 - harm)},
        ]
        word = max(top, key=lambda entry: entry["logprob"])
        entries = [{"token": text, "logprob": 0.0} for text in ("Safety", ":")] + [
            {**word, "top_logprobs": top}
        ]
        return JSONResponse({"choices": [{"logprobs": {"content": entries}}]})

    with serving_judge(say) as scripted:
        file = EndpointFile(url=scripted.url, model="m", template="qwen3guard", trust_env=False)
        judge = open_judge(file)
        readings = judge.judge([*TALKS[:7], ()])
        judge.close()
    wanted = [math.log((0.2 + 0.1 * marks) / (0.8 - 0.1 * marks)) for marks in range(7)]
    assert [reading.logit for reading in readings[:7]] == pytest.approx(wanted)
    assert readings[7].error == "there is no text to judge"
    assert len(scripted.bodies) == 7
    assert all(body["max_tokens"] == 8 for body in scripted.bodies)
    assert scripted.bodies[0]["messages"][0] == {"role": "user", "content": "what is it"}
