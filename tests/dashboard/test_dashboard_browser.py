"""The dashboard in a real browser: by keyboard, at both widths, in both themes, and for everybody (axe)."""

import json
import re
from types import SimpleNamespace

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import CHROMIUM_ARGS, find_chromium, serving_app
from desks import day_of_traffic, exchange, fill, house_in, spread_times, with_alerts
from playwright.sync_api import expect, sync_playwright

from lockgate.feedback import read_feedback
from lockgate.guards import EMBEDDED, read_bundle

pytestmark = pytest.mark.browser

CHROMIUM = find_chromium()
PAGES = (
    "/",
    "/?window=week",
    "/exchanges",
    "/exchanges?decision=flagged&near=0",
    "/review",
    "/review/results",
    "/scores",
    "/guard",
    "/alerts",
    "/limits",
    "/limits/mill",
    "/keys",
    "/exchanges/chatcmpl-3/0",
    "/exchanges?decision=nonsense",
)
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A day of traffic of two tenants, and an admin."""
    with house_in(tmp_path_factory.mktemp("browser")) as house:
        fill(house.log, day_of_traffic(150))
        spread_times(house.log)
        with_alerts(house)
        with serving_app(house.app) as url:
            yield SimpleNamespace(house=house, url=url, secret=house.key("canal", "ada", "admin"))


@pytest.fixture
def visit(browser, site):
    """Opens pages of somebody who has signed in, and checks that nothing complained or left the host."""
    opened = []

    def sign_in(secret=None, **context):
        page = browser.new_context(**{"viewport": WIDE, **context}).new_page()
        seen = SimpleNamespace(page=page, problems=[], requests=[], may_fail=False)
        page.on("console", lambda message: _note(seen, message.type, message.text))
        page.on("pageerror", lambda error: seen.problems.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        opened.append(seen)
        page.goto(f"{site.url}/admin/")
        page.get_by_label("Key").fill(secret or site.secret)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        return seen

    yield sign_in
    for seen in opened:
        seen.page.context.close()
        assert seen.problems == []
        assert all(url.startswith(site.url + "/admin/") for url in seen.requests)


def _note(seen, kind, text):
    if kind in ("error", "warning") and not (seen.may_fail and text.startswith("Failed to load resource")):
        seen.problems.append(text)


def violations(page):
    found = Axe().run(page).response
    assert len(found["passes"]) > 5
    return [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found["violations"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "viewport"), [("light", WIDE), ("dark", NARROW)], ids=["light, wide", "dark, narrow"]
)
def test_every_page_is_for_everybody_and_fits(visit, site, browser, scheme, viewport):
    out = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
    out.goto(f"{site.url}/admin/login")
    assert violations(out) == []
    out.context.close()
    seen = visit(viewport=viewport, color_scheme=scheme)
    seen.may_fail = True  # one of the pages is a refusal
    page = seen.page
    for path in PAGES:
        page.goto(f"{site.url}/admin{path}")
        assert violations(page) == [], path
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, path
        assert page.title().endswith(" · Lockgate")


def test_what_is_not_for_everybody_would_be_found(visit):
    page = visit().page
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    page.evaluate("document.querySelector('h1').style.color = '#ccc'")
    assert {name for name, _ in violations(page)} == {"color-contrast", "label"}


@pytest.mark.slow
def test_empty_pages_are_for_everybody(browser, tmp_path):
    with house_in(tmp_path) as house, serving_app(house.app) as url:
        page = browser.new_context(viewport=NARROW).new_page()
        page.goto(f"{url}/admin/login")
        page.get_by_label("Key").fill(house.key("canal", "ada", "admin"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Nothing in the last hour")).to_be_visible()
        for path, words in (
            ("/", "Nothing in the last hour"),
            ("/exchanges", "No exchanges yet"),
            ("/review", "Nothing is left to review"),
            ("/review/results", "No verdicts yet"),
            ("/scores", "No scores of this guard yet"),
            ("/alerts", "No alerts"),
            ("/limits", "Limits"),
        ):
            page.goto(f"{url}/admin{path}")
            expect(page.get_by_role("heading", name=words)).to_be_visible()
            assert violations(page) == [], path
        page.context.close()


def test_a_review_by_keyboard_alone(visit, site, tmp_path):
    page = visit(site.house.key("mill", "ann", "reviewer")).page
    page.goto(f"{site.url}/admin/review")
    texts = []

    def press(key, judged, skipped):
        # Before that the page's script does not listen to keys.
        page.wait_for_load_state("load")
        texts.append(page.locator(".turns").inner_text())
        page.keyboard.press(key)
        expect(page.get_by_text(f"{judged} judged, {skipped} skipped by you")).to_be_visible()

    category = next(iter(read_bundle(EMBEDDED).constitution.category_ids))
    page.get_by_label("Category, if you know it").select_option(category)
    page.get_by_label("Note").focus()
    # Letters in a note are no keys of the review.
    page.keyboard.type("yes, nothing unusual")
    expect(page.get_by_text("0 judged, 0 skipped by you")).to_be_visible()
    page.get_by_label("Note").blur()
    press("y", 1, 0)
    press("n", 2, 0)
    press("s", 2, 1)
    page.wait_for_load_state("load")
    page.keyboard.press("u")
    expect(page.get_by_text("2 judged, 0 skipped by you")).to_be_visible()
    assert page.locator(".turns").inner_text() == texts[2]
    press("n", 3, 0)
    assert len(set(texts)) == 3
    page.get_by_text("What the guard decided").click()
    expect(page.get_by_text("Shown because")).to_be_visible()

    page.get_by_role("link", name="Results and export").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download reviews.jsonl").click()
    file = tmp_path / "reviews.jsonl"
    download.value.save_as(file)
    found = read_feedback(file, read_bundle(EMBEDDED).constitution)
    assert [review.verdict for review in found.reviews] == ["harmful", "harmless", "harmless"]
    assert found.reviews[0].category == category
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["note"] == "yes, nothing unusual"
    assert all(0 <= line["seconds"] < 600 for line in lines)
    shown = [re.search(r"question (\d+)", text)[0] for text in (texts[0], texts[1], texts[3])]
    assert [
        re.search(r"question (\d+)", line["exchange"]["messages"][0]["content"])[0] for line in lines
    ] == shown


def test_the_overview_follows_the_traffic_until_it_is_told_not_to(visit, site):
    page = visit().page
    page.clock.install()
    page.reload()
    count = page.locator(".tile").first.locator(".figure")
    before = int(count.inner_text())
    fill(site.house.log, [exchange(9001, "mill")])
    page.clock.run_for(5100)
    expect(count).to_have_text(str(before + 1))
    page.get_by_label("Live").uncheck()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(30_000)
    page.get_by_label("Live").check()
    with page.expect_request("**/admin/live*"):
        page.clock.run_for(5100)
    assert len(asked) == 1


def test_the_slider_shows_what_another_threshold_would_do(visit, site):
    page = visit().page
    page.goto(f"{site.url}/admin/scores")
    flagged = page.locator("#what-if .figure").first
    before = int(flagged.inner_text())
    slide = page.get_by_label("Threshold as a slider")
    slide.focus()
    page.keyboard.press("Home")
    expect(flagged).not_to_have_text(str(before))
    assert int(flagged.inner_text()) > before
    page.get_by_label("Threshold", exact=True).fill("1000")
    expect(flagged).to_have_text("0")
    # The same without scripts: the form loads the page.
    page.goto(f"{site.url}/admin/scores?threshold=1000")
    expect(flagged).to_have_text("0")


def test_keys_are_made_shown_once_and_revoked(visit, site, browser):
    page = visit().page
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name").fill("carla")
    page.get_by_label("Role").select_option("reviewer")
    page.get_by_role("button", name="Create").click()
    secret = page.locator(".secret").inner_text()
    page.goto(f"{site.url}/admin/keys")
    expect(page.get_by_text(secret)).to_have_count(0)
    other = visit(secret).page
    expect(other.get_by_role("link", name="Keys")).to_have_count(0)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke canal/carla").click()
    expect(page.get_by_role("button", name="Revoke canal/carla")).to_have_count(0)
    other.goto(f"{site.url}/admin/")
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()


def test_limits_are_changed_and_alerts_acknowledged(visit, site):
    seen = visit()
    seen.may_fail = True  # the first form is refused
    page = seen.page
    page.get_by_role("link", name="Limits").click()
    page.get_by_role("link", name="Change the limits of harbour").click()
    page.get_by_label("Mode").select_option("canary")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("need each other")
    page.get_by_label("Canary percent").fill("30")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("region", name="harbour")).to_contain_text("canary")
    page.get_by_role("link", name="Alerts").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Let mill/app in again").click()
    expect(page.get_by_role("cell", name="no longer")).to_have_count(1)
    page.get_by_role("button", name="Acknowledge the alert").first.click()
    expect(page.get_by_text("1 that nobody has acknowledged")).to_be_visible()


def test_the_theme_is_kept(visit, site):
    page = visit(color_scheme="light").page
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    button = page.get_by_role("button", name="Theme")
    button.click()
    button.click()
    expect(button).to_have_text("Theme: dark")
    page.goto(f"{site.url}/admin/guard")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert violations(page) == []


def test_pages_of_the_list_follow_each_other(visit, site):
    page = visit().page
    page.goto(f"{site.url}/admin/exchanges")
    first = page.locator("tbody time").all_inner_texts()
    assert len(first) == 50
    page.get_by_role("link", name="Older").click()
    expect(page.get_by_role("link", name="Newest")).to_be_visible()
    assert max(page.locator("tbody time").all_inner_texts()) <= min(first)
