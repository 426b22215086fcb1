"""Open every page of the dashboard in Chromium and check it with axe, at two widths, light and dark.

    PYTHONPATH=tests:tests/dashboard python -m benchmarks.dashboard_pages

The house is filled with made-up traffic, alerts and reviews. Pages are found by their links, as a person would find
them, and named by their routes. Writes `results/dashboard_pages.json`; `benchmarks.operate` takes it over.
"""

import argparse
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from starlette.routing import BaseRoute, Match, Mount, Route

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "dashboard_pages.json"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
WIDTHS: tuple[ViewportSize, ...] = ({"width": 1280, "height": 860}, {"width": 390, "height": 800})
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
START, LOGIN = "/admin/", "/admin/login"
# A page of a refusal: nobody links to one.
REFUSAL = "/admin/exchanges?decision=nonsense"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    looks: list[dict[str, Any]] = []
    with _filled_house() as (url, secret, routes), sync_playwright() as playwright:
        from browsers import CHROMIUM_ARGS  # a helper of the tests, as are those below

        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        for width in WIDTHS:
            for scheme in SCHEMES:
                looks += _look(browser, url, secret, routes, width, scheme)
        version = browser.version
        browser.close()
    found = {
        "command": "PYTHONPATH=tests:tests/dashboard python -m benchmarks.dashboard_pages",
        "chromium": version,
        "pages": sorted({look["page"] for look in looks}),
        "axe_violations": sum(len(look["violations"]) for look in looks),
        "sideways": sum(look["sideways"] for look in looks),
        "looks": looks,
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "looks"}))


@contextmanager
def _filled_house() -> Iterator[tuple[str, str, Sequence[BaseRoute]]]:
    """Serve a dashboard. Give its address, an admin's key and its routes."""
    from browsers import serving_app
    from desks import day_of_traffic, fill, form_of_review, house_in, spread_times, with_alerts

    with tempfile.TemporaryDirectory() as folder, house_in(Path(folder)) as house:
        fill(house.log, day_of_traffic(300))
        spread_times(Path(folder) / "decisions.db")
        with_alerts(house)
        for name, verdicts in (
            ("ann", ("harmful", "harmless", "harmless")),
            ("ben", ("harmless", "harmless")),
        ):
            client = house.signed_in("mill", name, "reviewer")
            for verdict in verdicts:
                answer = client.post("/admin/review", data={**form_of_review(client), "verdict": verdict})
                if answer.status_code != 303:
                    raise RuntimeError(f"a review was not taken: {answer.status_code}")
        with serving_app(house.app) as url:
            yield url, house.key("canal", "ada", "admin"), house.dashboard.routes


def _look(
    browser: Browser,
    url: str,
    secret: str,
    routes: Sequence[BaseRoute],
    width: ViewportSize,
    scheme: Literal["light", "dark"],
) -> Iterator[dict[str, Any]]:
    """Open every page once, and say what axe finds there."""
    context = browser.new_context(viewport=width, color_scheme=scheme)
    page = context.new_page()

    def checked(name: str) -> dict[str, Any]:
        return {"page": name, "width": width["width"], "scheme": scheme, **_check(page)}

    page.goto(f"{url}{LOGIN}")
    yield checked(LOGIN)
    page.get_by_label("Key").fill(secret)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    seen, waiting = {LOGIN}, [START]
    while waiting:
        path = waiting.pop(0)
        name = route_of(path, routes)
        if name is None or name in seen:
            continue
        seen.add(name)
        page.goto(f"{url}{path}")
        yield checked(name)
        waiting += _links(page)
    page.goto(f"{url}{REFUSAL}")
    yield checked("a refusal")
    context.close()


def route_of(address: str, routes: Sequence[BaseRoute], above: str = "") -> str | None:
    """Return the route of a page, or None if the address is not one of a page."""
    path = urlsplit(address).path
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    for route in routes:
        if route.matches(scope)[0] is not Match.FULL:
            continue
        if isinstance(route, Mount):
            return route_of(path.removeprefix(route.path) or "/", route.routes or (), route.path)
        if isinstance(route, Route):
            return above + route.path
    return None


def _links(page: Page) -> list[str]:
    """Return where a page's links lead to. A file to download is no page."""
    found = page.eval_on_selector_all(
        "a[href^='/admin']:not([download])", "links => links.map(link => link.getAttribute('href'))"
    )
    return [re.sub("#.*", "", href) for href in found]


def _check(page: Page) -> dict[str, Any]:
    found = Axe().run(page).response
    if len(found["passes"]) <= 5:
        raise RuntimeError("axe has checked next to nothing")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return {"violations": [one["id"] for one in found["violations"]], "sideways": int(wide > 0)}


if __name__ == "__main__":
    main()
