"""Reviews in real databases: nothing that was said is lost, and what is undone no longer counts."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lockgate.databases import Database
from lockgate.errors import ReviewError
from lockgate.reviews import LONGEST_NOTE, Review, Reviews, open_reviews
from lockgate.reviews._schema import METADATA, REVIEWS_SCHEMA


def review(number=0, reviewer="ann", verdict="harmful", **fields):
    usual = {"tenant": "", "exchange": f"chatcmpl-{number}", "choice": 0, "picked": "flag"}
    return Review(reviewer=reviewer, verdict=verdict, **{**usual, **fields})


def test_migrations_make_the_tables_that_the_code_uses(place):
    database = Database(place, REVIEWS_SCHEMA)
    database.open()
    with database.writing() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": REVIEWS_SCHEMA.version_table,
                "include_name": lambda name, kind, _: kind != "table" or name in METADATA.tables,
            },
        )
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_reviews_come_back_as_they_were_given(reviews, place):
    given_ = review(1, category="flooding", note="\U0001f6a4 'quoted'; --", seconds=3.5, tenant="mill")
    reviews.add(given_)
    reviews.add(review(2, verdict=None))
    reviews.close()
    with open_reviews(place) as opened:
        first, second = opened.standing()
    assert first.at.endswith("Z")
    assert first == Review(**{**{name: getattr(given_, name) for name in Review.__slots__}, "at": first.at})
    assert (second.verdict, second.key) == (None, ("chatcmpl-2", 0))


def test_one_standing_review_for_each_reviewer_and_exchange(reviews):
    reviews.add(review(1))
    with pytest.raises(ReviewError, match="you have reviewed it already"):
        reviews.add(review(1, verdict="harmless"))
    reviews.add(review(1, "ben", "harmless"))
    reviews.add(review(1, choice=1))
    assert [(found.reviewer, found.choice) for found in reviews.standing()] == [
        ("ann", 0),
        ("ben", 0),
        ("ann", 1),
    ]
    assert [found.verdict for found in reviews.about("chatcmpl-1", 0)] == ["harmful", "harmless"]


def test_tenants_and_reviewers_are_kept_apart(reviews):
    reviews.add(review(1, tenant="mill"))
    reviews.add(review(2, "ben", tenant="lock"))
    assert [found.exchange for found in reviews.standing("mill")] == ["chatcmpl-1"]
    assert reviews.standing("mill", "ben") == []
    assert [found.exchange for found in reviews.standing(None, "ben")] == ["chatcmpl-2"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"verdict": "maybe"}, "verdict: expected harmful or harmless"),
        ({"picked": "whim"}, "picked: expected one of flag, close, random"),
        ({"note": "x" * (LONGEST_NOTE + 1)}, f"note: expected at most {LONGEST_NOTE}"),
    ],
)
def test_what_is_not_valid_is_not_kept(reviews, fields, words):
    with pytest.raises(ReviewError, match=words):
        reviews.add(review(**fields))
    assert reviews.count() == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("undo"), st.sampled_from(["ann", "ben"]), st.just(0)),
        st.tuples(st.just("add"), st.sampled_from(["ann", "ben"]), st.integers(0, 3)),
    ),
    max_size=25,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_undo_takes_back_the_newest_step_of_its_reviewer(tmp_path_factory, steps):
    """The oracle is a list for each reviewer."""
    from lockgate.databases import Place

    made = Reviews(Place.of(tmp_path_factory.mktemp("steps") / "operations.db", "reviews", "NO_PASSWORD"))
    made.open()
    stacks, added = {"ann": [], "ben": []}, 0
    try:
        for what, who, number in steps:
            own = stacks[who]
            if what == "undo":
                found = made.undo(who)
                assert (None if found is None else found.exchange) == (own.pop() if own else None)
            elif (name := f"chatcmpl-{number}") in own:
                with pytest.raises(ReviewError):
                    made.add(review(number, who))
            else:
                made.add(review(number, who))
                own.append(name)
                added += 1
        for who, own in stacks.items():
            assert [found.exchange for found in made.standing(reviewer=who)] == own
        assert made.count() == added
    finally:
        made.close()


def test_a_database_without_reviews_is_refused_with_words(tmp_path):
    from lockgate.databases import Place

    place = Place.of(tmp_path / "none.db", "reviews", "NO_PASSWORD")
    with pytest.raises(ReviewError, match="no such file"), open_reviews(place):
        pass
