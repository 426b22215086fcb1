"""No tenant sees another's records, whatever page is asked for and however."""

import re

import pytest
from desks import csrf_of_page, exchange, fill, form_of_review, house_in
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.dashboard._app import _PAGES
from lockgate.reviews import Review
from lockgate.tenants import Settings, Sign

TENANTS = ("mill", "harbour", "ferry")
COUNT = 30
OWNER = {number: TENANTS[number % 3] for number in range(COUNT)}


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """Three tenants with records, reviews and a reviewer each."""
    with house_in(tmp_path_factory.mktemp("tenants")) as house:
        fill(house.log, [exchange(n, OWNER[n], 4.0 if n % 4 == 0 else -2.0) for n in range(COUNT)])
        for number in range(0, COUNT, 2):
            house.dashboard._desk.reviews.add(
                Review(
                    tenant=OWNER[number],
                    exchange=f"chatcmpl-{number}",
                    choice=0,
                    reviewer=f"{OWNER[number]}/old",
                    picked="random",
                    verdict="harmful",
                    note=f"note {number} of {OWNER[number]}",
                )
            )
        for tenant in TENANTS:
            house.tenants.add_tenant(tenant, Settings(concurrent=5))
            house.tenants.add_alert(tenant, f"key of {tenant}", Sign("flags", 50.0, 10, 40))
        people = {name: house.signed_in(name, "eve", "reviewer") for name in TENANTS}
        yield house, people, house.signed_in("mill", "boss", "admin")


def numbers_in(text):
    """Exchanges that a page shows, by their names and by their texts."""
    return {int(found) for found in re.findall(r"chatcmpl-(\d+)", text)} | {
        int(found) for found in re.findall(r"question (\d+)", text)
    }


VALUES = st.one_of(
    st.sampled_from([*TENANTS, "", "flagged", "halt", "pass", "week", "hour", "0", "1", "100", "-1"]),
    st.sampled_from([f"chatcmpl-{number}" for number in range(COUNT)]),
    st.text(max_size=12),
)
NAMES = st.sampled_from(
    ["tenant", "decision", "category", "window", "near", "before", "since", "exchange", "choice", "picked"]
)
PATHS = st.one_of(
    st.sampled_from([page.path for page in _PAGES if page.method == "GET" and "{" not in page.path]),
    st.integers(0, COUNT).map(lambda number: f"/exchanges/chatcmpl-{number}/0"),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TENANTS), PATHS, st.dictionaries(NAMES, VALUES, max_size=4))
def test_a_reviewer_sees_only_its_tenants_records(houses, who, path, query):
    _, people, _ = houses
    answer = people[who].get(f"/admin{path}", params=query)
    asked = {int(found) for value in query.values() for found in re.findall(r"chatcmpl-(\d+)", value)}
    shown = numbers_in(answer.text) - asked
    assert {OWNER[number] for number in shown} <= {who}
    for other in set(TENANTS) - {who}:
        assert f"{other}/old" not in answer.text
        assert f"of {other}" not in answer.text
        if path in ("/alerts", "/limits") and other not in query.values():
            assert other not in answer.text
    if path.startswith("/exchanges/"):
        own = OWNER.get(int(path.split("-")[1].split("/")[0]))
        assert answer.status_code == (200 if own == who else 404)


def test_all_of_its_own_are_there(houses):
    _, people, boss = houses
    for who in TENANTS:
        own = {number for number in range(COUNT) if OWNER[number] == who}
        assert numbers_in(people[who].get("/admin/exchanges").text) == own
        assert numbers_in(people[who].get("/admin/review/export").text) == {n for n in own if n % 2 == 0}
    assert numbers_in(boss.get("/admin/exchanges").text) == set(range(COUNT))
    assert numbers_in(boss.get("/admin/review/export").text) == set(range(0, COUNT, 2))


def test_limits_and_alerts_of_its_own_are_there(houses):
    _, people, boss = houses
    for who in TENANTS:
        assert people[who].get("/admin/alerts").text.count("many flags") == 1
        assert re.findall(r'<h2 id="tenant-\d+">(\w+)<', people[who].get("/admin/limits").text) == [who]
        assert f"key of {who}" in boss.get("/admin/alerts").text


def test_figures_count_only_what_may_be_seen(houses):
    _, people, boss = houses
    for who in TENANTS:
        text = people[who].get("/admin/").text
        assert f'<p class="figure">{COUNT // 3}</p>' in text
        assert "<h2>Tenants</h2>" not in text
        assert f"{COUNT // 3} recorded exchanges" in people[who].get("/admin/scores").text
    text = boss.get("/admin/").text
    assert f'<p class="figure">{COUNT}</p>' in text
    assert all(f'<th scope="row">{who}</th>' in text for who in TENANTS)


def test_a_reviewer_judges_only_its_tenants_exchanges(houses):
    house, people, _ = houses
    before = house.dashboard._desk.reviews.count()
    client = people["mill"]
    token = csrf_of_page(client.get("/admin/").text)
    for number in (1, 2, COUNT + 5):
        form = {"csrf": token, "exchange": f"chatcmpl-{number}", "choice": "0"}
        form |= {"picked": "flag", "verdict": "harmful"}
        answer = client.post("/admin/review", data=form)
        assert (answer.status_code, "No such exchange" in answer.text) == (404, True)
    assert house.dashboard._desk.reviews.count() == before


def test_the_queue_holds_only_its_tenants_exchanges(tmp_path):
    with house_in(tmp_path) as house:
        fill(house.log, [exchange(number, OWNER[number]) for number in range(12)])
        client = house.signed_in("harbour", "eve", "reviewer")
        seen = []
        while "Does the last answer" in (text := client.get("/admin/review").text):
            (number,) = {int(found) for found in re.findall(r"question (\d+)", text)}
            seen.append(number)
            form = form_of_review(client) | {"verdict": "skip"}
            assert form["exchange"] == f"chatcmpl-{number}"
            assert client.post("/admin/review", data=form).status_code == 303
        assert sorted(seen) == [number for number in range(12) if OWNER[number] == "harbour"]
