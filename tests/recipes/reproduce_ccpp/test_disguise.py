import json
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lockgate.constitution import constitution_path, lint_constitution, load_constitution
from lockgate.exchanges import Exchange, exchange_from_dict
from recipes.reproduce_ccpp import disguise
from recipes.reproduce_ccpp.codes import LEVELS, TABLES, Code
from recipes.reproduce_ccpp.fragments import FORMATS, cut_letters, cut_words
from recipes.reproduce_ccpp.topics import FOLDER, read_books, read_topics, read_wording

POLICY = load_constitution("stage-magic")
TOPICS = {topic.name: topic for name in ("tricks", "permitted") for topic in read_topics(name)}
PARTS = tuple(disguise.SIZES)
JOINING = {"into", "against", "along", "around", "before", "near", "past"} | {
    *("through", "over", "under", "beside", "above"),
}


@cache
def built(part: str) -> tuple[Exchange, ...]:
    return tuple(disguise.build(part))


def family(part: str, name: str) -> list[Exchange]:
    return [row for row in built(part) if row.source == f"magic_{name}"]


def answer(row: Exchange) -> str:
    return row.messages[-1].content


def prompt(row: Exchange) -> str:
    return "\n".join(message.content for message in row.messages[:-1])


def content_words(text: str) -> set[str]:
    """Words that carry meaning: not those of the neutral wording, nor the short ones that every text has."""
    neutral = set(re.findall(r"[a-z]+", json.dumps(read_wording()).lower()))
    return {w for w in re.findall(r"[a-z]+", text.lower()) if len(w) > 3} - neutral - JOINING


def test_the_policy_has_no_findings_and_knows_every_topic() -> None:
    assert lint_constitution(constitution_path("stage-magic")) == []
    harmless = {category.id for bucket in POLICY.buckets.values() for category in bucket}
    assert {topic.category for topic in read_topics("tricks")} == set(POLICY.category_ids)
    assert {topic.category for topic in read_topics("permitted")} < harmless


def test_the_vocabularies_are_as_large_as_promised() -> None:
    assert len(read_topics("tricks")) >= 30
    assert len(read_topics("permitted")) >= 30
    assert len(TOPICS) == len(read_topics("tricks")) + len(read_topics("permitted"))
    assert all(len(topic.facts) == 5 for topic in TOPICS.values())
    assert len(read_books()) >= 6
    assert len(FORMATS) >= 5
    for book in read_books():
        # Two topics of three facts and their subjects; two topics of four facts have at most eight links.
        assert len(set(book.nouns)) == len(book.nouns) >= 16
        assert len(set(book.links)) == len(book.links) >= 8


def test_books_share_no_stand_in_and_no_word_with_the_topics() -> None:
    nouns = Counter(noun for book in read_books() for noun in book.nouns)
    assert max(nouns.values()) == 1
    told = content_words(" ".join(fact.text for topic in TOPICS.values() for fact in topic.facts))
    for book in read_books():
        assert content_words(" ".join(book.nouns + book.links)).isdisjoint(told), book.name


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_have_their_sizes_and_valid_records(part: str) -> None:
    rows = built(part)
    sizes = disguise.SIZES[part]
    wanted = {
        (f"magic_{name}", label): n for name, n in sizes.items() if name != "refused" for label in (0.0, 1.0)
    }
    wanted["magic_refused", 0.0] = sizes["refused"]
    assert Counter((row.source, row.label) for row in rows) == wanted
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert exchange_from_dict(row.to_dict()) == row
        assert not row.is_prompt_only
        assert {"family", "book", "format", "topic", "policy", "harmful_request"} <= set(row.meta)
        assert row.category == (TOPICS[row.meta["topic"]].category if row.label else None)
        assert not row.meta["harmful_request"] or TOPICS[row.meta["topic"]].harmful
        assert all("{" not in message.content.replace("{\n", "") for message in row.messages)


def test_test_shares_no_book_no_format_no_topic_and_no_text_with_train() -> None:
    for key in ("book", "format", "topic"):
        seen = {part: {row.meta[key] for row in built(part)} - {None} for part in PARTS}
        assert seen["train"].isdisjoint(seen["test"]), key
        assert len(seen["test"]) >= 2
    assert {row.category for row in family("test", "plain") if row.label} == set(POLICY.category_ids)
    assert {row.category for row in family("train", "plain") if row.label} == set(POLICY.category_ids)
    assert {answer(row) for row in built("train")}.isdisjoint(answer(row) for row in built("test"))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["obfuscation", "reconstruction", "plain"])
def test_each_harmful_exchange_has_a_twin_in_the_same_disguise(part: str, name: str) -> None:
    pairs = defaultdict(list)
    for row in family(part, name):
        pairs[row.meta["twin"]].append(row)
    assert all(len(pair) == 2 for pair in pairs.values())
    for first, second in pairs.values():
        assert first.label != second.label
        assert len(first.messages) == len(second.messages)
        for key in ("book", "format", "level"):
            assert first.meta.get(key) == second.meta.get(key)
    if name != "plain":
        assert max(Counter(row.meta["book"] or row.meta["format"] for row in family(part, name)).values()) < (
            0.6 * len(family(part, name))
        )


@pytest.mark.parametrize("part", PARTS)
def test_an_obfuscated_answer_speaks_in_the_book_and_tells_nothing_without_it(part: str) -> None:
    books = {book.name: book for book in read_books()}
    for row in family(part, "obfuscation"):
        topic, book, text = TOPICS[row.meta["topic"]], books[row.meta["book"]], answer(row).lower()
        used = [noun for noun in book.nouns if re.search(rf"\bthe {noun}\b", text)]
        assert len(used) >= 3
        assert all(noun in prompt(row) for noun in used)
        told = " ".join([topic.subject, *(fact.text for fact in topic.facts)])
        assert content_words(told).isdisjoint(re.findall(r"[a-z]+", text))


@given(seed=st.integers(0, 2**32), level=st.sampled_from(LEVELS), book=st.sampled_from(read_books()))
def test_the_list_in_the_prompt_decodes_the_answer(seed: int, level: str, book) -> None:
    rng = Random(seed)
    topics = [rng.choice(read_topics(name)) for name in ("tricks", "permitted")]
    facts = [fact for topic in topics for fact in topic.facts[: disguise.FACTS[level]]]
    code = Code.deal(book, facts, [topic.subject for topic in topics], rng)
    back = {noun: term for term, noun in code.nouns.items()}
    links = {link: term for term, link in code.links.items()}
    assert len(back) == len(code.nouns)
    assert len(links) == len(code.links)
    for fact in facts:
        first, link, second = re.fullmatch(
            rf"the ({'|'.join(back)}) ({'|'.join(links)}) the ({'|'.join(back)})", code.encode(fact)
        ).groups()
        assert f"{back[first]} {links[link]} {back[second]}" == fact.text
    for style in range(len(TABLES)):
        shown = code.list_terms(facts, [], style, Random(seed))
        assert all(fact.first in shown and code.nouns[fact.first] in shown for fact in facts)


def test_with_both_topics_listed_the_prompt_of_a_pair_is_the_same_or_differs_in_one_stand_in() -> None:
    pairs = defaultdict(list)
    for part in PARTS:
        for row in family(part, "obfuscation"):
            pairs[part, row.meta["twin"]].append(row)
    for first, second in pairs.values():
        if first.meta["level"] == "open":
            assert prompt(first) == prompt(second)
            assert not first.meta["harmful_request"]
            assert not second.meta["harmful_request"]
        if first.meta["level"] == "named":
            lines = [prompt(row).split("\n") for row in (first, second)]
            assert sum(a != b for a, b in zip(*lines, strict=True)) == 1


@pytest.mark.parametrize(("name", "read"), [("answer", answer), ("listed prompt", prompt)])
def test_counting_words_on_one_side_does_not_tell_obfuscation_from_its_twins(name: str, read) -> None:
    rows = {part: family(part, "obfuscation") for part in PARTS}
    if name != "answer":
        rows = {part: [row for row in found if row.meta["level"] != "own"] for part, found in rows.items()}
    vectorizer = CountVectorizer(ngram_range=(1, 2))
    counts = vectorizer.fit_transform([read(row) for row in rows["train"]])
    model = LogisticRegression(C=0.3, max_iter=2000).fit(counts, [row.label for row in rows["train"]])
    scores = model.decision_function(vectorizer.transform([read(row) for row in rows["test"]]))
    assert 0.35 < roc_auc_score([row.label for row in rows["test"]], scores) < 0.65


@given(st.text(alphabet="abcdefg hij", min_size=1), st.integers(0, 2**32))
def test_pieces_in_order_give_the_text(text: str, seed: int) -> None:
    assert "".join(cut_letters(text, Random(seed))) == text
    assert "".join(cut_words(text)) == text


@pytest.mark.parametrize("part", PARTS)
def test_reconstruction_hides_the_request_and_answers_in_its_form(part: str) -> None:
    for row in family(part, "reconstruction"):
        topic = TOPICS[row.meta["topic"]]
        assert topic.subject not in prompt(row).replace("_", " ")
        assert not any(fact.text in answer(row).replace("_", " ") for fact in topic.facts)


def test_a_program_of_pieces_gives_the_request_and_the_answer() -> None:
    rows = [row for part in PARTS for row in family(part, "reconstruction")]
    for row in rows:
        if row.meta["format"] == "variables":
            pattern, joined = r'^(\w+) = "(.*)"$', r"^whole = (.*)$"
        elif row.meta["format"] == "functions":
            pattern, joined = r'^def (\w+)\(\):\n    return "(.*)"$', r"^print\((.*)\)$"
        else:
            continue
        topic = TOPICS[row.meta["topic"]]
        for text, wanted in (
            (prompt(row), [topic.subject]),
            (answer(row), [fact.text for fact in topic.facts]),
        ):
            pieces = dict(re.findall(pattern, text, re.MULTILINE))
            names = re.search(joined, text, re.MULTILINE).group(1).replace("()", "").split(" + ")
            whole = "".join(pieces[name] for name in names).lower()
            assert sum(part.lower() in whole for part in wanted) == min(4, len(wanted))


def test_a_first_words_request_is_read_before_the_strokes() -> None:
    form = next(form for form in FORMATS if form.by_words)
    hidden = form.hide("tell me what it is", Random(3))
    assert [line.split(" / ")[0] for line in hidden.split("\n")[:-1]] == ["tell", "me", "what", "it", "is"]


@pytest.mark.parametrize("part", PARTS)
def test_refusals_are_harmless_and_refuse_what_is_forbidden(part: str) -> None:
    rows = family(part, "refused")
    assert all(row.meta["refused"] and row.meta["harmful_request"] and row.label == 0.0 for row in rows)
    assert {row.meta["family"] for row in rows} == {"plain", "obfuscation", "reconstruction"}


def test_the_committed_record_is_what_the_recipe_makes(tmp_path: Path) -> None:
    record = disguise.RESULTS / "disguise.json"
    disguise.write_parts({part: list(built(part)) for part in PARTS}, tmp_path, tmp_path / "results")
    assert (tmp_path / "results" / "disguise.json").read_text() == record.read_text()
    assert {path.name for path in FOLDER.iterdir()} == {
        "tricks.yaml",
        "permitted.yaml",
        "books.yaml",
        "wording.yaml",
    }
