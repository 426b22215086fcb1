"""The page and its assets over plain HTTP: who gets them, and the limits of the page."""

import re
from pathlib import Path

import pytest
from serving import CHAT, ask, client_for, events_of, scoring_for
from staging import CALM, staged

from lockgate.constitution import load_constitution
from lockgate.decisions import LogOptions
from lockgate.gateway import EngineOptions, Gateway, GatewayOptions, playground

pytestmark = pytest.mark.anyio

STATIC = Path(playground.__file__).parent / "static"
ASSETS = sorted(path.name for path in STATIC.iterdir())
ABOUT = {
    "name": "demo",
    "sha256": "0123456789abcdef" * 4,
    "constitution": {"name": "general-harms", "version": load_constitution("general-harms").version},
    "calibrated": True,
    "budget": 0.0005,
}


@pytest.fixture
def make_page(tmp_path, backbone, head):
    """The page's text, from a gateway with some options and something known of its guard."""

    async def make(about=ABOUT, *, scoring=True, **options):
        options = {"log": LogOptions(tmp_path / "log.db"), "risk_events": True, **options}
        gateway = Gateway(
            backbone, scoring_for(backbone, head) if scoring else None, GatewayOptions(**options), about
        )
        async with client_for(gateway) as client:
            response = await client.get("/")
        assert response.status_code == 200
        return response.text

    return make


async def test_page_and_assets_forbid_everything_foreign(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), risk_events=True)
    async with client_for(gateway) as client:
        responses = [await client.get(path) for path in ("/", *(f"/static/{name}" for name in ASSETS))]
    for response in responses:
        assert response.status_code == 200
        policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-frame-options"] == "DENY"
    assert responses[0].headers["cache-control"] == "no-store"


async def test_assets_have_the_types_that_browsers_insist_on(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), risk_events=True)
    wanted = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    async with client_for(gateway) as client:
        for name in ASSETS:
            kind = (await client.get(f"/static/{name}")).headers["content-type"]
            assert wanted[Path(name).suffix] in kind


@pytest.mark.parametrize("path", ["/", "/static/playground.js"])
async def test_page_is_not_there_unless_enabled(make_gateway, backbone, head, path):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        response = await client.get(path)
    assert response.status_code == 404
    assert "playground" in response.json()["error"]["message"]


async def test_nothing_beside_the_assets_is_served(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), risk_events=True)
    async with client_for(gateway) as client:
        for path in (
            "/static/",
            "/static/none.js",
            "/static/%2e%2e/playground.py",
            "/static/..%2fplayground.py",
        ):
            response = await client.get(path)
            assert response.status_code == 404
            assert "error" in response.json()


@pytest.mark.parametrize("name", ASSETS)
def test_assets_name_no_other_host(name):
    text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:https?|wss?)://|[\"'(]//|@import|sourceMappingURL", text)


@pytest.mark.parametrize("name", [name for name in ASSETS if name.endswith(".js")])
def test_scripts_never_make_markup_from_text(name):
    text = (STATIC / name).read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc", text
    )
    assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie", text)


async def test_page_has_no_inline_code_and_no_foreign_address(make_page):
    page = await make_page()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|https?://|[\"']//", page)
    assert not re.search(r"<script(?![^>]*\ssrc=)", page)
    assert set(re.findall(r"(?:src|href)=\"([^\"#]+)\"", page)) == {
        f"/static/{name}" for name in ("icon.svg", "playground.css", "playground.js")
    }


async def test_what_comes_from_outside_is_escaped(make_page):
    probe = "\"><script>alert('x')</script>&"
    about = {
        **ABOUT,
        "name": probe,
        "sha256": probe,
        "constitution": {"name": probe, "version": probe, "categories": {probe: probe}},
    }
    page = await make_page(about)
    assert page.count("<script") == 1
    assert "alert('x')</script>" not in page


async def test_page_tells_the_guard(make_page):
    page = await make_page()
    for words in ("Budget 0.05 %", "general-harms", "demo", "0123456789ab", "Guard on"):
        assert words in page
    for category in load_constitution("general-harms").harmful[:3]:
        assert category.id in page
        assert category.title.split()[0] in page
    assert 'id="uncalibrated"' not in page
    assert 'id="key"' not in page


@pytest.mark.parametrize("about", [None, {**ABOUT, "calibrated": False, "budget": None}])
async def test_guard_without_calibration_is_called_uncalibrated(make_page, about):
    page = await make_page(about)
    assert 'id="uncalibrated"' in page
    assert "Budget" not in page


async def test_page_of_an_unguarded_server_says_so(make_page):
    page = await make_page(None, scoring=False, engine=EngineOptions(mode="off"))
    assert "Guard off" in page
    assert "uncalibrated" not in page.lower()


async def test_open_server_shows_no_scores_and_asks_for_its_key(make_page):
    page = await make_page(loopback=False, api_key="sesame")
    assert 'id="key"' in page
    assert "sesame" not in page
    assert 'id="numbers"' not in page
    assert "only sent to the server" in page


def test_titles_are_the_guards_own_before_the_shipped_ones():
    shipped = load_constitution("stage-magic")
    named = {"name": shipped.name, "version": shipped.version}
    assert playground.category_titles(named) == {c.id: c.title for c in shipped.harmful}
    assert playground.category_titles({**named, "categories": {"a": "A"}}) == {"a": "A"}
    assert playground.category_titles({**named, "version": "99.0.0"}) == {}
    assert playground.category_titles({}) == {}


@pytest.mark.parametrize("stages", [1, 2])
async def test_page_says_which_threshold_its_line_is(make_gateway, backbone, head, stages):
    scoring = scoring_for(backbone, head, 1.25) if stages == 1 else staged(backbone, head, CALM)[0]
    gateway = make_gateway(backbone, scoring, risk_events=True)
    async with client_for(gateway) as client:
        page = (await client.get("/")).text
        headers = {"x-lockgate-risk": "1"}
        events = events_of(await client.post(CHAT, json=ask(max_tokens=6, stream=True), headers=headers))
    line = {1: "flag", 2: "escalation"}[stages]
    assert f"The line is the {line} threshold" in page
    assert {event["lockgate"]["line"] for event in events if "tokens" in event.get("lockgate", {})} == {line}
