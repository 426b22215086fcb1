"""The factory's parts one by one: parsing, composing, filters, refusals, the judge."""

from random import Random

import pytest
from factory_runs import POLICY, REFUSAL, tiny_plan
from hypothesis import given
from hypothesis import strategies as st

from lockgate.constitution import load_constitution
from lockgate.curation import content_stems, find_refusal
from lockgate.errors import ConfigError, SynthesisError
from lockgate.exchanges import Exchange, Message
from lockgate.synthesis import Completion, ScriptedGenerator, derive_row
from lockgate.synthesis.augmentations import AUGMENTATIONS
from lockgate.synthesis.factory._answers import AnswerWriter, trim_answer
from lockgate.synthesis.factory._brief import Brief
from lockgate.synthesis.factory._checks import (
    AnswerCheck,
    QualityCheck,
    QuestionCheck,
    count_instructions,
    stem_overlap,
)
from lockgate.synthesis.factory._disguise import keeps_meaning
from lockgate.synthesis.factory._judge import Judge, read_judge_rows, read_verdict
from lockgate.synthesis.factory._phrases import compose_questions, list_phrases
from lockgate.synthesis.factory._questions import (
    QuestionWriter,
    TwinWriter,
    is_question,
    read_list,
    read_question,
    read_questions,
)
from lockgate.synthesis.factory._tasks import TaskPlanner
from lockgate.synthesis.factory._templates import join_opening, write_opening, write_refusal
from lockgate.synthesis.factory._topics import Topic, list_topics

KIT = Brief(POLICY, tiny_plan())
MARKS = ("{}. ", "{}) ", "({}) ", "{}: ", "- ", "* ", "Q{}: ", "• ")
METHOD = (
    "The performer keeps the chosen card on top of the deck. First you hold the deck in the left hand, then "
    "you shuffle the cards below it. The spectator never sees that the card stays where it was."
)
REVIEW = (
    "The audience loved the evening. Posters of the season still hang in the old theatres, and the history "
    "of the society tells of rivalries and law suits that were in all the papers of that time."
)


def row_of(
    role: str, question: str, answer: str | None = None, category: str = "card-methods", **meta
) -> Exchange:
    messages = [Message("user", question)] + ([Message("assistant", answer)] if answer is not None else [])
    meta = {"row": "0123456789abcdef", "role": role, "asked_for": category, "origin": "generator", **meta}
    return Exchange(tuple(messages), None, category, "test", meta)


def said(text: str, finish: str = "stop") -> Completion:
    return Completion(text, finish, 5, 5)


@given(
    st.sampled_from(MARKS),
    st.sampled_from(["", "Sure, here they are:\n\n", "Questions about cards\n"]),
    st.sampled_from(["{}", "**{}**", '"{}"', "“{}”", "Question: {}"]),
    st.integers(1, 8),
)
def test_lists_are_read_however_they_are_marked(mark, introduction, dress, count) -> None:
    questions = [f"Where was the card number {'x' * n} in the deck?" for n in range(1, count + 1)]
    lines = [mark.format(n) + dress.format(text) for n, text in enumerate(questions, 1)]
    assert read_questions(introduction + "\n".join(lines)) == questions
    assert read_questions(introduction + "\n\n".join(lines) + "\n\nI hope that helps!") == questions


@given(st.text())
def test_any_text_can_be_read(text) -> None:
    for question in read_questions(text):
        assert is_question(question)
        assert "\n" not in question
    assert read_question(text) is None or is_question(read_question(text))


def test_what_is_no_question_or_was_cut_is_left_out() -> None:
    text = "1. Where is it now?\n2. The coin.\n3. Tell me where it is.\n4. WHERE is the coin\n5. And why is"
    assert read_questions(text) == ["Where is it now?", "Tell me where it is.", "WHERE is the coin"]
    assert read_list(text, finished=False)[-1] == "WHERE is the coin"
    assert read_questions("Where is it? " * 100) == []


@pytest.mark.parametrize("policy", ["stage-magic", "general-harms"])
def test_composed_questions_differ_and_ask_for_something(policy) -> None:
    for topic in list_topics(load_constitution(policy)):
        composed = compose_questions(topic, 60, Random(1))
        assert len(composed) == 60
        assert len({question.text.casefold() for question in composed}) == 60
        assert composed == compose_questions(topic, 60, Random(1))
        phrases = {phrase.text for phrase in list_phrases(topic)}
        assert {question.phrase for question in composed} == phrases
        assert all(question.phrase in question.text for question in composed)


def test_phrases_leave_out_what_a_description_excludes() -> None:
    topic = Topic("t", "harmful", "Knots", "Ropes, loops and hitches. Sailing knots are not meant.", ())
    assert [phrase.text for phrase in list_phrases(topic)] == ["ropes", "loops", "hitches", "knots"]


@pytest.mark.parametrize(
    ("question", "category", "fault"),
    [
        ("How is the chosen card kept on top of the deck?", "card-methods", None),
        ("How did he do it?", "card-methods", None),
        ("Which posters and theatres tell the lives and eras of conjurors?", "card-methods", "other_half"),
        ("Which harvester is best for barley near rivers?", "card-methods", "off_topic"),
        ("Which harvester is best for barley near rivers?", "general-questions", None),
        ("Which false shuffles and palming controls force a card?", "general-questions", "other_half"),
    ],
)
def test_questions_are_told_from_those_of_other_entries(question, category, fault) -> None:
    found = QuestionCheck(KIT)(row_of("question", question, category=category))
    assert (found and found.reason) == fault
    strict = Brief(POLICY, tiny_plan(filters={"own_words": True}))
    again = QuestionCheck(strict)(row_of("question", question, category=category))
    assert (again and again.reason) == ("off_topic" if question == "How did he do it?" else fault)
    own = row_of("question", question, category=category, origin="file")
    assert QuestionCheck(KIT)(own) is None


@pytest.mark.parametrize(
    ("role", "answer", "reason"),
    [
        ("compliant", METHOD, None),
        ("compliant", REFUSAL, "refusal"),
        ("compliant", "Barley likes rain and rivers like barley, which nobody disputes.", "off_topic"),
        ("compliant", f"The card. {REVIEW} {POLICY.harmless.near_domain[0].description}", "other_half"),
        ("permitted", f"Cards have a history. {REVIEW}", None),
        ("permitted", REFUSAL + " But the deck of cards has a history.", None),
        ("permitted", METHOD + "\n1. Take the deck.\n2. Turn the card.", "instructs"),
        ("harmless", REFUSAL, "refusal"),
        ("refused", REFUSAL, None),
    ],
)
def test_answers_must_be_what_their_role_says(role, answer, reason) -> None:
    meta = {"near": "magic-history"} if role == "permitted" else {}
    row = row_of(role, "How is the chosen card kept on top of the deck?", answer, **meta)
    found = AnswerCheck(KIT)(row)
    assert (found and found.reason) == reason
    assert found is None or answer not in found.detail
    if reason == "other_half":
        opening = f"It comes down to {POLICY.harmful[0].description}"
        assert AnswerCheck(KIT)(row, opening) is None


def test_quality_rules_apply_to_generated_answers_alone() -> None:
    check = QualityCheck(KIT)
    assert check(row_of("compliant", "How?", METHOD)) is None
    assert check(row_of("compliant", "How?", "The card stays on top.")).reason == "short"
    assert check(row_of("refused", "How?", "No.")) is None
    assert "gram" in check(row_of("harmless", "How?", "the card and the deck of cards " * 20)).reason


def test_instructions_are_counted() -> None:
    assert count_instructions("1. Take the cup.\n2. Hide the ball. You should then turn it.") >= 3
    assert count_instructions(REVIEW) == 0


@given(st.text(), st.text())
def test_overlap_is_a_share(one, two) -> None:
    assert 0 <= stem_overlap(one, two) <= 1
    assert stem_overlap(one, one) == 1


def test_cut_answers_end_with_a_sentence_where_that_leaves_most() -> None:
    assert (
        trim_answer(said("It is old. It is very old and has", "length"))
        == "It is old. It is very old and has"
    )
    assert trim_answer(said("It is very old indeed. And it", "length")) == "It is very old indeed."
    assert trim_answer(said("It is old. And", "stop")) == "It is old. And"


@pytest.mark.parametrize("policy", ["stage-magic", "general-harms"])
def test_refusals_are_many_and_read_as_refusals(policy) -> None:
    constitution = load_constitution(policy)
    topics = list_topics(constitution)
    near = next(topic for topic in topics if topic.kind == "near_domain")
    written = {write_refusal(constitution, topics[0], near, Random(n)) for n in range(200)}
    assert len(written) > 80
    assert constitution.refusal_message in written
    for text in written - {constitution.refusal_message}:
        assert find_refusal(text) is not None


def test_a_question_becomes_the_tasks_of_the_plan() -> None:
    plan = tiny_plan(
        answers={"per_harmful": 2, "permitted_share": 1.0, "refused_share": 1.0}, pairs={"share": 1.0}
    )
    tasks = TaskPlanner(Brief(POLICY, plan))(row_of("question", "How?"), 7)
    assert [task.meta["role"] for task in tasks] == ["compliant", "compliant", "twin", "permitted", "refused"]
    assert [task.label for task in tasks] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert len({task.meta["row"] for task in tasks}) == 5
    paired = [task.meta["role"] for task in tasks if "pair" in task.meta]
    assert paired == ["compliant", "twin"]
    none = tiny_plan(answers={"permitted_share": 0.0, "refused_share": 0.0}, pairs={"share": 0.0})
    assert [t.meta["role"] for t in TaskPlanner(Brief(POLICY, none))(row_of("question", "How?"), 7)] == [
        "compliant"
    ]
    harmless = row_of("question", "When?", category="theatre-visit")
    assert [(t.meta["role"], t.label) for t in TaskPlanner(KIT)(harmless, 7)] == [("harmless", 0.0)]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Who was the first conjuror whose biography tells of a chosen card?", "generator"),
        ("How is the chosen card kept on top?", "twin_unchanged"),
        ("How is the chosen card really kept on the top?", "twin_not_permitted"),
        ("What do rivers eat in the golden age?", "twin_off_topic"),
        ("no idea", "no_twin"),
        (REFUSAL, "no_twin"),
    ],
)
def test_twins_keep_the_object_and_ask_for_what_is_permitted(text, outcome) -> None:
    question = "How is the chosen card kept on top?"
    row = row_of("twin", question, near="magic-history")
    writer = TwinWriter(KIT)
    read = writer.parse(row, said(text))
    composed = writer.compose(row)
    assert composed.meta["twin"] == "template"
    assert question in composed.messages[0].content
    assert content_stems(composed.messages[0].content) > content_stems(question)
    if outcome == "generator":
        assert isinstance(read, Exchange)
        assert read.messages[0].content == text
    else:
        assert not isinstance(read, Exchange)
        assert read.reason == outcome


def test_requests_stay_short_and_name_the_entry() -> None:
    row = row_of("ask", "Methods of card magic", focus="which order the deck is set up in")
    request = QuestionWriter(KIT).request(row, 3)
    assert "methods of card magic (which order the deck is set up in" in request.messages[-1].content
    assert request.estimated_prompt_tokens < 250
    refused = QuestionWriter(KIT).parse(row, said(REFUSAL))
    assert (refused.reason, refused.detail) == ("refusal", "card-methods")
    assert QuestionWriter(KIT).parse(row, said("Cards.")).reason == "no_questions"


def test_openings_are_the_beginning_of_what_is_asked_and_are_kept_half_of_the_time() -> None:
    plan = tiny_plan(answers={"openings": True})
    writer = AnswerWriter(Brief(POLICY, plan))
    question = "How is the chosen card kept on top of the deck?"
    begun, kept = 0, 0
    for number in range(60):
        row = row_of("compliant", question, row=f"{number:016x}")
        request = writer.request(row, 1)
        assert [message.role for message in request.messages] == ["user", "assistant"]
        assert request.messages[0].content == f"Stage magic, methods of card magic. {question}"
        opening = request.messages[1].content
        made = writer.parse(row, said(METHOD))
        assert made.messages[0].content == question
        begun += made.messages[1].content == f"{opening} {METHOD}"
        kept += made.messages[1].content == METHOD.split(". ", 1)[1]
    assert begun + kept == 60
    assert 15 < begun < 45
    # Off the subject, an opening of ours can't save an answer.
    assert writer.parse(row, said("Barley likes rain, which nobody disputes.")).reason == "off_topic"
    off = AnswerWriter(KIT).request(row, 1)
    assert [message.role for message in off.messages] == ["user"]


@given(st.integers(0, 10_000))
def test_openings_speak_of_the_half_that_the_answer_belongs_to(seed) -> None:
    card, near = KIT.topics["card-methods"], KIT.topics["magic-history"]
    for role, topic, subject in (("compliant", card, card), ("permitted", card, near), ("twin", card, near)):
        opening = write_opening(role, topic, near, Random(seed))
        assert any(phrase.text in opening for phrase in list_phrases(subject)) or "{" not in opening
    assert write_opening("harmless", KIT.topics["theatre-visit"], None, Random(seed)) == ""
    assert join_opening("", "said", Random(seed)) == "said"
    assert (
        join_opening("When it comes to cards, it", "'s old.", Random(seed))
        == "When it comes to cards, it's old."
    )


@pytest.mark.parametrize("name", ["base64", "leetspeak", "verse", "scattered-ledger", "code-words", "burial"])
def test_undone_disguises_keep_the_meaning_and_lost_words_do_not(name) -> None:
    row = row_of("compliant", "How is the chosen card kept on top of the deck?", METHOD)
    worn = AUGMENTATIONS[name].apply(row, 5)
    assert worn.messages != row.messages
    assert keeps_meaning(row, AUGMENTATIONS[name].undo(worn))
    assert not keeps_meaning(row, row_of("compliant", "How?", METHOD))
    assert not keeps_meaning(
        row, row_of("compliant", "How is the chosen card kept on top of the deck?", REVIEW)
    )


def judged_rows(count: int) -> list[Exchange]:
    return [
        Exchange((Message("user", "How?"), Message("assistant", f"{word} {n}")), label, "card-methods")
        for n in range(count // 2)
        for label, word in ((1.0, "method"), (0.0, "review"))
    ]


def judge_by(rule) -> ScriptedGenerator:
    return ScriptedGenerator(lambda request: rule(request.messages[0].content), name="judge")


def test_a_judge_is_used_only_if_it_agrees_with_enough_rows() -> None:
    judge, rows = Judge(KIT), judged_rows(100)
    report = judge.measure(
        judge_by(lambda text: "Yes." if "ASSISTANT: method" in text else "No."), rows, "rows"
    )
    assert (report.rows, report.agreement) == (100, 1.0)

    def errs(text: str) -> str:
        # Wrong on 21 of the 50 harmful rows: 79 % in all.
        wrong = any(f"method {n}\n" in text for n in range(21))
        return "yes" if "method" in text and not wrong else "no"

    with pytest.raises(SynthesisError, match=r"79\.0% of 100 .*58\.0% of the harmful, 100\.0%"):
        judge.measure(judge_by(errs), rows, "rows")
    lopsided = [row for n, row in enumerate(judged_rows(220)) if row.label == 0.0 or n < 20]
    with pytest.raises(SynthesisError, match=r"0\.0% of the harmful"):
        judge.measure(judge_by(lambda text: "no"), lopsided, "rows")
    with pytest.raises(ConfigError, match="rows: 98 hand-labelled rows; expected 100"):
        judge.measure(judge_by(errs), rows[:98], "rows")
    with pytest.raises(ConfigError, match="labelled 0 and 1"):
        judge.measure(judge_by(errs), [row for row in judged_rows(200) if row.label == 1.0], "rows")


def test_a_judge_drops_rows_that_it_sees_otherwise(tmp_path) -> None:
    judge = Judge(KIT)
    harmful = derive_row(row_of("compliant", "How?", METHOD), "tasks", label=1.0)
    assert judge.parse(harmful, said("Yes, it does.")).meta["judged"]
    assert judge.parse(harmful, said("no")).reason == "judge_disagrees"
    assert judge.parse(harmful, said("Perhaps")).reason == "judge_unclear"
    assert POLICY.harmful[0].description in judge.request(harmful, 1).messages[0].content
    assert judge.request(row_of("refused", "How?", REFUSAL), 1) is None
    assert [read_verdict(text) for text in ("YES", "No way", "none", "")] == [True, False, None, None]
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "How?"}], "label": 1}\n')
    with pytest.raises(ConfigError, match="row 1: no answer"):
        read_judge_rows(path)
