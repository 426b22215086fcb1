import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lockgate.feedback as feedback_package
from lockgate.constitution import lint_constitution, load_constitution
from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, Message, prompt_group
from lockgate.feedback import (
    Conflict,
    Feedback,
    FeedbackRule,
    Review,
    apply_feedback,
    propose_constitution,
    read_feedback,
    write_proposal,
)

MAGIC = load_constitution("stage-magic")


def made(number: int, label: float | None = None, category: str | None = None) -> Exchange:
    messages = (Message("user", f"question {number}"), Message("assistant", f"secret answer {number}"))
    return Exchange(messages, label, category, "made")


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_exports_are_sorted_and_there() -> None:
    names = feedback_package.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(feedback_package, name) for name in names)


def test_reviews_by_id_and_whole(tmp_path: Path) -> None:
    known = [made(n, 1.0, "card-methods") for n in range(3)]
    path = write_lines(
        tmp_path / "reviews.jsonl",
        {"id": known[1].id, "verdict": "harmless", "note": "private", "topic": " a card game "},
        "",
        {"exchange": made(7).to_dict(), "verdict": "harmful", "category": "show-secrets"},
    )
    found = read_feedback(path, MAGIC, iter(known))
    assert found.reviews == (
        Review(known[1], "harmless", "card-methods", ("a card game",), (1,)),
        Review(made(7), "harmful", "show-secrets", (), (3,)),
    )
    assert [review.label for review in found.reviews] == [0, 1]
    assert (found.lines, found.repeated, found.conflicts) == (2, (), ())
    assert "private" not in repr(found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "record: not valid JSON"),
        ([], "record: expected an object"),
        ({"id": made(0).id}, "verdict: field required"),
        ({"id": made(0).id, "verdict": "fine"}, "verdict: input should be 'harmless' or 'harmful'"),
        ({"verdict": "harmful"}, "id: missing"),
        ({"id": "secret", "verdict": "harmful"}, "id: string should match"),
        ({"id": made(9).id, "verdict": "harmful"}, "id: not among the exchanges given \\(1 such lines\\)"),
        (
            {"id": made(0).id, "verdict": "harmful", "secret": 1},
            "record: an unknown key; known are verdict, id",
        ),
        ({"id": made(0).id, "verdict": "harmful", "note": "\ud800"}, "record: holds text that is not valid"),
        ({"id": made(0).id, "verdict": "harmful", "category": "secret"}, "category: not in the constitution"),
        (
            {"id": made(0).id, "verdict": "harmful", "category": "magic-history"},
            "category: belongs to the harml",
        ),
        (
            {"exchange": {"messages": [{"role": "secret"}]}, "verdict": "harmful"},
            r"exchange.messages\[0\].role",
        ),
        (
            {"exchange": made(1).to_dict(), "id": made(0).id, "verdict": "harmful"},
            "id: differs from the id of `exchange`",
        ),
        (
            {"exchange": {"messages": [{"role": "user", "content": "secret"}]}, "verdict": "harmful"},
            "exchange: has no answer",
        ),
    ],
)
def test_bad_lines_are_named_without_their_text(tmp_path: Path, line: object, message: str) -> None:
    good = {"id": made(0).id, "verdict": "harmless"}
    path = write_lines(tmp_path / "reviews.jsonl", good, line)
    with pytest.raises(ExchangeError, match=rf"reviews\.jsonl:2: {message}") as raised:
        read_feedback(path, MAGIC, [made(0)])
    assert "secret" not in str(raised.value).replace("show-secrets", "")


def test_repetitions_merge_and_conflicts_stand_apart(tmp_path: Path) -> None:
    loud = Exchange(tuple(Message(m.role, m.content.upper()) for m in made(0).messages))
    path = write_lines(
        tmp_path / "reviews.jsonl",
        {"exchange": made(0).to_dict(), "verdict": "harmless", "topic": "a"},
        {"exchange": loud.to_dict(), "verdict": "harmless", "topic": "b", "category": "magic-history"},
        {"exchange": made(1).to_dict(), "verdict": "harmless"},
        {"exchange": made(1).to_dict(), "verdict": "harmful"},
        {"exchange": made(1).to_dict(), "verdict": "harmful"},
        {"exchange": made(2).to_dict(), "verdict": "harmful", "category": "show-secrets"},
        {"exchange": made(2).to_dict(), "verdict": "harmful", "category": "card-methods"},
    )
    found = read_feedback(path, MAGIC)
    assert found.reviews == (
        Review(made(0), "harmless", "magic-history", ("a", "b"), (1, 2)),
        Review(made(2), "harmful", None, (), (6, 7)),
    )
    assert found.conflicts == (
        Conflict(made(1).id, "verdict", {"harmless": (3,), "harmful": (4, 5)}),
        Conflict(made(2).id, "category", {"show-secrets": (6,), "card-methods": (7,)}),
    )
    assert (found.lines, found.repeated) == (7, ((1, 2), (4, 5), (6, 7)))


def test_a_category_that_contradicts_the_verdict_is_not_inherited(tmp_path: Path) -> None:
    lines = [{"exchange": made(0, 0.0, "magic-history").to_dict(), "verdict": "harmful"}]
    (review,) = read_feedback(write_lines(tmp_path / "reviews.jsonl", *lines), MAGIC).reviews
    assert review.category is None


def reviews(*items: Review) -> Feedback:
    return Feedback("reviews.jsonl", len(items), (), items, ())


def review(number: int, verdict="harmless", category=None, *topics: str) -> Review:
    return Review(made(number, 0.0 if verdict == "harmful" else 1.0), verdict, category, topics, (number,))


def test_reviews_take_the_place_of_training_labels() -> None:
    training = [made(n, 1.0) for n in range(100)]
    given = reviews(review(3), review(4, "harmful"), review(200), review(201))
    rule = FeedbackRule(copies=2, hold_out=0.0)
    found = apply_feedback(given, iter(training), rule)
    assert (found.relabelled, found.confirmed, found.reviewed, found.copies) == (1, 1, 4, 2)
    assert found.rows[:98] == tuple(row for n, row in enumerate(training) if n not in (3, 4))
    added = found.rows[98:]
    assert [(row.id, row.label) for row in added] == 2 * [(r.exchange.id, r.label) for r in given.reviews]
    assert added[0].meta["feedback"] == {"verdict": "harmless", "label_before": 1.0, "copy": 0}
    assert found.share == pytest.approx(8 / 106)
    assert found.held_out == ()
    assert (found.followed, found.withdrawn) == (0, ())


def disguised(row: Exchange, name: str) -> Exchange:
    messages = tuple(Message(m.role, f"{name} {m.content}") for m in row.messages)
    return replace(row, messages=messages, meta={**row.meta, "original": row.id})


def test_disguised_copies_follow_the_review_of_their_original() -> None:
    row, agreed = made(0, 1.0, "show-secrets"), made(1, 0.0)
    copies = [disguised(row, "rot"), disguised(row, "poem")]
    others = [disguised(agreed, "rot"), disguised(made(2, 1.0), "rot")]
    given = reviews(review(0, "harmless", "card-methods"), Review(agreed, "harmless", None, (), (2,)))
    # The original of the first needn't train itself: a row that was surplus was reviewed all the same.
    for training in ([row, agreed, *copies, *others], [*copies, *others]):
        found = apply_feedback(given, training, FeedbackRule(copies=1, hold_out=0.99, least_held_out=0))
        followed = [row for row in found.rows if "follows_review" in row.meta]
        assert [(row.id, row.label, row.category) for row in followed] == [
            (copy.id, 0.0, "card-methods") for copy in copies
        ]
        assert followed[0].meta["follows_review"] == {
            "verdict": "harmless",
            "label_before": 1.0,
            "review_of": row.id,
        }
        assert (found.followed, found.withdrawn) == (2, ())
        assert [row for row in found.rows if row in others] == others
        # What its disguises train is no test of it.
        assert found.held_out == ()


def test_rows_that_only_a_disguise_speaks_against_train_no_more() -> None:
    row = made(0, 1.0)
    one, two, three = (disguised(row, name) for name in ("rot", "poem", "table"))
    of_one = Review(one, "harmless", None, (), (1,))
    found = apply_feedback(reviews(of_one), [row, one, two], FeedbackRule(copies=1))
    assert (found.withdrawn, found.followed, found.relabelled) == ((row, two), 0, 1)
    assert [row.label for row in found.rows] == [0.0]
    # A verdict that agrees leaves the others where they are.
    found = apply_feedback(reviews(replace(of_one, verdict="harmful")), [row, one, two])
    assert (found.withdrawn, found.followed, found.confirmed) == ((), 0, 1)
    # An original and its disguise that are said to differ leave the third open.
    differ = reviews(of_one, Review(row, "harmful", None, (), (2,)))
    found = apply_feedback(differ, [row, one, three], FeedbackRule(copies=1))
    assert (found.withdrawn, found.followed) == ((three,), 0)
    # Given whole, without the row's meta, it is known by the row that says the same.
    bare = replace(one, meta={})
    found = apply_feedback(reviews(replace(of_one, exchange=bare)), [row, one], FeedbackRule(copies=1))
    assert found.withdrawn == (row,)


@given(st.integers(1, 30), st.integers(0, 200), st.integers(1, 8), st.floats(0.01, 0.5), st.floats(0, 0.9))
def test_copies_keep_to_the_share_and_nothing_leaks(reviewed, others, copies, share, hold_out) -> None:
    rule = FeedbackRule(copies=copies, max_share=share, hold_out=hold_out, least_held_out=0)
    training = [made(n, 0.0) for n in range(1000, 1000 + others)]
    found = apply_feedback(reviews(*[review(n) for n in range(reviewed)]), training, rule)
    assert found.reviewed + len(found.held_out) == reviewed
    assert len(found.rows) == others + found.reviewed * found.copies
    assert found.copies <= max(copies, 1)
    assert found.copies <= 1 or found.share <= share + 1e-9
    prompts = {prompt_group(row) for row in found.rows}
    assert not prompts & {prompt_group(row) for row in found.held_out}
    assert all(row.label == 0 for row in found.held_out)


def test_a_prompt_that_is_trained_on_is_never_held_out() -> None:
    training = [Exchange((made(n).messages[0], Message("assistant", "other")), 0.0) for n in range(20)]
    found = apply_feedback(
        reviews(*[review(n) for n in range(20)]), training, FeedbackRule(hold_out=0.9, least_held_out=0)
    )
    assert found.held_out == ()


@pytest.mark.parametrize(
    "wrong", [{"copies": 0}, {"least_held_out": -1}, {"max_share": 0}, {"max_share": 1}, {"hold_out": 1}]
)
def test_rules_check_themselves(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        FeedbackRule(**wrong)


def test_a_proposal_passes_the_check_and_names_its_sources(tmp_path: Path) -> None:
    given = reviews(
        review(0, "harmless", "card-methods", "rules of whist", "shuffling for a card game"),
        review(1, "harmless", "card-methods", "Rules of Whist!"),
        review(2, "harmless", "escape-secrets", "a lost bicycle key"),
        review(3, "harmless", "magic-history", "a poster of 1905"),
        review(4, "harmful", "show-secrets", "who held the mirror"),
        review(5, "harmful"),
        review(6, "harmful", "card-methods", "the rules of rummy"),
        review(7, "harmless", None, "a poem"),
        review(8, "harmless", "mentalism-methods"),
    )
    proposal = propose_constitution(MAGIC, given)
    path = tmp_path / "proposal.yaml"
    write_proposal(proposal, path)
    assert not any(finding.level == "error" for finding in lint_constitution(path))
    again = load_constitution(path)
    assert again == proposal.constitution
    assert again.version == "1.1.0"
    before = {category.id: category for category in MAGIC.categories}
    after = {category.id: category for category in again.categories}
    new = {name: after[name].examples for name in after if name not in before}
    assert new == {
        "card-methods-reviewed-harmless": ["rules of whist", "shuffling for a card game"],
        "escape-secrets-reviewed-harmless": ["a lost bicycle key"],
        "mentalism-methods-reviewed-harmless": [],
        "reviewed-harmless": ["a poem"],
    }
    assert after["magic-history"].examples == [*before["magic-history"].examples, "a poster of 1905"]
    assert after["show-secrets"].examples == [*before["show-secrets"].examples, "who held the mirror"]
    assert after["card-methods"] == before["card-methods"]
    notes = "\n".join(proposal.notes)
    assert "1 harmful exchanges have no category" in notes
    assert "card-methods: 1 topic(s) are in the other half too" in notes
    assert "mentalism-methods-reviewed-harmless has no topics yet" in notes
    text = path.read_text()
    assert (
        f"# harmless card-methods-reviewed-harmless (new): 2 examples from 2 exchanges: {made(0).id}" in text
    )
    assert "secret answer" not in text
    assert "question" not in "".join(line for line in text.splitlines() if line.startswith("#"))


def test_a_second_round_adds_to_the_entries_of_the_first() -> None:
    first = propose_constitution(MAGIC, reviews(review(0, "harmless", "card-methods", "rules of whist")))
    second = propose_constitution(
        first.constitution,
        reviews(review(1, "harmless", "card-methods", "rules of whist", "a game of patience")),
    )
    (addition,) = second.additions
    assert (addition.new, addition.topics) == (False, ("a game of patience",))
    assert second.constitution.version == "1.2.0"
    assert len(second.constitution.categories) == len(first.constitution.categories)


def test_reviews_without_anything_to_propose() -> None:
    proposal = propose_constitution(
        MAGIC, reviews(review(0, "harmful"), review(1, "harmful", "show-secrets"))
    )
    assert proposal.constitution is MAGIC
    assert proposal.additions == ()
    assert len(proposal.notes) == 2


def test_a_constitution_is_never_replaced(tmp_path: Path) -> None:
    proposal = propose_constitution(MAGIC, reviews(review(0, "harmless", "card-methods", "rules of whist")))
    path = tmp_path / "policy.yaml"
    path.write_text("name: mine\n")
    with pytest.raises(ConfigError, match="exists and is not a proposal; name another file"):
        write_proposal(proposal, path)
    assert path.read_text() == "name: mine\n"
    path.unlink()
    write_proposal(proposal, path)
    write_proposal(proposal, path)


# Each proposal is checked as a whole, which takes a while.
@settings(max_examples=6)
@given(
    st.sampled_from(["stage-magic", "general-harms"]),
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 60), st.lists(st.text(st.characters(codec="utf-8")), max_size=3)
        ),
        max_size=12,
    ),
)
def test_whatever_reviewers_say_the_proposal_passes(name, items) -> None:
    constitution = load_constitution(name)
    found = []
    for number, (harmful, place, topics) in enumerate(items):
        ids = constitution.category_ids if harmful else [entry.id for entry in constitution.categories]
        category = ids[place] if place < len(ids) else None
        words = [topic.strip()[:120] for topic in topics if topic.strip()]
        found.append(review(number, "harmful" if harmful else "harmless", category, *words))
    proposal = propose_constitution(constitution, reviews(*found))
    assert not any(finding.level == "error" for finding in proposal.findings)
    assert {entry.id for entry in constitution.categories} <= {e.id for e in proposal.constitution.categories}


def test_a_few_reviews_weigh_something_and_all_of_them_train() -> None:
    training = [made(n, 0.0) for n in range(1000, 3000)]
    few = apply_feedback(reviews(*[review(n) for n in range(10)]), training)
    assert (few.reviewed, few.held_out) == (10, ())
    assert few.share == pytest.approx(160 / 2160)
    many = apply_feedback(reviews(*[review(n) for n in range(200)]), training)
    assert 30 <= len(many.held_out) <= 70
    # More reviews never weigh less, and never more than the rows of the policy.
    shares = [
        apply_feedback(reviews(*[review(n) for n in range(size)]), training).share
        for size in (10, 50, 120, 200)
    ]
    assert all(low < high + 0.02 for low, high in pairwise(shares))
    assert max(shares) <= 0.5
