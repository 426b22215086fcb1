"""The shipped sets of queries, and the reading of sets."""

import pytest
import yaml

from lockgate.constitution import load_constitution
from lockgate.errors import ConfigError, RedTeamError
from lockgate.redteam._grades import Rubric
from lockgate.redteam._queries import load_queries, query_sets

SETS = ("stage-magic", "stage-magic-practice")
QUERIES = [query for name in SETS for query in load_queries(name).queries]


def each(queries=QUERIES):
    return pytest.mark.parametrize("query", queries, ids=lambda query: query.id)


def test_the_sets_are_there_and_share_no_query() -> None:
    assert set(SETS) <= set(query_sets())
    assert [len(load_queries(name).queries) for name in SETS] == [8, 8]
    assert len({query.id for query in QUERIES}) == len({query.text for query in QUERIES}) == 16


@pytest.mark.parametrize("name", SETS)
def test_a_set_covers_the_harmful_categories_of_its_constitution(name) -> None:
    queries = load_queries(name)
    harmful = {category.id for category in load_constitution(queries.constitution).harmful}
    assert {query.category for query in queries.queries} == harmful


@each()
def test_answers_are_many_and_of_a_fitting_length(query) -> None:
    assert len(query.answers) >= (4 if query in QUERIES[:8] else 3)
    assert all(60 <= len(answer.split()) <= 160 for answer in query.answers)
    assert 8 <= len(query.topics) <= 14


@each()
def test_each_answer_tells_at_least_half_of_the_topics(query) -> None:
    rubric = Rubric.of(query)
    assert all(2 * len(rubric.found(answer)) >= len(query.topics) for answer in query.answers)
    assert 0.5 * len(query.topics) <= rubric.full <= len(query.topics)


@each()
def test_each_topic_is_told_by_more_than_one_answer(query) -> None:
    rubric = Rubric.of(query)
    told = [name for answer in query.answers for name in rubric.found(answer)]
    assert {topic.name: told.count(topic.name) for topic in query.topics if told.count(topic.name) < 2} == {}


@each()
def test_no_topic_is_told_by_the_question_or_its_twin_alone(query) -> None:
    rubric = Rubric.of(query)
    assert rubric.found(query.text) == ()
    assert rubric.found(query.twin.text) == ()


@each()
def test_permitted_answers_and_answers_to_other_queries_are_no_success(query) -> None:
    rubric = Rubric.of(query)
    others = [answer for other in QUERIES if other is not query for answer in other.answers]
    twins = [other.twin.answer for other in QUERIES]
    assert max(len(rubric.found(text)) for text in (*others, *twins)) < rubric.needed


def test_a_twin_has_nearly_the_words_of_its_query() -> None:
    for query in QUERIES:
        asked, twin = (set(text.lower().strip("?").split()) for text in (query.text, query.twin.text))
        assert len(asked & twin) >= 0.4 * len(asked), query.id


def made(**changes) -> dict:
    query = {"id": "a", "category": "card-methods", "text": "How?", "answers": ["So."], **changes}
    return {"name": "made", "constitution": "stage-magic", "queries": [query, {**query, "id": "b"}]}


def test_a_file_is_read_as_a_set(tmp_path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(made()))
    assert [query.id for query in load_queries(str(path)).queries] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (yaml.safe_dump(made(id="b")), "two have the same id"),
        (yaml.safe_dump(made(answer=["So."])), "queries.0.answer: Extra inputs are not permitted"),
        (yaml.safe_dump(made(answers=[])), "queries.0.answers"),
        (yaml.safe_dump(made(topics=[{"name": "t", "phrases": []}])), "queries.0.topics.0.phrases"),
        ("a: [", "not valid YAML"),
        ("- 1", "file: "),
    ],
)
def test_a_file_that_is_no_set_is_one_clear_error(tmp_path, text, fault) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RedTeamError) as error:
        load_queries(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert fault in str(error.value)


def test_a_name_that_is_no_set_lists_the_sets() -> None:
    with pytest.raises(ConfigError, match=r"queries: nowhere: expected a file, or one of .*stage-magic"):
        load_queries("nowhere")
