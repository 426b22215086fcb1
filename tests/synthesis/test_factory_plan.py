import pytest
from factory_runs import POLICY, tiny_plan
from hypothesis import given
from hypothesis import strategies as st

from lockgate.constitution import load_constitution
from lockgate.errors import ConfigError
from lockgate.synthesis.factory import FactoryPlan
from lockgate.synthesis.factory._brief import answers_per_question, count_questions
from lockgate.synthesis.factory._topics import list_topics


@pytest.mark.parametrize("name", ["small", "large"])
def test_presets_are_whole_plans_and_come_back_from_yaml(tmp_path, name) -> None:
    plan = FactoryPlan.preset(name)
    path = tmp_path / "plan.yaml"
    path.write_text(plan.to_yaml())
    assert FactoryPlan.from_yaml(path) == plan
    path.write_text(f"preset: {name}\nqueries:\n  everyday: 7\n")
    changed = FactoryPlan.from_yaml(path)
    assert changed.queries.everyday == 7
    assert changed.model_copy(update={"queries": plan.queries}) == plan
    assert plan.red_team.share < 0.02


@pytest.mark.parametrize("policy", ["stage-magic", "general-harms"])
def test_the_small_plan_asks_for_about_1200_answers_of_any_policy(policy) -> None:
    constitution = load_constitution(policy)
    plan = FactoryPlan.preset("small")
    counts = count_questions(constitution, plan)
    topics = list_topics(constitution)
    answers = sum(counts[topic.id] * answers_per_question(topic, plan) for topic in topics)
    assert 1100 <= answers <= 1200
    assert all(counts[topic.id] >= 1 for topic in topics)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 9), st.none() | st.just(30))
def test_counts_follow_the_plan(near, far, everyday, harmful, most) -> None:
    plan = tiny_plan(
        queries={
            "harmful_per_category": harmful,
            "near_domain": near,
            "out_of_scope": far,
            "everyday": everyday,
        },
        answers={"most": most},
    )
    counts = count_questions(POLICY, plan)
    kinds = {topic.id: topic.kind for topic in list_topics(POLICY)}
    if most is None:
        by_kind = {
            kind: sum(counts[name] for name in counts if kinds[name] == kind) for kind in set(kinds.values())
        }
        assert by_kind == {
            "harmful": harmful * len(POLICY.harmful),
            "near_domain": near,
            "out_of_scope": far,
            "everyday": everyday,
        }
    for kind in ("near_domain", "out_of_scope", "everyday"):
        members = [counts[name] for name in counts if kinds[name] == kind]
        assert max(members) - min(members) <= 1


def test_an_entry_can_have_a_number_of_its_own() -> None:
    counts = count_questions(POLICY, tiny_plan(queries={"by_id": {"card-games": 9}}))
    assert counts["card-games"] == 9
    with pytest.raises(ConfigError, match=r"by_id: card-tricks: no such id in stage-magic"):
        count_questions(POLICY, tiny_plan(queries={"by_id": {"card-tricks": 9}}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("query: {}", "query: Extra inputs"),
        ("queries: {everyday: -1}", "queries.everyday: Input should be greater"),
        ("augmentation: {hold_out: [charades]}", "unknown charades"),
        ("augmentation: {translation_share: 0.1, languages: []}", "languages: empty"),
        ("filters: {leave_out: [charades]}", "unknown charades"),
        ("queries: {composed_share: 0.5, templates: 'off'}", "needs templates"),
        ("split: {train: 0.5, test: 0.4}", "add up to 1"),
        ("split: {test: 1}", "a part `train`"),
        ("red_team: {share: 0.5}", "red_team.share"),
        ("preset: medium", "one of small, large"),
        ("preset: [small]", "one of small, large"),
        ("preset: {small: 1}", "one of small, large"),
        ("preset: 3", "one of small, large"),
        ("- a list", "a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_a_plan_cannot_mean_is_named(tmp_path, text, words) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.yaml") as caught:
        FactoryPlan.from_yaml(path)
    assert words in str(caught.value)


def test_a_plan_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        FactoryPlan.from_yaml(tmp_path / "nowhere.yaml")
