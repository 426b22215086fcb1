"""Addresses that make no sense are refused in words: none is an error of the server."""

from urllib.parse import quote

import pytest
from desks import day_of_traffic, fill, house_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lockgate.dashboard._app import _PAGES

GETS = [page.path for page in _PAGES if page.method == "GET"]
NAMES = ["window", "decision", "category", "tenant", "since", "until", "near", "before", "threshold"]
NAMES += ["guard", "exchange", "choice", "picked", "signature"]
HUGE = ["9" * 19, "9" * 400, "9" * 5000, "-" + "9" * 30, str(1 << 31), str(1 << 63), "1e400", "nan", "-inf"]
TIMES = ["0001-01-01", "9999-12-31T23:59:59-23:59", "10000-01-01", "0001-01-01T00:00+14:00", "2026-13-01"]
PLACES = ["2026_x_" + "9" * 19, "_x_1", "9999_x_1", "2026-01-01T00:00:00.000Z_\0_1", "__", "x_x_²"]
PARTS = st.one_of(
    st.sampled_from([*HUGE, *TIMES, *PLACES, "\0", "²", "١", "", " ", "random", "flag", "..", "%00", "%ff"]),
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
)


@pytest.fixture(scope="module")
def admins(tmp_path_factory, postgres):
    """An admin of a house on each kind of database."""
    with (
        house_in(tmp_path_factory.mktemp("odd")) as one,
        house_in(tmp_path_factory.mktemp("odd"), log=(where := postgres.database()), operations=where) as two,
    ):
        clients = []
        for house in (one, two):
            fill(house.log, day_of_traffic(40))
            client = house.signed_in("canal", "ada", "admin")
            # A fault of the server becomes its answer, as it would for a browser.
            patient = TestClient(house.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
            patient.cookies = client.cookies
            clients.append(patient)
        yield clients


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 1),
    st.sampled_from(GETS),
    st.dictionaries(st.sampled_from(NAMES), PARTS, max_size=3),
    st.lists(PARTS, max_size=2),
)
def test_no_address_is_an_error_of_the_server(admins, which, path, query, parts):
    for name, part in zip(("{exchange}", "{choice}"), [*parts, "0", "0"], strict=False):
        path = path.replace(name, quote(part or "0", safe=""))
    for name in ("{tenant}", "{name}"):
        path = path.replace(name, quote(parts[0] if parts else "mill", safe=""))
    answer = admins[which].get(f"/admin{path}", params=query, follow_redirects=False)
    assert answer.status_code in (200, 303, 400, 404), (path, query)


@pytest.mark.parametrize(
    "path",
    [
        f"/exchanges/chatcmpl-1/{'9' * 30}",
        f"/exchanges/chatcmpl-1/{'9' * 5000}",
        "/exchanges/chatcmpl-1/-1",
        "/exchanges/chatcmpl%00/0",
        "/exchanges?category=%00",
        f"/exchanges?before=2026_x_{'9' * 19}",
        "/exchanges?since=10000-01-01",
        "/exchanges?since=9999-12-31T23:59-23:59",
        "/exchanges?near=1e400",
        "/scores?threshold=1e400",
    ],
)
def test_what_is_too_large_or_cannot_be_kept_is_refused_in_words(admins, path):
    for client in admins:
        answer = client.get(f"/admin{path}")
        assert (answer.status_code, "xpected" in answer.text or "Take it out" in answer.text) == (400, True)
