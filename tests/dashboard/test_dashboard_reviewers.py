"""Who a review belongs to, and that nobody can say that chance has drawn an exchange."""

import re

import pytest
from alembic.script import ScriptDirectory
from desks import FLAG, exchange, fill, form_of_review, house_in
from sqlalchemy import text

from lockgate.dashboard._kept import Kept
from lockgate.dashboard._schema import DASHBOARD_SCHEMA
from lockgate.databases import Database
from lockgate.reviews import Review


def enter(house, secret):
    client = house.visitor()
    assert client.post("/admin/login", data={"key": secret}).status_code == 303
    return client


def judge(client, **changes):
    return client.post("/admin/review", data={**form_of_review(client), "verdict": "harmful", **changes})


def reviewers(house):
    return [review.reviewer for review in house.dashboard._desk.reviews.standing()]


def judged(client):
    return int(re.search(r"(\d+) judged", client.get("/admin/review").text)[1])


@pytest.mark.parametrize("how", ["revoked", "removed"])
def test_a_new_key_with_the_name_of_an_old_one_has_none_of_its_reviews(any_house, how):
    house = any_house
    fill(house.log, [exchange(number, "mill") for number in range(3)])
    old = house.signed_in("mill", "ann", "reviewer")
    assert judge(old).status_code == 303
    if how == "revoked":
        house.tenants.revoke_key(house.tenants.keys("mill")[0].prefix)
    else:
        house.tenants.remove_tenant("mill")
    new = house.signed_in("mill", "ann", "reviewer")
    assert judged(new) == 0
    assert "mill/ann (2)" in new.get("/admin/").text
    # It meets the same exchange, and undoes nothing of the old one's.
    assert judge(new).status_code == 303
    for _ in range(2):
        assert new.post("/admin/review/undo", data=form_of_review(new)).status_code == 303
    assert reviewers(house) == ["mill/ann"]
    assert judge(new).status_code == 303
    assert reviewers(house) == ["mill/ann", "mill/ann (2)"]


def test_a_rotation_keeps_the_reviewer_also_after_another_key_had_the_name(house):
    fill(house.log, [exchange(number, "mill") for number in range(4)])
    assert judge(house.signed_in("mill", "ann", "reviewer")).status_code == 303
    house.tenants.revoke_key(house.tenants.keys("mill")[0].prefix)
    second = house.signed_in("mill", "ann", "reviewer")
    assert judge(second).status_code == 303
    for _ in range(2):
        valid = next(info for info in house.tenants.keys("mill") if info.state == "valid")
        second = enter(house, house.tenants.rotate_key(valid.prefix)[1])
        assert judged(second) == 1
    assert reviewers(house) == ["mill/ann", "mill/ann (2)"]


def test_reviews_from_before_names_were_kept_stay_with_the_key_that_was_there(house):
    """An older version kept reviews under the key's name alone."""
    secret = house.key("mill", "ann", "reviewer")
    fill(house.log, [exchange(1, "mill")])
    old = Review(
        tenant="mill", exchange="chatcmpl-1", choice=0, reviewer="mill/ann", picked="flag", verdict="harmful"
    )
    house.dashboard._desk.reviews.add(old)
    assert judged(enter(house, secret)) == 1


def test_servers_choose_one_name(any_house):
    place = any_house.tenants.database.place
    one, other = Kept(place), Kept(place)
    one.open()
    other.open()
    assert one.reviewer("aaa", "mill/ann", lambda _: True) == "mill/ann"
    assert other.reviewer("bbb", "mill/ann", lambda _: True) == "mill/ann (2)"
    assert other.reviewer("aaa", "mill/ann", lambda _: False) == "mill/ann"
    assert one.reviewer("ccc", "mill/ben", lambda name: "(" in name) == "mill/ben (2)"
    assert one.secret() == other.secret() == any_house.dashboard._desk.kept.secret()
    assert one.keep_state("g", "*", 0, b"a")
    assert not other.keep_state("g", "*", 0, b"b")
    assert other.keep_state("g", "*", 1, b"c")
    assert not one.keep_state("g", "*", 1, b"d")
    assert one.state("g", "*") == (2, b"c")
    assert one.state("g", "mill") == (0, None)
    one.close()
    other.close()


def test_an_older_database_goes_forward(any_house, tmp_path):
    where = any_house.tenants.database.place
    assert [
        found.revision for found in ScriptDirectory(str(DASHBOARD_SCHEMA.migrations)).walk_revisions()
    ] == [
        "0002",
        "0001",
    ]
    database = Database(where, DASHBOARD_SCHEMA)
    database.open()
    with database.writing() as connection:
        for table in ("watches", "secrets", "reviewers"):
            connection.execute(text(f"DROP TABLE dashboard_{table}"))
        connection.execute(text(f"UPDATE {DASHBOARD_SCHEMA.version_table} SET version_num = '0001'"))  # noqa: S608
    database.close()
    database.open()
    database.close()
    assert any_house.dashboard._desk.kept.state("g", "*") == (0, None)


def test_a_reviewer_cannot_say_why_an_exchange_was_shown(house):
    fill(house.log, [exchange(number, "mill", FLAG + 1) for number in range(4)])
    ann, ben = (house.signed_in("mill", name, "reviewer") for name in ("ann", "ben"))
    shown = form_of_review(ann)
    assert shown["picked"] == "flag"
    other = next(f"chatcmpl-{n}" for n in range(4) if f"chatcmpl-{n}" != shown["exchange"])
    forged = [
        {"picked": "random"},
        {"picked": "random", "signature": ""},
        {"exchange": other},
        {"signature": form_of_review(ben)["signature"]},
        {"signature": "é"},
    ]
    for changes in forged:
        answer = judge(ann, **changes)
        assert (answer.status_code, "not the one that was shown" in answer.text) == (403, True), changes
    assert house.dashboard._desk.reviews.count() == 0
    assert judge(ann).status_code == 303


def test_an_address_cannot_say_why_an_exchange_is_shown(house):
    fill(house.log, [exchange(number, "mill") for number in range(4)])
    client = house.signed_in("mill", "ann", "reviewer")
    first = form_of_review(client)
    assert judge(client).status_code == 303
    back = client.post("/admin/review/undo", data=form_of_review(client)).headers["location"]
    assert f'value="{first["exchange"]}"' in client.get(back).text
    other = next(f"chatcmpl-{n}" for n in range(4) if f"chatcmpl-{n}" != first["exchange"])
    for wrong in (re.sub("picked=[a-z]+", "picked=flag", back), back.replace(first["exchange"], other)):
        assert wrong != back
        shown = re.search(r'name="exchange" value="([^"]*)"', client.get(wrong).text)[1]
        assert shown == first["exchange"]  # what comes next anyway
        assert 'name="picked" value="flag"' not in client.get(wrong).text


def test_two_servers_take_each_others_forms(tmp_path):
    with house_in(tmp_path) as one:
        fill(one.log, [exchange(number, "mill") for number in range(2)])
        client = one.signed_in("mill", "ann", "reviewer")
        form = form_of_review(client)
        with house_in(tmp_path) as other:
            there = other.visitor()
            there.cookies = client.cookies
            assert there.post("/admin/review", data={**form, "verdict": "skip"}).status_code == 303
