"""Who gets in, for how long, and what a stolen or forged request can do: nothing."""

import asyncio
import re
import sqlite3

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from desks import SAME_SITE, csrf_of_page, exchange, fill, house_in
from keyholders import Moment
from logs import opened_log
from starlette.testclient import TestClient

from lockgate.dashboard._app import _PAGES
from lockgate.dashboard._schema import DASHBOARD_SCHEMA, METADATA
from lockgate.dashboard._sessions import ATTEMPT_SECONDS, IDLE, LIFE, MOST_ATTEMPTS, Sessions
from lockgate.databases import Database, Place
from lockgate.decisions import Content, Turn
from lockgate.tenants._secrets import new_key

GETS = [page for page in _PAGES if page.method == "GET" and "{" not in page.path]
POSTS = [page for page in _PAGES if page.method == "POST"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A dashboard for tests that leave it as it is."""
    with house_in(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture(scope="module")
def admin(shared):
    return shared.signed_in("mill", "boss", "admin")


def test_migrations_make_the_tables_that_the_code_uses(tmp_path):
    database = Database(Place.of(tmp_path / "o.db", "operations database", "NO_PASSWORD"), DASHBOARD_SCHEMA)
    database.open()
    with database.writing() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": DASHBOARD_SCHEMA.version_table}
        )
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_nobody_sees_a_page_without_signing_in(shared):
    client = shared.visitor()
    for page in _PAGES:
        path = page.path.replace("{exchange}", "chatcmpl-1").replace("{choice}", "0")
        answer = client.request(page.method, f"/admin{path}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/login")
        part = client.request(page.method, f"/admin{path}", headers={"hx-request": "true"})
        assert (part.status_code, part.headers["hx-redirect"], part.text) == (401, "/admin/login", "")


def test_signing_in_and_out(any_house):
    client = any_house.signed_in("mill", "ann", "reviewer")
    page = client.get("/admin/")
    assert page.status_code == 200
    assert "mill/ann" in page.text
    cookie = client.cookies["lockgate"]
    assert client.post("/admin/logout", data={"csrf": csrf_of_page(page.text)}).status_code == 303
    # Also for whoever has kept the cookie.
    client.cookies.set("lockgate", cookie)
    assert client.get("/admin/").status_code == 303


@pytest.mark.parametrize("role", ["client", None])
def test_other_keys_do_not_get_in(house, role):
    secret = "lg_nobody" if role is None else house.key("mill", "app", role)
    answer = house.visitor().post("/admin/login", data={"key": secret})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert secret not in answer.text


def test_a_cookie_is_kept_from_scripts_and_other_sites(tmp_path):
    with house_in(tmp_path / "a") as house:
        secret = house.key("mill", "ann", "reviewer")
        found = house.visitor().post("/admin/login", data={"key": secret}).headers["set-cookie"].lower()
        assert {"httponly", "samesite=strict", "path=/"} <= set(found.split("; "))
        assert "secure" not in found.split("; ")
    with house_in(tmp_path / "b", loopback=False) as house:
        secret = house.key("mill", "ann", "reviewer")
        client = TestClient(
            house.app, base_url="https://guard.example", headers=SAME_SITE, follow_redirects=False
        )
        found = client.post("/admin/login", data={"key": secret}).headers["set-cookie"]
        assert found.startswith("__Host-lockgate=")
        assert {"httponly", "samesite=strict", "secure", "path=/"} <= set(found.lower().split("; "))
        assert "domain" not in found.lower()
        assert client.get("/admin/").status_code == 200


def test_the_database_holds_no_token(house):
    client = house.signed_in("mill", "ann", "reviewer")
    everything = b"".join(path.read_bytes() for path in house.folder.glob("operations.db*"))
    assert client.cookies["lockgate"].encode() not in everything


@pytest.mark.parametrize("how", ["revoked", "expired", "removed"])
def test_a_session_ends_with_its_key(tmp_path, how):
    moment = Moment()
    with house_in(tmp_path, clock=moment) as house:
        house.tenants.add_tenant("mill")
        info, secret = house.tenants.create_key("mill", "ann", "admin", days=0.01)
        client = house.visitor()
        client.post("/admin/login", data={"key": secret})
        assert client.get("/admin/keys").status_code == 200
        if how == "revoked":
            house.tenants.revoke_key(info.prefix)
        elif how == "removed":
            house.tenants.remove_tenant("mill")
        else:
            moment.now += 0.011 * 86400
        assert client.get("/admin/keys").status_code == 303


def sessions_in(folder, moment):
    made = Sessions(Place.of(folder / "operations.db", "operations database", "NO_PASSWORD"), moment)
    made.open()
    return made


def test_sessions_end_when_nobody_acts_and_after_a_day_of_work(tmp_path):
    moment = Moment()
    made = sessions_in(tmp_path, moment)
    token = made.begin("mill", "k")
    for _ in range(int(LIFE / (IDLE - 60))):
        moment.now += IDLE - 60
        assert made.find(token) == ("mill", "k")
    moment.now += IDLE - 60
    assert made.find(token) is None
    idle = made.begin("mill", "k")
    moment.now += IDLE - 60
    # A page that only looks for news keeps no session alive.
    assert made.find(idle, awake=False) == ("mill", "k")
    moment.now += 60
    assert made.find(idle) is None
    assert made.find("") is None
    made.close()


def test_old_sessions_are_removed(tmp_path):
    moment = Moment()
    made = sessions_in(tmp_path, moment)
    for _ in range(3):
        made.begin("mill", "k")
    moment.now += IDLE + 1
    made.begin("mill", "k")
    made.close()
    with sqlite3.connect(tmp_path / "operations.db") as connection:
        assert connection.execute("SELECT count(*) FROM dashboard_sessions").fetchone() == (1,)


def test_behind_a_proxy_with_tls_on_this_machine_the_cookie_needs_tls(house):
    """The proxy passes on the name that the browser asked for."""
    secret = house.key("mill", "ann", "reviewer")
    for name, secure in (("http://localhost:8000", False), ("https://guard.example", True)):
        client = TestClient(house.app, base_url=name, headers=SAME_SITE, follow_redirects=False)
        found = client.post("/admin/login", data={"key": secret}).headers["set-cookie"]
        assert found.startswith("__Host-lockgate=") == ("secure" in found.lower().split("; ")) == secure
        assert client.get("/admin/").status_code == 200


def test_no_redirect_names_a_scheme(house):
    client = house.visitor()
    for path in ("/admin", "/admin/"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["location"][0]) == (303, "/")
    assert client.get("/admin/login/").status_code == 404


def test_a_database_that_is_gone_is_not_named_to_strangers(tmp_path, caplog):
    with house_in(tmp_path) as house:
        client = house.visitor()
        house.tenants.database.close()
        answer = client.post("/admin/login", data={"key": new_key()[1]})
        house.tenants.database.open()
    assert answer.status_code == 503
    assert "operations.db" not in answer.text
    assert "operations.db" in caplog.text


def test_attempts_are_limited_for_an_address_and_for_a_time(tmp_path):
    moment = Moment()
    with house_in(tmp_path, clock=moment) as house:
        secret = house.key("mill", "ann", "reviewer")
        client = house.visitor()
        for _ in range(MOST_ATTEMPTS):
            assert client.post("/admin/login", data={"key": "lg_wrong"}).status_code == 401
        answer = client.post("/admin/login", data={"key": "lg_wrong"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "900")
        # Who guesses can't lock out those who share the address and have a key.
        assert client.post("/admin/login", data={"key": secret}).status_code == 303
        elsewhere = TestClient(
            house.app,
            base_url="http://127.0.0.1",
            headers=SAME_SITE,
            follow_redirects=False,
            client=("192.0.2.7", 1),
        )
        assert elsewhere.post("/admin/login", data={"key": "lg_wrong"}).status_code == 401
        moment.now += ATTEMPT_SECONDS + 1
        assert client.post("/admin/login", data={"key": "lg_wrong"}).status_code == 401


@pytest.mark.anyio
async def test_a_form_that_never_ends_gives_its_connection_back(house, monkeypatch):
    monkeypatch.setattr("lockgate.dashboard._app._FORM_SECONDS", 0.05)
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"sec-fetch-site", b"same-origin"), (b"content-length", b"9")]
    scope = {
        "type": "http", "method": "POST", "path": "/admin/login", "root_path": "", "query_string": b"",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
        "http_version": "1.1",
    }  # fmt: skip
    async with asyncio.timeout(20):
        await house.app(scope, receive, send)
    assert sent[0]["status"] == 408


def test_one_network_of_ipv6_is_one_client(house):
    def from_address(address):
        client = TestClient(
            house.app,
            base_url="http://127.0.0.1",
            headers=SAME_SITE,
            follow_redirects=False,
            client=(address, 1),
        )
        return client.post("/admin/login", data={"key": "lg_wrong"}).status_code

    codes = [from_address(f"2001:db8::{number:x}") for number in range(1, MOST_ATTEMPTS + 2)]
    assert codes == [401] * MOST_ATTEMPTS + [429]
    assert from_address("2001:db8:0:1::1") == 401


ELSEWHERE = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_forms_of_other_sites_are_refused(shared, admin, headers):
    form = {"csrf": csrf_of_page(admin.get("/admin/").text), "key": "x"}
    client = shared.visitor()
    client.cookies = admin.cookies
    del client.headers["sec-fetch-site"]
    for path in ("/login", "/logout", *(page.path for page in POSTS)):
        answer = client.post(f"/admin{path}", data=form, headers=headers)
        assert answer.status_code == 403
        assert "only from pages of this server" in answer.text
    assert admin.get("/admin/").status_code == 200


def test_forms_without_their_session_s_token_are_refused(shared, admin):
    other = csrf_of_page(shared.signed_in("mill", "ben", "admin").get("/admin/").text)
    assert len(other) == 64
    for token in ("", "0" * 64, other):
        for path in ("/logout", *(page.path for page in POSTS)):
            answer = admin.post(f"/admin{path}", data={"csrf": token})
            assert (answer.status_code, "too old" in answer.text) == (403, True)


def test_origin_and_header_do_for_browsers_without_fetch_metadata(shared):
    client = shared.signed_in("mill", "ann", "reviewer")
    token = csrf_of_page(client.get("/admin/").text)
    del client.headers["sec-fetch-site"]
    headers = {"origin": "http://127.0.0.1", "x-lockgate-csrf": token}
    assert client.post("/admin/review/undo", headers=headers).status_code == 303


def test_a_reviewer_reads_and_changes_no_keys(house):
    admin = house.signed_in("mill", "boss", "admin")
    assert admin.get("/admin/keys").status_code == 200
    client = house.signed_in("mill", "ann", "reviewer")
    before = house.tenants.keys("mill")
    token = csrf_of_page(client.get("/admin/").text)
    for page in _PAGES:
        if page.role == "admin":
            form = {"csrf": token, "tenant": "mill", "name": "new", "role": "admin", "key": before[0].prefix}
            answer = client.request(page.method, f"/admin{page.path}", data=form)
            assert answer.status_code == 403
            assert not any(key.prefix in answer.text for key in before)
    after = house.tenants.keys("mill")
    assert [(key.prefix, key.name, key.state) for key in after] == [
        (key.prefix, key.name, key.state) for key in before
    ]
    for page in GETS:
        if page.role != "admin":
            text = client.get(f"/admin{page.path}").text
            assert "/admin/keys" not in text
            assert not any(key.prefix in text for key in before)


@pytest.mark.parametrize("page", [page.path for page in GETS])
def test_answers_are_not_kept_and_run_no_code_of_others(admin, page):
    answer = admin.get(f"/admin{page}")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"
    assert re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", answer.text) is None


def test_assets_are_served_with_the_headers_and_nothing_else(shared):
    client = shared.visitor()
    answer = client.get("/admin/static/dashboard.css")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/admin/static/..%2f_app.py").status_code == 404
    assert client.get("/admin/nowhere").status_code == 404
    assert client.get("/admin").headers["location"].endswith("/admin/")


def test_a_form_that_is_too_large_or_broken_is_refused(admin):
    client = admin
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/admin/review", content=b"note=" + b"x" * 70_000, headers=kind).status_code == 413
    assert client.post("/admin/review", content=b"\xff=\xfe", headers=kind).status_code == 400


def test_text_of_exchanges_is_never_markup(house):
    log = opened_log(house.log, content="full")
    markup = "<script>window.pwned=1</script><img src=x onerror=y>"
    log.write(exchange(1, "mill"), content=Content((Turn("user", markup), Turn("assistant", markup))))
    log.close()
    client = house.signed_in("mill", "ann", "reviewer")
    for path in ("/review", "/exchanges/chatcmpl-1/0"):
        text = client.get(f"/admin{path}").text
        assert "&lt;script&gt;" in text
        assert "<img src=x" not in text


def test_a_log_that_is_gone_is_told_in_words(house):
    fill(house.log, [exchange(1)])
    client = house.signed_in("mill", "ann", "admin")
    for path in house.folder.glob("decisions.db*"):
        path.unlink()
    answer = client.get("/admin/")
    assert answer.status_code == 503
    assert "no such file" in answer.text
    assert client.get("/admin/keys").status_code == 200
