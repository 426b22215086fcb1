"""Pages of builds and of the rollout in a real browser: for everybody (axe), at both widths and themes."""

import pytest
from browsers import CHROMIUM_ARGS, find_chromium, serving_app
from playwright.sync_api import expect, sync_playwright
from rollouts import rollout_site, save_guards
from test_dashboard_browser import NARROW, WIDE, violations
from test_dashboard_builds import keep

pytestmark = pytest.mark.browser

CHROMIUM = find_chromium()
PAGES = (
    "/rollout",
    "/rollout/to/plain",
    "/rollout/to/first",
    "/rollout/to/damaged",
    "/builds",
    "/builds/of/second",
    "/builds/of/weak",
    "/builds/of/lost",
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with builds of all kinds, and two changes of the guard behind it."""
    folder = tmp_path_factory.mktemp("rollout")
    guards = save_guards(folder / "guards")
    with (
        rollout_site(folder, guards, ("policy.yaml",), begins=False) as site,
        serving_app(site.app, lifespan="on") as url,
    ):
        secret = site.key("ada", "admin")
        for name, state in (("second", "done"), ("weak", "worse"), ("lost", "running")):
            keep(site, name, state, problem="the new one is worse" if state == "worse" else None)
        yield site, url, secret


def sign_in(browser, url, secret, **context):
    page = browser.new_context(**context).new_page()
    problems = []
    page.on("console", lambda one: problems.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{url}/admin/")
    page.get_by_label("Key").fill(secret)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    return page, problems


def check(page, path):
    assert violations(page) == [], path
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0, path


@pytest.mark.slow
def test_there_and_back_by_click(browser, served):
    site, url, secret = served
    page, problems = sign_in(browser, url, secret, viewport=WIDE)
    page.goto(f"{url}/admin/builds/of/second")
    page.get_by_role("link", name="Promote…").click()
    page.get_by_role("button", name="Promote second").click()
    expect(page.locator("#running")).to_contain_text("second")
    page.get_by_role("button", name="Roll back to first").click()
    expect(page.locator("#running")).to_contain_text("first")
    expect(page.locator("#changes tbody tr")).to_have_count(2)
    page.get_by_role("link", name="Promote second").click()
    page.get_by_role("button", name="Promote second").click()
    expect(page.locator("#running")).to_contain_text("second")
    assert [one.after.name for one in site.changes()] == ["second", "first", "second"]
    assert problems == []
    page.context.close()


def test_a_refusal_is_told_on_the_page(browser, served):
    _, url, secret = served
    page, problems = sign_in(browser, url, secret, viewport=NARROW)
    page.goto(f"{url}/admin/builds")
    page.get_by_label("Name of the new guard").fill("next")
    page.get_by_role("button", name="Start the build").click()
    expect(page.get_by_role("alert")).to_contain_text("no verdict with a text yet")
    check(page, "refused")
    # The refusal is no page that was asked for and found.
    assert all("409" in problem for problem in problems)
    page.context.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "viewport"), [("light", WIDE), ("dark", NARROW)], ids=["light, wide", "dark, narrow"]
)
def test_every_page_is_for_everybody_and_fits(browser, served, scheme, viewport):
    _, url, secret = served
    page, problems = sign_in(browser, url, secret, viewport=viewport, color_scheme=scheme)
    for path in PAGES:
        page.goto(f"{url}/admin{path}")
        check(page, path)
        assert page.title().endswith(" · Lockgate")
    # One of the pages is a refusal.
    assert all("409" in problem for problem in problems)
    page.context.close()
