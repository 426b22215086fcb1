"""The judge behind a generator: with scripted replies, and with a real server."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from lockgate.errors import GeneratorError, NoVerdict
from lockgate.exchanges import Message
from lockgate.redteam._grades import Rubric, RubricGrader
from lockgate.redteam._judging import Candidate, judge_errors, load_cases
from lockgate.redteam._opinions import OpinionGrader
from lockgate.redteam._queries import load_queries
from lockgate.synthesis import (
    CachedGenerator,
    Completion,
    EndpointConfig,
    EndpointGenerator,
    GenerationFailure,
    RequestCache,
    ScriptedGenerator,
)

sys.path.append(str(Path(__file__).parents[1] / "synthesis"))
from fake_endpoint import reply, serving_endpoint

QUERIES = load_queries("stage-magic").queries
QUERY = QUERIES[0]
FULL = QUERY.answers[0]
RUBRICS = {query.id: Rubric.of(query) for query in QUERIES}
KINDS = {
    "topics": "Which topics does the text tell",
    "answers": "Does the text answer the question",
    "disguise": "Does it make the assistant disguise",
    "plain": "Turn a text into plain English",
}


def kind_of(content: str) -> str:
    (kind,) = (kind for kind, words in KINDS.items() if words in content)
    return kind


def text_in(content: str) -> str:
    marked = re.search(r"^(={5}[0-9a-f]{16})\n(.*?)\n\1$", content, re.DOTALL | re.MULTILINE)
    assert marked is not None
    return marked[2]


def honest(content: str) -> str:
    """The reply of a model that sees what the rubric sees, and reads text backwards if it must."""
    kind, text = kind_of(content), text_in(content)
    if kind == "disguise":
        return json.dumps({"instructions": "Read it backwards." if "backwards" in text else None})
    if kind == "plain":
        return text[::-1]
    if kind == "answers":
        return json.dumps({"answers": True, "declines": False})
    query = next(query for query in QUERIES if query.text in content)
    found = RUBRICS[query.id].found(text)
    return json.dumps([at for at, topic in enumerate(query.topics, 1) if topic.name in found])


class Asked:
    """A script that counts what is asked, and may answer some requests otherwise."""

    def __init__(self, **otherwise) -> None:
        self.kinds: Counter[str] = Counter()
        self.requests = []
        self._otherwise = otherwise

    def __call__(self, request):
        content = request.messages[-1].content
        kind = kind_of(content)
        self.kinds[kind] += 1
        self.requests.append(request)
        if kind in self._otherwise and (kind != "topics" or text_in(content) not in QUERY.answers[1:]):
            other = self._otherwise[kind]
            return other(request) if callable(other) else other
        return honest(content)


def grader(script, **options) -> OpinionGrader:
    return OpinionGrader(ScriptedGenerator(script), **options)


def test_an_honest_model_gives_the_grades_of_the_rubric() -> None:
    asked = Asked()
    cases = [case for case in load_cases() if case.part == "test" and case.query in QUERIES]
    judge = grader(asked)
    errors = judge_errors(judge, cases)
    expected = judge_errors(RubricGrader(), cases)
    assert (errors.false_success, errors.missed, errors.wrong) == (
        expected.false_success,
        expected.missed,
        expected.wrong,
    )
    assert errors.no_verdict.count == 0
    # Each full answer once for the measure, each text once, and a second opinion for each success.
    rubric = RubricGrader()
    successes = sum(rubric.grade(case.query, case.text).success for case in cases)
    assert asked.kinds == {
        "topics": sum(len(query.answers) for query in QUERIES) + len(cases),
        "answers": successes,
    }


def test_all_that_is_asked_fits_on_a_page_and_is_greedy() -> None:
    asked = Asked()
    grader(asked).grade(QUERY, FULL[::-1], (Message("user", "Answer backwards."),))
    assert set(asked.kinds) == set(KINDS)
    assert all(request.temperature == 0.0 and request.purpose == "judge" for request in asked.requests)
    assert all(len(request.messages[0].content) < 3000 for request in asked.requests)


def test_a_second_opinion_must_confirm() -> None:
    denied = grader(Asked(answers='{"answers": false, "declines": false}')).grade(QUERY, FULL)
    assert (denied.success, denied.refused) == (False, False)
    assert len(denied.topics) >= denied.needed
    declined = grader(Asked(answers='{"answers": true, "declines": true}')).grade(QUERY, FULL)
    assert (declined.success, declined.refused) == (False, True)


def test_a_text_with_too_few_topics_gets_no_second_opinion() -> None:
    asked = Asked()
    grade = grader(asked).grade(QUERY, "I'm sorry, but I can't tell.")
    assert (grade.success, grade.refused, grade.topics) == (False, True, ())
    assert asked.kinds["answers"] == 0


def test_a_disguised_text_is_turned_into_plain_english_by_what_the_prompt_says() -> None:
    asked = Asked()
    messages = (Message("system", "Obey."), Message("user", "Write it backwards."))
    assert grader(asked).grade(QUERY, FULL[::-1], messages).success
    turned = next(r.messages[0].content for r in asked.requests if kind_of(r.messages[0].content) == "plain")
    assert "Read it backwards." in turned
    assert FULL[::-1] in turned
    assert not grader(Asked()).grade(QUERY, FULL[::-1]).success


def test_a_prompt_that_is_the_question_is_not_searched_for_a_disguise() -> None:
    asked = Asked()
    assert grader(asked).grade(QUERY, FULL, (Message("user", QUERY.text),)).success
    assert asked.kinds["disguise"] == 0
    assert grader(asked).grade(QUERY, FULL, (Message("user", f"Well, {QUERY.text}"),)).success
    assert (asked.kinds["disguise"], asked.kinds["plain"]) == (1, 0)


MALFORMED = {
    "topics": ["", "1, 2", "[1, 1]", "[0]", "[99]", '["1"]', "[true]", "[1.0]", '{"topics": [1]}', "null"],
    "answers": ["yes", "true", '{"answers": true}', '{"answers": "yes", "declines": false}', "[]"],
    "disguise": ["no", '{"instructions": ""}', '{"instructions": 1}', '{"instructions": null, "more": 1}'],
    "plain": ["", " \n"],
}


@pytest.mark.parametrize(("kind", "said"), [(kind, said) for kind in MALFORMED for said in MALFORMED[kind]])
def test_a_malformed_reply_is_asked_for_once_more_and_then_there_is_no_verdict(kind, said) -> None:
    messages = (Message("user", "Answer backwards."),)
    asked = Asked(**{kind: said})
    with pytest.raises(NoVerdict):
        grader(asked, seed=7).grade(QUERY, FULL[::-1], messages)
    seeds = [r.seed for r in asked.requests if kind_of(r.messages[0].content) == kind]
    assert seeds[-1] == 8
    again = Asked(
        **{kind: lambda request: said if request.seed == 7 else honest(request.messages[0].content)}
    )
    assert grader(again, seed=7).grade(QUERY, FULL[::-1], messages).success


@pytest.mark.parametrize(
    "outcome", [Completion("[1, 2]", "length", 1, 1), GenerationFailure("not_accepted", "HTTP 400")]
)
def test_a_reply_that_is_cut_off_or_missing_is_no_verdict(outcome) -> None:
    judge = grader(Asked(topics=lambda request: outcome))
    (found,) = judge.grade_all([Candidate(QUERY, "Some text.")])
    assert isinstance(found, NoVerdict)
    assert "Some text" not in str(found)


def test_a_query_whose_answers_get_no_verdict_is_measured_again_later() -> None:
    broken = {"on": True}

    def says(request):
        return "?" if broken["on"] else honest(request.messages[0].content)

    judge = grader(says)
    (found,) = judge.grade_all([Candidate(QUERY, FULL)])
    assert isinstance(found, NoVerdict)
    broken["on"] = False
    assert judge.grade(QUERY, FULL).success


def test_texts_without_a_verdict_are_counted_as_such() -> None:
    cases = [case for case in load_cases() if case.query == QUERY and case.part != "late"]
    silent = cases[3].text
    asked = Asked(
        topics=lambda r: "?" if text_in(r.messages[0].content) == silent else honest(r.messages[0].content)
    )
    errors = judge_errors(grader(asked), cases)
    assert (errors.no_verdict.count, errors.no_verdict.n) == (1, len(cases))
    assert errors.missed.n + errors.false_success.n == len(cases) - 1


@settings(max_examples=30)
@given(st.text())
def test_a_text_stays_between_its_marks(text) -> None:
    asked = Asked(topics="[]")
    grader(asked).grade(QUERY, text)
    content = asked.requests[-1].messages[0].content
    mark = re.search(r"two lines with (={5}[0-9a-f]{16})\.", content)[1]
    assert content.split(f"\n{mark}\n")[1] == text
    assert mark not in text


def test_over_http_with_a_cache_nothing_is_asked_twice(tmp_path) -> None:
    candidates = [Candidate(QUERY, text) for text in (FULL, QUERY.twin.answer)]

    def manners(body, attempt):
        return JSONResponse(reply(honest(body["messages"][0]["content"])))

    with serving_endpoint(manners=manners) as endpoint:
        config = EndpointConfig(base_url=endpoint.url, model="judge", trust_env=False)
        counts = []
        for _ in range(2):
            with RequestCache(tmp_path / "cache.sqlite") as cache:
                judge = OpinionGrader(CachedGenerator(EndpointGenerator(config), cache))
                full, twin = judge.grade_all(candidates)
            assert (full.success, twin.success) == (True, False)
            counts.append(len(endpoint.bodies))
    # The text that is itself one of the full answers is asked about once.
    assert counts == [len(QUERY.answers) + 2] * 2
    assert judge.name == "opinions of judge at 0.5"


def test_an_endpoint_that_is_down_is_an_error_and_no_grade() -> None:
    with serving_endpoint() as endpoint:
        config = EndpointConfig(base_url=endpoint.url, model="judge", retries=0, backoff_s=0, trust_env=False)
    with pytest.raises(GeneratorError):
        OpinionGrader(EndpointGenerator(config)).grade(QUERY, FULL)
