"""The data factory as a whole, with scripts instead of models."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import cycle, pairwise

import pytest
from factory_runs import POLICY, REFUSAL, data_of, refuse_about, run_factory, scripted_source, tiny_plan

from lockgate.curation import find_refusal
from lockgate.errors import ConfigError, ExchangeError, SynthesisError
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.synthesis import GenerationFailure
from lockgate.synthesis.augmentations import exchange_families
from lockgate.synthesis.factory import FactoryPlan, estimate_synthesis
from lockgate.synthesis.factory._estimate import write_stand_in
from lockgate.synthesis.factory._roles import LABELS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run_factory(tmp_path_factory.mktemp("factory") / "out")


def test_labels_follow_the_answer(made) -> None:
    rows = list(made.rows())
    harmful = set(POLICY.category_ids)
    for row in rows:
        role = row.meta["role"]
        assert row.label == LABELS[role]
        assert not row.is_prompt_only
        if row.label == 1.0:
            assert row.category in harmful
        if role == "twin":
            assert row.category not in harmful
            assert row.meta["asked_for"] in harmful
        if role == "refused":
            assert row.messages[-1].content == POLICY.refusal_message or (
                find_refusal(row.messages[-1].content) is not None
            )
    roles = Counter(row.meta["role"] for row in rows)
    assert {"compliant", "permitted", "refused", "twin", "harmless"} <= set(roles)
    assert {row.category for row in rows if row.label == 1.0} == harmful


def test_pairs_are_whole_and_stay_together(made) -> None:
    pairs: dict[str, list[Exchange]] = {}
    for row in made.rows():
        if "pair" in row.meta:
            pairs.setdefault(row.meta["pair"], []).append(row)
    assert len(pairs) == made.card["rows"]["pairs"] > 10
    for first, second in pairs.values():
        assert {first.label, second.label} == {0.0, 1.0}
        assert first.meta["split"] == second.meta["split"]
        assert exchange_families(first) == exchange_families(second)


def test_no_question_or_prompt_is_in_two_parts_and_held_out_disguises_never_train(made) -> None:
    parts: dict[str, set[str]] = {}
    held: Counter[str] = Counter()
    for row in made.rows():
        key = row.meta.get("original", row.id) if "augmentations" in row.meta else row.id
        parts.setdefault(key, set()).add(row.meta["split"])
        if set(exchange_families(row)) & {"metaphor", "letter-order"}:
            held[row.meta["split"]] += 1
    assert all(len(names) == 1 for names in parts.values())
    assert held["train"] == 0
    assert held["test"] > 0


def test_every_row_is_accounted_for(made) -> None:
    steps = {step["step"]: step for step in made.card["steps"]}
    for before, after in pairwise(made.card["steps"]):
        assert before["rows_out"] == after["rows_in"]
    for name, step in steps.items():
        if name in ("questions", "tasks", "disguises", "copies"):
            continue
        assert step["rows_in"] == step["rows_out"] + sum(step["rejected"].values()), name
    assert made.card["rows"]["total"] == made.card["steps"][-1]["rows_out"] == len(list(made.rows()))
    assert sum(topic["questions"] for topic in made.card["topics"]) == steps["choose"]["rows_out"]
    assert made.card["requests"] == sum(step["counters"].get("requests", 0) for step in made.card["steps"])
    assert FactoryPlan.from_yaml(made.folder / "plan.yaml") == tiny_plan()


def test_the_card_holds_no_text_of_a_row(made) -> None:
    card = (made.folder / "card.json").read_text() + (made.folder / "README.md").read_text()
    for row in made.rows():
        if row.meta["role"] != "refused":
            assert row.messages[-1].content not in card
    assert json.loads((made.folder / "card.json").read_text()) == made.card


def test_a_second_run_gives_the_same_bytes_and_asks_nothing(made, tmp_path) -> None:
    again = run_factory(tmp_path / "again")
    assert data_of(again.folder) == data_of(made.folder)

    def never(request):
        raise AssertionError("asked again")

    same = run_factory(made.folder, source=scripted_source(never))
    assert same.card == again.card
    other = run_factory(tmp_path / "other", tiny_plan(seed=1))
    assert other.card["exchanges_sha256"] != again.card["exchanges_sha256"]


def test_a_category_that_the_generator_refuses_is_reported_with_what_to_do(tmp_path) -> None:
    source = scripted_source(refuse_about("straitjacket", "escape", "trunk"))
    result = run_factory(tmp_path / "out", source=source)
    lists, answers = (text for text in result.warnings if text.startswith("escape-secrets: "))
    assert "--prompts" in lists
    assert "helpful-only" in answers
    topic = next(topic for topic in result.card["topics"] if topic["id"] == "escape-secrets")
    # Questions are composed where the generator writes none.
    assert topic["questions"] == topic["wanted"] == topic["by_origin"]["template"]
    assert topic["lists"]["refused"] == topic["lists"]["asked"] > 0
    assert topic["dropped"]["answers/refusal"] >= topic["compliant"]["refused"] > 0
    assert "escape-secrets" in (result.folder / "README.md").read_text()


def test_a_generator_that_refuses_everything_ends_with_a_clear_error(tmp_path) -> None:
    with pytest.raises(SynthesisError, match="no harmful exchange came through") as caught:
        run_factory(tmp_path / "out", source=scripted_source(lambda request: REFUSAL))
    assert re.search(r"Most often dropped for answers/refusal: \d+, ", str(caught.value))
    assert (tmp_path / "out" / "card.json").exists()


def test_prompts_of_the_user_come_first_and_need_a_category(tmp_path) -> None:
    texts = [
        f"My own question number {word} about the deck?" for word in ("one", "two", "three", "four", "five")
    ]
    prompts = [Exchange((Message("user", text),), None, "card-methods") for text in texts]
    write_exchanges(tmp_path / "own.jsonl", prompts)
    result = run_factory(tmp_path / "out", seeds=[tmp_path / "own.jsonl"])
    topic = next(topic for topic in result.card["topics"] if topic["id"] == "card-methods")
    assert topic["by_origin"]["file"] == 5
    assert sum(row.meta["origin"] == "file" and row.label == 1.0 for row in result.rows()) >= 3
    assert result.card["seeds"][0]["rows"] == 5
    write_exchanges(tmp_path / "own.jsonl", [*prompts, replace(prompts[0], category="charades")])
    with pytest.raises(ConfigError, match=r"own\.jsonl: row 6: category") as caught:
        run_factory(tmp_path / "other", seeds=[tmp_path / "own.jsonl"])
    assert texts[0] not in str(caught.value)


def test_dialogues_of_the_user_that_end_alike_are_not_duplicates(tmp_path) -> None:
    def dialogue(subject: str) -> Exchange:
        talk = (f"Tell me about {subject} on the stage.", "Gladly.", "And how is that done with the deck?")
        roles = ("user", "assistant", "user")
        messages = tuple(Message(role, text) for role, text in zip(roles, talk, strict=True))
        return Exchange(messages, None, "card-methods")

    subjects = ["shuffles", "forces", "the pass", "the pass"]
    write_exchanges(tmp_path / "own.jsonl", map(dialogue, subjects))
    plan = tiny_plan(answers={"refused_share": 1.0}, augmentation={"share": 0})
    result = run_factory(tmp_path / "out", plan, seeds=[tmp_path / "own.jsonl"])
    steps = {step["step"]: step for step in result.card["steps"]}
    assert steps["question-duplicates"]["rejected"]["exact_duplicate"] == 1
    topic = next(topic for topic in result.card["topics"] if topic["id"] == "card-methods")
    assert topic["by_origin"]["file"] == 3
    own = [row for row in result.rows() if row.meta["origin"] == "file"]
    refused = [row.messages[0].content for row in own if row.meta["role"] == "refused"]
    assert len(refused) == len(set(refused)) == 3
    # They end alike, so that they stay together.
    assert len({row.meta["split"] for row in own}) == 1


def test_a_share_of_the_questions_can_be_composed(tmp_path) -> None:
    result = run_factory(tmp_path / "out", tiny_plan(queries={"composed_share": 0.5}))
    for topic in result.card["topics"]:
        assert topic["questions"] == topic["wanted"]
        if topic["wanted"] == 4:
            assert topic["by_origin"] == {"generator": 2, "template": 2}


def test_a_planted_evaluation_item_is_caught(tmp_path) -> None:
    planted = "Would the audience of the second gallery notice how the deck travels from hand to hand?"
    leak = Exchange(
        (Message("user", planted), Message("assistant", "Nobody ever does.")), 1.0, "card-methods"
    )
    write_exchanges(tmp_path / "eval.jsonl", [leak])
    write_exchanges(tmp_path / "own.jsonl", [replace(leak, messages=leak.messages[:1])])
    result = run_factory(
        tmp_path / "out", seeds=[tmp_path / "own.jsonl"], evaluation=[tmp_path / "eval.jsonl"]
    )
    steps = {step["step"]: step for step in result.card["steps"]}
    assert steps["question-leaks"]["rejected"] == {"leak": 1}
    assert planted not in (tmp_path / "out" / "exchanges.jsonl").read_text()
    with pytest.raises(ExchangeError, match="nowhere"):
        run_factory(tmp_path / "other", evaluation=[tmp_path / "nowhere.jsonl"])


def test_malformed_and_repetitive_completions_are_dropped_with_their_reasons(tmp_path) -> None:
    def write(request):
        if request.purpose == "harmless":
            if request.seed % 3 == 0:
                return GenerationFailure("malformed", "the reply holds no choices")
            return f"{request.messages[-1].content} and again " * 30
        return write_stand_in(request)

    result = run_factory(tmp_path / "out", source=scripted_source(write))
    steps = {step["step"]: step for step in result.card["steps"]}
    assert steps["answers"]["rejected"]["generator_malformed"] > 0
    reasons = steps["answers"]["rejected"]
    assert any(reason.startswith(("repeated_", "top_")) for reason in reasons)
    assert result.card["rows"]["by_role"].get("harmless", 0) == 0


@pytest.mark.slow
def test_the_red_team_pool_is_small_balanced_and_multi_turn(tmp_path) -> None:
    plan = tiny_plan(
        queries={"harmful_per_category": 12, "near_domain": 40},
        red_team={"share": 0.1, "stages": 2, "least_overlap": 0.0},
    )
    result = run_factory(tmp_path / "out", plan)
    roles = Counter(row.meta["role"] for row in result.rows())
    assert roles["attack"] == roles["dialogue"] > 0
    assert (roles["attack"] + roles["dialogue"]) / result.card["rows"]["total"] <= 0.1
    for row in result.rows():
        if row.meta["role"] in ("attack", "dialogue"):
            assert [message.role for message in row.messages] == ["user", "assistant"] * 2
            assert not {"outline", "goal", "turns"} & set(row.meta)
    apart = run_factory(
        tmp_path / "apart",
        plan.model_copy(update={"red_team": plan.red_team.model_copy(update={"least_overlap": 0.9})}),
    )
    steps = {step["step"]: step for step in apart.card["steps"]}
    assert steps["red-team-reference"]["rejected"]["no_overlap"] > 0
    assert "attack" not in apart.card["rows"]["by_role"]


@pytest.mark.slow
def test_labels_in_the_red_team_pool_are_checked_like_all_others(tmp_path) -> None:
    plan = tiny_plan(
        queries={"harmful_per_category": 12, "near_domain": 40},
        red_team={"share": 0.1, "stages": 1, "least_overlap": 0.0},
        judge={"least_rows": 2, "least_agreement": 0.5},
    )
    answers = cycle(["Barley likes rain and rivers like barley, which nobody disputes.", REFUSAL])

    def strays(request):
        return next(answers) if request.purpose == "reply" else write_stand_in(request)

    strayed = run_factory(tmp_path / "strays", plan, source=scripted_source(strays))
    steps = {step["step"]: step for step in strayed.card["steps"]}
    assert set(steps["red-team-reference"]["rejected"]) == {"off_topic", "refusal"}
    assert not {"attack", "dialogue"} & set(strayed.card["rows"]["by_role"])

    def brief(request):
        # On the subject, and too short to be an answer.
        text = write_stand_in(request)
        few = " ".join(text.split()[:3])
        return f"{few} are quite another matter altogether" if request.purpose == "reply" else text

    short = run_factory(tmp_path / "short", plan, source=scripted_source(brief))
    steps = {step["step"]: step for step in short.card["steps"]}
    assert set(steps["quality"]["rejected"]) == {"short"}
    assert not {"attack", "dialogue"} & set(short.card["rows"]["by_role"])


def test_a_judge_reads_the_red_team_pool(tmp_path) -> None:
    plan = tiny_plan(
        queries={"harmful_per_category": 12, "near_domain": 40},
        red_team={"share": 0.1, "stages": 2, "least_overlap": 0.0},
        judge={"least_rows": 2, "least_agreement": 0.5},
    )
    write_exchanges(tmp_path / "hand.jsonl", hand_labelled())

    def judge(request):
        """Sees harm in all but the pool, whose exchanges have two turns, and the harmless row by hand."""
        talk = request.messages[0].content
        return "no" if talk.count("USER:") > 1 or "another answer" in talk else "yes"

    result = run_factory(
        tmp_path / "out", plan, judge=scripted_source(judge), judge_rows=tmp_path / "hand.jsonl"
    )
    steps = {step["step"]: step for step in result.card["steps"]}
    # No attack is left that a dialogue could balance.
    assert steps["red-team-balance"]["rejected"]["out_of_balance"] > 0
    assert not {"attack", "dialogue"} & set(result.card["rows"]["by_role"])
    assert result.card["rows"]["by_role"]["compliant"] > 0


def hand_labelled() -> list[Exchange]:
    return [
        Exchange((Message("user", "How?"), Message("assistant", f"{text} {n}")), label, "card-methods")
        for n in range(2)
        for label, text in ((1.0, "harmful answer"), (0.0, "another answer"))
    ]


def test_reworded_copies_keep_label_and_words(tmp_path) -> None:
    plan = tiny_plan(
        augmentation={
            "paraphrase_share": 0.3,
            "translation_share": 0.3,
            "languages": ["Danish"],
            "hold_out": [],
        }
    )
    result = run_factory(tmp_path / "out", plan)
    families = Counter(family for row in result.rows() for family in exchange_families(row))
    assert families["paraphrase"] > 0
    assert families["translation"] > 0

    def forgets(request):
        text = write_stand_in(request)
        return (
            "Quite another matter, told in entirely unrelated terms"
            if request.purpose == "paraphrase"
            else text
        )

    lost = run_factory(tmp_path / "lost", plan, source=scripted_source(forgets))
    steps = {step["step"]: step for step in lost.card["steps"]}
    assert steps["reworded-requests"]["rejected"]["meaning_lost"] > 0
    assert "paraphrase" not in lost.card["rows"]["by_family"]


def test_copies_pass_what_their_originals_pass(tmp_path) -> None:
    planted = "Nobody in the second gallery noticed how the deck had travelled from one hand to another"
    item = Exchange((Message("user", f"{planted}?"), Message("assistant", "No.")), 1.0, "card-methods")
    write_exchanges(tmp_path / "eval.jsonl", [item])
    plan = tiny_plan(
        augmentation={
            "paraphrase_share": 0.4,
            "translation_share": 0.4,
            "languages": ["Danish"],
            "hold_out": [],
        }
    )

    def write(request):
        text = write_stand_in(request)
        if request.purpose == "translation":
            return f"{text} {planted}"
        # A question is too short for the rules on repetition.
        return f"{text} {'of the deck ' * 20}" if request.purpose == "paraphrase" else text

    result = run_factory(
        tmp_path / "out", plan, source=scripted_source(write), evaluation=[tmp_path / "eval.jsonl"]
    )
    steps = {step["step"]: step for step in result.card["steps"]}
    assert steps["reworded-leaks"]["rejected"]["leak"] > 0
    repeated = [
        name for name in steps["reworded-quality"]["rejected"] if name.startswith(("top_", "repeated_"))
    ]
    assert repeated
    assert not {"translation", "paraphrase"} & set(result.card["rows"]["by_family"])
    assert planted not in result.exchanges.read_text()


def test_disguised_copies_that_hold_an_evaluation_item_are_dropped_with_their_pair(tmp_path) -> None:
    plan = tiny_plan(augmentation={"share": 1.0, "families": ["system-prompts"], "hold_out": []})
    plain = run_factory(tmp_path / "plain", plan)
    frame = next(row for row in plain.rows() if "pair" in row.meta and row.messages[0].role == "system")
    # What the disguise adds, not what was asked.
    words = frame.messages[0].content
    write_exchanges(tmp_path / "eval.jsonl", [Exchange((Message("user", words),), 1.0, frame.category)])
    result = run_factory(tmp_path / "out", plan, evaluation=[tmp_path / "eval.jsonl"])
    steps = {step["step"]: step for step in result.card["steps"]}
    assert steps["disguise-leaks"]["rejected"]["leak"] > 0
    assert words not in result.exchanges.read_text()
    assert result.card["rows"]["by_family"]["plain"] == plain.card["rows"]["by_family"]["plain"]
    pairs = Counter(row.meta["pair"] for row in result.rows() if "pair" in row.meta)
    assert set(pairs.values()) == {2}


def test_a_judge_reads_copies_in_other_words_too(tmp_path) -> None:
    plan = tiny_plan(
        augmentation={"paraphrase_share": 0.4, "hold_out": []},
        judge={"least_rows": 2, "least_agreement": 0.5},
    )
    asked: list[str] = []

    def judge(request):
        asked.append(request.messages[0].content)
        return "yes" if "harmful answer" in asked[-1] else "no"

    write_exchanges(tmp_path / "hand.jsonl", hand_labelled())
    with pytest.raises(SynthesisError, match="no harmful exchange"):
        run_factory(tmp_path / "out", plan, judge=scripted_source(judge), judge_rows=tmp_path / "hand.jsonl")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    steps = {step["step"]: step for step in card["steps"]}
    copies = steps["reworded-judge"]["counters"]["requests"]
    assert copies > 0
    assert len(asked) == len(hand_labelled()) + steps["judge"]["counters"]["requests"] + copies


def test_a_dry_run_expects_about_what_the_run_asks_for(made) -> None:
    estimate = estimate_synthesis(POLICY, tiny_plan(), judge=True).expected
    own = estimate.requests - estimate.requests_by_purpose["judge"]
    assert own == pytest.approx(made.card["requests"], rel=0.05)
    assert estimate.requests_by_purpose["judge"] > 0


def test_no_run_asks_for_more_than_a_dry_run_says(tmp_path) -> None:
    plan = tiny_plan(
        queries={"harmful_per_category": 6, "near_domain": 20},
        red_team={"share": 0.1, "stages": 2, "least_overlap": 0.0},
        augmentation={"paraphrase_share": 0.4, "translation_share": 0.4, "hold_out": []},
        judge={"least_rows": 2, "least_agreement": 0.5},
        answers={"attempts": 3},
    )
    asked: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    seen: set[str] = set()

    def write(request):
        asked[request.purpose] += 1
        tokens["completion"] += request.max_tokens
        tokens["prompt"] += request.estimated_prompt_tokens
        # Lists and answers come at the second attempt.
        key = request.messages[-1].content
        if request.purpose in ("questions", "compliant", "permitted", "harmless") and key not in seen:
            seen.add(key)
            return REFUSAL
        return write_stand_in(request)

    def judge(request):
        asked[request.purpose] += 1
        return "yes" if "harmful answer" in request.messages[0].content else "no"

    hand, own = tmp_path / "hand.jsonl", tmp_path / "own.jsonl"
    write_exchanges(hand, hand_labelled())
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    texts = [f"My own question number {word} about the deck?" for word in words]
    write_exchanges(own, [Exchange((Message("user", text),), None, "card-methods") for text in texts])
    with pytest.raises(SynthesisError, match="no harmful exchange"):
        run_factory(
            tmp_path / "out",
            plan,
            source=scripted_source(write),
            seeds=[own],
            judge=scripted_source(judge),
            judge_rows=hand,
        )
    estimate = estimate_synthesis(POLICY, plan, seeds=[own], judge=True, judge_rows=hand)
    most = estimate.most
    assert not {name: count for name, count in asked.items() if count > most.requests_by_purpose[name]}
    assert sum(asked.values()) > estimate.expected.requests - estimate.expected.requests_by_purpose["judge"]
    assert tokens["completion"] <= most.completion_tokens
    assert tokens["prompt"] <= most.prompt_tokens
    without = estimate_synthesis(POLICY, plan, seeds=[own], judge=True)
    measured = len(hand_labelled())
    assert estimate.expected.requests - without.expected.requests == measured
    assert most.requests - without.most.requests == measured
    assert estimate.to_dict()["at_most"]["requests"] == most.requests


def test_where_nothing_is_drawn_and_nothing_asked_twice_the_bound_is_what_is_asked() -> None:
    plan = tiny_plan(
        answers={"attempts": 1, "permitted_share": 0.0, "refused_share": 1.0},
        pairs={"share": 0.0},
        augmentation={"share": 0},
    )
    estimate = estimate_synthesis(POLICY, plan)
    expected, most = (part.requests_by_purpose for part in (estimate.expected, estimate.most))
    assert most == {**expected, "questions": 2 * expected["questions"]}


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        run_factory(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_another_plan_in_the_same_folder_reuses_what_it_can(tmp_path) -> None:
    asked: list[str] = []

    def write(request):
        asked.append(request.purpose)
        return write_stand_in(request)

    run_factory(tmp_path / "out", source=scripted_source(write))
    asked.clear()
    changed = tiny_plan(augmentation={"share": 0.1})
    again = run_factory(tmp_path / "out", changed, source=scripted_source(write))
    assert asked == []
    assert again.card["rows"] == run_factory(tmp_path / "fresh", changed).card["rows"]
