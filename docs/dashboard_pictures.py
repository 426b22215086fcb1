"""Make the pictures of docs/dashboard.md: the dashboard over made-up traffic, in Chromium.

    PYTHONPATH=. .venv/bin/python docs/dashboard_pictures.py

The traffic has drawn scores and talk about boats; nothing in it was written by people or models.
"""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import ViewportSize, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "dashboard")]

from browsers import CHROMIUM_ARGS, serving_app  # noqa: E402 - the tests' helpers are found from here on
from desks import day_of_traffic, fill, house_in, spread_times  # noqa: E402

IMAGES = ROOT / "docs" / "images"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PICTURES = {"overview": "/", "review": "/review", "scores": "/scores"}
SIZE: ViewportSize = {"width": 1100, "height": 700}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, house_in(Path(folder)) as house:
        fill(house.log, day_of_traffic(900))
        spread_times(Path(folder) / "decisions.db")
        key = house.key("canal", "ada", "admin")
        with serving_app(house.app) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(f"{url}/admin/")
            page.get_by_label("Key").fill(key)
            page.keyboard.press("Enter")
            page.get_by_role("heading", name="Overview").wait_for()
            for name, path in PICTURES.items():
                page.goto(f"{url}/admin{path}")
                page.screenshot(path=IMAGES / f"dashboard-{name}.png")
            browser.close()


if __name__ == "__main__":
    main()
