"""The pages of limits and of alerts: what admins change there, and what reviewers see of their tenant."""

import html
import re

import pytest
from desks import csrf_of_page, exchange, fill, house_in
from keyholders import Moment

from lockgate.tenants import Settings, Sign

LIMITS = Settings(
    mode="canary",
    canary_percent=12.5,
    requests_per_minute=90.5,
    burst=20,
    tokens_per_minute=1_000_000,
    concurrent=3,
    longest_body=2048,
    longest_prompt=77_777,
)


@pytest.fixture
def desk(any_house):
    """A house with two tenants and their limits, an admin and a reviewer."""
    any_house.tenants.add_tenant("mill", LIMITS)
    any_house.tenants.add_tenant("harbour", Settings(concurrent=41))
    boss, ann = any_house.signed_in("canal", "boss", "admin"), any_house.signed_in("mill", "ann", "reviewer")
    return any_house, boss, ann


def facts(text):
    """What a page's lists of facts say, in order."""
    found = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text)
    return [(html.unescape(name), html.unescape(value)) for name, value in found]


def fields(text):
    """The fields of the form of limits."""
    found = dict(re.findall(r'<input id="field-\w+" name="(\w+)" value="([^"]*)"', text))
    return {**found, "mode": (re.findall(r"<option selected>(\w+)", text) or [""])[0]}


def test_limits_are_shown_with_their_use(desk):
    house, boss, ann = desk
    leave = house.tenants.limits.enter("mill", LIMITS)
    house.tenants.limits.spend("mill", 1_200_000)
    own = facts(ann.get("/admin/limits").text)
    assert own[:8] == [
        ("Mode", "canary"),
        ("Canary percent", "12.5"),
        ("Requests a minute", "90.5"),
        ("Requests in one go", "20"),
        ("Tokens a minute", "1,000,000"),
        ("Requests at a time", "3"),
        ("Bytes of a request", "2,048"),
        ("Tokens of a prompt", "77,777"),
    ]
    now = dict(own[8:])
    assert now["Open requests on this server"] == "1 of 3"
    assert now["Requests left"] in ("19 of 20", "20 of 20")  # the bucket fills meanwhile
    assert re.fullmatch(r"(−\d{1,3},|−?)\d+(,\d{3})? of 1,000,000", now["Tokens left"])
    leave()
    assert dict(facts(ann.get("/admin/limits").text))["Open requests on this server"] == "0 of 3"
    text = boss.get("/admin/limits").text
    assert ("Requests at a time", "41") in facts(text)
    assert all(f"/admin/limits/{name}" in text for name in ("mill", "harbour", "canal"))


def test_a_reviewer_sees_its_own_limits_and_changes_none(desk):
    house, _, ann = desk
    text = ann.get("/admin/limits").text
    assert "harbour" not in text
    assert "/admin/limits/" not in text
    token = csrf_of_page(text)
    for client in (ann.get("/admin/limits/mill"), ann.post("/admin/limits/mill", data={"csrf": token})):
        assert client.status_code == 403
    assert {found.name: found.settings for found in house.tenants.tenants()}["mill"] == LIMITS


def test_an_admin_changes_limits_as_the_command_does(desk):
    house, boss, _ = desk
    page = boss.get("/admin/limits/mill").text
    form = fields(page)
    assert set(form) == set(Settings.__struct_fields__)
    assert form["requests_per_minute"] == "90.5"
    same = {"csrf": csrf_of_page(page), **form}

    def settings():
        return next(one.settings for one in house.tenants.tenants() if one.name == "mill")

    assert boss.post("/admin/limits/mill", data=same).headers["location"] == "/admin/limits"
    assert settings() == LIMITS
    changed = {**same, "mode": "", "canary_percent": "", "burst": " 5 ", "longest_body": ""}
    assert boss.post("/admin/limits/mill", data=changed).status_code == 303
    assert settings() == Settings(
        requests_per_minute=90.5, burst=5, tokens_per_minute=1_000_000, concurrent=3, longest_prompt=77_777
    )
    for wrong, words in (
        ({"burst": "many"}, "Requests in one go: Expected `int | null`"),
        ({"mode": "canary"}, "Canary percent: and mode canary need each other"),
        ({"mode": "loud"}, "Mode: Invalid enum value"),
        ({"requests_per_minute": ""}, "Requests in one go: needs requests_per_minute"),
        ({"requests_per_minute": "nan"}, "Requests a minute: expected more than 0"),
        ({"concurrent": "9" * 30}, "Requests at a time: expected at least 1, and less than"),
        ({"concurrent": "0"}, "Requests at a time: expected at least 1"),
    ):
        answer = boss.post("/admin/limits/mill", data={**changed, **wrong})
        assert (answer.status_code, words in html.unescape(answer.text)) == (400, True), words
        # What was typed is still there.
        assert fields(answer.text)["longest_prompt"] == "77777"
    assert settings().burst == 5
    for answer in (boss.get("/admin/limits/nobody"), boss.post("/admin/limits/nobody", data=same)):
        assert (answer.status_code, "No such tenant" in answer.text) == (404, True)
    assert boss.post("/admin/limits/mill", data={**changed, "csrf": "0" * 64}).status_code == 403


SIGN = Sign("flags", 23.456, 10, 40)


@pytest.fixture
def alarmed(tmp_path):
    """Alerts about two tenants and a key of the config, on a clock of the test."""
    moment = Moment()
    with house_in(tmp_path, clock=moment) as house:
        boss, ann = house.signed_in("canal", "boss", "admin"), house.signed_in("mill", "ann", "reviewer")
        prefixes = {}
        for tenant in ("mill", "harbour"):
            house.key(tenant, "app", "client")
            info = next(one for one in house.tenants.keys(tenant) if one.name == "app")
            prefixes[tenant] = info.prefix
            house.tenants.add_alert(tenant, info.prefix, SIGN, 600)
        house.tenants.add_alert("", "team", Sign("duplicates", 7, 5, 9), 600)
        yield house, boss, ann, prefixes, moment


def test_an_admin_sees_all_alerts_and_lets_keys_in_again(alarmed):
    house, boss, _, prefixes, moment = alarmed
    assert "3 <a" in boss.get("/admin/").text
    page = boss.get("/admin/alerts").text
    assert "3 that nobody has acknowledged" in page
    assert all(
        found in page
        for found in (
            *prefixes.values(),
            "team",
            "many flags",
            "23.5 in 100, counts from 10.0; 40 exchanges",
            ">7, counts from 5; 9 exchanges<",
        )
    )
    assert page.count("Let in again") == 2
    form = {"csrf": csrf_of_page(page), "key": prefixes["mill"]}
    assert boss.post("/admin/alerts/unlock", data=form).status_code == 303
    states = {key.prefix: key.state for key in house.tenants.keys("mill")}
    assert states[prefixes["mill"]] == "valid"
    page = boss.get("/admin/alerts").text
    assert (page.count("Let in again"), page.count("no longer")) == (1, 1)
    moment.now += 601
    assert "Let in again" not in boss.get("/admin/alerts").text
    assert boss.post("/admin/alerts/unlock", data={**form, "key": "nothing"}).status_code == 404


def test_a_reviewer_sees_its_own_alerts_without_the_key(alarmed):
    house, boss, ann, prefixes, _ = alarmed
    assert "1 <a" in ann.get("/admin/").text
    page = ann.get("/admin/alerts").text
    assert "1 that nobody has acknowledged" in page
    assert page.count("many flags") == 1
    for hidden in (*prefixes.values(), "team", "harbour", "like those of other keys", "app", "Let in again"):
        assert hidden not in page.partition("<main")[2], hidden
    assert "until 20" in page
    token = csrf_of_page(page)
    refused = ann.post("/admin/alerts/unlock", data={"csrf": token, "key": prefixes["mill"]})
    assert refused.status_code == 403
    for alert in house.tenants.alerts():
        answer = ann.post("/admin/alerts/acknowledge", data={"csrf": token, "alert": alert.id})
        assert answer.status_code == (303 if alert.tenant == "mill" else 404)
    noted = {alert.tenant: alert.acknowledged_by for alert in house.tenants.alerts()}
    assert noted == {"mill": "mill/ann", "harbour": None, "": None}
    assert "mill/ann" in boss.get("/admin/alerts").text


def test_who_has_acknowledged_an_alert_is_named_to_its_own_tenant(alarmed):
    house, boss, ann, _, _ = alarmed
    form = {"csrf": csrf_of_page(boss.get("/admin/alerts").text)}
    for alert in house.tenants.alerts():
        assert boss.post("/admin/alerts/acknowledge", data={**form, "alert": alert.id}).status_code == 303
    assert "alert" not in boss.get("/admin/").text.partition("<main")[2]
    assert "canal/boss" in boss.get("/admin/alerts").text.partition("<main")[2]
    page = ann.get("/admin/alerts").text.partition("<main")[2]
    assert "an admin" in page
    assert "canal" not in page


def test_a_house_without_alerts_says_so(house):
    fill(house.log, [exchange(1, "mill")])
    client = house.signed_in("mill", "ann", "reviewer")
    assert "No alerts" in client.get("/admin/alerts").text
    assert "about campaigns" not in client.get("/admin/").text
