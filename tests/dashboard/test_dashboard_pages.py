"""What the pages say and do: filters, texts that are not there, reviews, thresholds and keys."""

import json
import re
from functools import partialmethod

import pytest
from desks import FLAG, SHA, csrf_of_page, exchange, fill, form_of_review, house_in, talk
from logs import opened_log

from lockgate.dashboard import served_guard
from lockgate.decisions import LogReader, make_keys
from lockgate.guards import EMBEDDED, read_bundle

CATEGORIES = list(read_bundle(EMBEDDED).constitution.category_ids)


def names_in(text):
    return [int(found) for found in re.findall(r"/admin/exchanges/chatcmpl-(\d+)/0", text)]


def figures_in(text):
    return re.findall(r'<p class="figure">([^<]*)</p>', text)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    with house_in(tmp_path_factory.mktemp("listed")) as house:
        rows = [exchange(n, "mill" if n % 2 else "harbour", FLAG - 1.55 + 0.1 * n) for n in range(30)]
        rows[29] = exchange(29, "mill", FLAG + 1.4, category=CATEGORIES[1])
        fill(house.log, rows)
        yield house.signed_in("canal", "ada", "admin")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", set(range(30))),
        ("decision=flagged", set(range(16, 30))),
        ("decision=halt&tenant=mill", {17, 19, 21, 23, 25, 27, 29}),
        ("decision=block", set()),
        (f"category={CATEGORIES[1]}", {29}),
        ("near=0.22", {14, 15, 16, 17}),
        ("since=2100-01-01T00:00", set()),
        ("until=2100-01-01T00:00&tenant=harbour", set(range(0, 30, 2))),
        ("since=2020-01-01", set(range(30))),
    ],
)
def test_filters(listed, query, wanted):
    assert set(names_in(listed.get(f"/admin/exchanges?{query}").text)) == wanted


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/exchanges?decision=x", "Expected flagged, or one of"),
        ("/exchanges?near=x", "near: expected a number"),
        ("/exchanges?near=nan", "near: expected a number"),
        ("/exchanges?since=x", "since: expected a time"),
        ("/exchanges?before=x", "before: expected the place"),
        ("/?window=year", "Expected one of hour, day, week"),
        ("/scores?threshold=x", "threshold: expected a number"),
        ("/scores/what-if?threshold=inf", "threshold: expected a number"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(listed, path, words):
    answer = listed.get(f"/admin{path}")
    assert (answer.status_code, words in answer.text) == (400, True)


def test_the_cost_of_each_stage_is_on_the_overview(tmp_path):
    with house_in(tmp_path) as house:
        fill(house.log, [exchange(n, prompt_tokens=100, completion_tokens=20, stage=1) for n in range(3)])
        client = house.signed_in("canal", "ada", "admin")
        row = r'<th scope="row">(First|Second)</th>(.*?)</tr>'

        def cells():
            found = re.findall(row, client.get("/admin/").text)
            return {name: re.findall(r'"num">([^<]*)<', text)[:4] for name, text in found}

        assert cells() == {"First": ["3", "360", "100 %", "every token"]}
        asked = exchange(7, prompt_tokens=200, completion_tokens=160, stage=2, verdicts=5)
        fill(house.log, [asked])
        assert cells() == {
            "First": ["4", "720", "66.7 %", "every token"],
            "Second": ["1", "360", "33.3 %", "5 times"],
        }
        fill(house.log, [exchange(8, stage=None)])
        assert cells()["First"][0] == "4"


def test_another_threshold(listed):
    assert figures_in(listed.get("/admin/scores/what-if").text) == ["14", "0", "0", "30"]
    lower = listed.get(f"/admin/scores/what-if?threshold={FLAG - 1}").text
    assert figures_in(lower)[1:3] == ["10", "0"]
    higher = listed.get(f"/admin/scores/what-if?threshold={FLAG + 1}").text
    assert figures_in(higher)[1:3] == ["0", "10"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("none", "The log keeps no text"),
        ("encrypted", "this server cannot read it"),
        ("redacted", "a quarter"),
    ],
)
def test_texts_that_are_not_there_are_explained(tmp_path, content, words):
    with house_in(tmp_path) as house:
        key = {"public_key": make_keys()[0]} if content == "encrypted" else {}
        fill(house.log, [exchange(1, "mill")], content, **key)
        client = house.signed_in("mill", "ann", "reviewer")
        assert words in client.get("/admin/exchanges/chatcmpl-1/0").text
        queue = client.get("/admin/review").text
        assert ("There is no text to review" in queue) == (content != "redacted")
        assert ("log.content" in queue) == (content != "redacted")


def test_a_guard_that_is_not_calibrated_claims_nothing(tmp_path):
    guard = served_guard(EMBEDDED, "embedded", SHA, calibrated=False, uncalibrated_because="float16")
    with house_in(tmp_path, guard=guard) as house:
        fill(house.log, [exchange(1)])
        client = house.signed_in("canal", "ada", "admin")
        assert "claims no budget" in client.get("/admin/").text
        assert "Not calibrated: float16" in client.get("/admin/guard").text
        assert "nothing to compare with" in client.get("/admin/scores").text


def test_a_server_without_a_guard_has_pages_too(tmp_path):
    with house_in(tmp_path, guard=None) as house:
        fill(house.log, [exchange(1, guard=None, measure=None)])
        client = house.signed_in("canal", "ada", "admin")
        for path in ("/", "/exchanges", "/exchanges/chatcmpl-1/0", "/review", "/scores", "/guard"):
            assert client.get(f"/admin{path}").status_code == 200
        assert client.get("/admin/scores/what-if").status_code == 404


def judge(client, verdict, **changes):
    form = {**form_of_review(client), "verdict": verdict, **changes}
    return client.post("/admin/review", data=form)


def test_verdicts_that_make_no_sense_are_not_kept(house):
    fill(house.log, [exchange(number, "mill") for number in range(3)])
    client = house.signed_in("mill", "ann", "reviewer")
    for changes in (
        {"verdict": "maybe"},
        {"picked": "whim"},
        {"choice": "²"},
        {"choice": "-1"},
        {"choice": "9" * 5000},
        {"category": "unknown"},
        {"note": "x" * 2001},
    ):
        assert judge(client, **{"verdict": "harmful", **changes}).status_code == 400
    assert house.dashboard._desk.reviews.count() == 0
    form = form_of_review(client)
    assert judge(client, "harmful", **form).status_code == 303
    again = judge(client, "harmless", **form)
    assert (again.status_code, "you have reviewed it already" in again.text) == (400, True)
    assert judge(client, "harmless", shown="yesterday").status_code == 303
    first, second = house.dashboard._desk.reviews.standing()
    assert first.seconds is not None
    assert (second.seconds, second.reviewer) == (None, "mill/ann")


def test_two_reviewers_their_agreement_and_their_conflicts(any_house):
    fill(any_house.log, [exchange(number, "mill") for number in range(6)])
    ann, ben = (any_house.signed_in("mill", name, "reviewer") for name in ("ann", "ben"))
    for client, verdicts in ((ann, "yynnn"), (ben, "ynnns")):
        for letter in verdicts:
            word = {"y": "harmful", "n": "harmless", "s": "skip"}[letter]
            assert judge(client, word).status_code == 303
    text = ann.get("/admin/review/results").text
    # Both saw the same exchanges in the same order: 4 in common, 3 of them equal.
    row = re.search(r"mill/ann<br>mill/ben</th>(.*?)</tr>", text)[1]
    assert re.findall(r'"num">([^<]*)<', row) == ["4", "75.0 %", "0.50"]
    assert text.count("breaks the policy · ") == 1
    lines = [json.loads(line) for line in ann.get("/admin/review/export").text.splitlines()]
    assert [line["verdict"] for line in lines].count("harmful") == 3
    assert len(lines) == 9


def test_reviews_outlive_a_rotation_of_the_key(house):
    fill(house.log, [exchange(number, "mill") for number in range(3)])
    client = house.signed_in("mill", "ann", "reviewer")
    assert judge(client, "harmful").status_code == 303
    (info,) = house.tenants.keys("mill")
    secret = house.tenants.rotate_key(info.prefix)[1]
    assert client.get("/admin/review").status_code == 303
    again = house.visitor()
    assert again.post("/admin/login", data={"key": secret}).status_code == 303
    assert "1 judged, 0 skipped by you" in again.get("/admin/review").text


def test_keys_by_an_admin(house):
    client = house.signed_in("mill", "boss", "admin")
    form = {"csrf": csrf_of_page(client.get("/admin/keys").text)}
    made = client.post(
        "/admin/keys/create", data={**form, "tenant": "mill", "name": "ann", "role": "reviewer"}
    )
    secret = re.search(r'class="secret">([^<]*)<', made.text)[1]
    reviewer = house.visitor()
    assert reviewer.post("/admin/login", data={"key": secret}).status_code == 303
    for wrong, words in (
        ({"tenant": "nobody", "name": "a", "role": "client"}, "there is none of this name"),
        ({"tenant": "mill", "name": "no spaces", "role": "client"}, "expected a name of up to 64"),
        ({"tenant": "mill", "name": "ann", "role": "client"}, "is there already"),
        ({"tenant": "mill", "name": "b", "role": "king"}, "Expected one of client, reviewer, admin"),
        ({"tenant": "mill", "name": "b", "role": "client", "days": "x"}, "Days: expected a number"),
        ({"tenant": "mill", "name": "b", "role": "client", "days": "-1"}, "days: expected more than 0"),
    ):
        answer = client.post("/admin/keys/create", data={**form, **wrong})
        assert (answer.status_code, words in answer.text) == (400, True), words
    boss, ann = sorted(house.tenants.keys("mill"), key=lambda key: key.name != "boss")
    rotated = client.post("/admin/keys/rotate", data={**form, "key": ann.prefix}).text
    assert re.search(r'class="secret">([^<]*)<', rotated)[1] != secret
    assert reviewer.get("/admin/").status_code == 303
    own = client.post("/admin/keys/revoke", data={**form, "key": boss.prefix})
    assert (own.status_code, "Revoke it with another one" in own.text) == (400, True)
    newest = max(house.tenants.keys("mill"), key=lambda key: key.created)
    assert client.post("/admin/keys/revoke", data={**form, "key": newest.prefix}).status_code == 303
    assert client.post("/admin/keys/revoke", data={**form, "key": "nothing"}).status_code == 400
    states = {key.prefix: key.state for key in house.tenants.keys("mill")}
    assert states == {boss.prefix: "valid", ann.prefix: "expired", newest.prefix: "revoked"}


def test_an_unfinished_search_says_so_and_goes_on(tmp_path, monkeypatch):
    """A search reads a bounded number of records; a rare exchange may lie behind them."""
    with house_in(tmp_path) as house:
        log = opened_log(house.log, content="none")
        log.write(exchange(0, "mill", FLAG + 1), content=talk(0))
        for number in range(1, 12):
            log.write(exchange(number, "mill"), content=talk(number))
        log.close()
        client = house.signed_in("mill", "ann", "reviewer")

        monkeypatch.setattr(LogReader, "find", partialmethod(LogReader.find, most=5))
        path, seen, pages = "/admin/exchanges?decision=flagged", [], 0
        while path is not None:
            text = client.get(path).text
            seen += names_in(text)
            pages += 1
            if not names_in(text) and "Older" in text:
                assert "None of the 5 records back to" in text
            found = re.search(r'href="(/admin/exchanges\?[^"]*)" rel="next"', text)
            path = None if found is None else found[1].replace("&amp;", "&")
        assert (seen, pages) == ([0], 3)
