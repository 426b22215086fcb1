"""Run it for years, in a minute: shadow, review, rebuild, compare, promote, an alarm, and back.

A real server on a tiny model, real builds and a real browser. LOCKGATE_STORY_PICTURES names a folder for
pictures.
"""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from browsers import CHROMIUM_ARGS, find_chromium
from fake_endpoint import serving_endpoint
from logs import checked
from playwright.sync_api import expect, sync_playwright
from processes import Command
from stage import Kind, a_day, kind_of, theatre, write_files
from test_factory_faults import write_reply

from lockgate.cli import main
from lockgate.decisions import open_log
from lockgate.tenants import Tenants

pytestmark = pytest.mark.browser

CHROMIUM = find_chromium()
PICTURES = os.environ.get("LOCKGATE_STORY_PICTURES")
DAY: dict[Kind, int] = {"visit": 20, "shop": 12, "secret": 18}
REVIEWS = sum(DAY.values())
SIZES = {"wide": {"width": 1280, "height": 860}, "narrow": {"width": 390, "height": 800}}
CONFIG = """\
guard: guards/current
backbone: {model}
threads: 1
mode: shadow
listen: {{port: 0}}
log: {{path: decisions.db, content: full}}
operations: {{path: operations.db}}
upstreams: {{theatre: {{url: "{upstream}"}}}}
dashboard:
  guards: guards
  build:
    constitution: policy.yaml
    work: builds
    plan: plan.yaml
    benign: [traffic.jsonl]
    data: [data.jsonl]
    evaluation: [judged.jsonl]
    generator: {writer}
    model: writer
    epochs: 80
    folds: 0
    workers: 1
"""


def run(*words) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


class House:
    """The theatre's server: a folder with guards, and how to ask it and look at it."""

    def __init__(self, folder: Path, model: Path, upstream: str, writer: str) -> None:
        self.folder = folder
        write_files(folder)
        self.config = folder / "lockgate.yaml"
        self.config.write_text(CONFIG.format(model=model, upstream=upstream, writer=writer))
        (folder / "guards").mkdir()
        run(
            *("build", folder / "policy.yaml", "--out", folder / "guards" / "first"),
            *("--work", folder / "builds" / "build", "--plan", folder / "plan.yaml"),
            *("--benign", folder / "traffic.jsonl", "--data", folder / "early.jsonl"),
            *("--evaluation", folder / "judged.jsonl", "--backbone", model),
            *("--generator", writer, "--model", "writer", "--epochs", 80, "--folds", 0, "--workers", 1),
        )
        run("promote", folder / "guards" / "first", "--as", folder / "guards" / "current")
        with Tenants(folder / "operations.db") as tenants:
            tenants.add_tenant("theatre")
            self.keys = {
                role: tenants.create_key("theatre", name, role)[1]
                for role, name in (("client", "desk"), ("reviewer", "ann"), ("admin", "ada"))
            }

    def begin(self) -> Command:
        command = Command("-m", "lockgate", "serve", "--config", self.config, "--json", cwd=self.folder)
        self.url = json.loads(command.first_line())["url"]
        return command

    def ask(self, questions) -> None:
        """Send questions as clients do, some at a time."""
        headers = {"authorization": f"Bearer {self.keys['client']}"}

        def one(text: str) -> None:
            body = {"model": "theatre", "messages": [{"role": "user", "content": text}]}
            answer = client.post("/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["finish_reason"] == "stop"

        with httpx2.Client(base_url=self.url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
            list(pool.map(one, questions))


class Visitor:
    """Somebody at a browser who has signed in."""

    def __init__(self, browser, house: House, role: str) -> None:
        self.page = browser.new_context(viewport=SIZES["wide"]).new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.root = f"{house.url}/admin"
        self.go("/")
        self.page.get_by_label("Key").fill(house.keys[role])
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_role("heading", name="Overview")).to_be_visible()

    def go(self, path: str) -> None:
        self.page.goto(self.root + path)

    def picture(self, name: str) -> None:
        for size, viewport in SIZES.items():
            self.page.set_viewport_size(viewport)
            hidden = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert self.page.evaluate(hidden) == 0, (name, size)
            if PICTURES:
                self.page.screenshot(path=Path(PICTURES) / f"story-{name}-{size}.png")
        self.page.set_viewport_size(SIZES["wide"])

    def close(self) -> None:
        self.page.context.close()
        assert self.problems == []

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)


@pytest.fixture
def house(tmp_path, saved_backbone):
    writing = serving_endpoint(manners=lambda body, attempt: write_reply(body))
    with theatre() as upstream, writing as writer:
        yield House(tmp_path, saved_backbone("llama"), upstream, writer.url)


@pytest.fixture
def server(house):
    command = house.begin()
    yield command
    command.close()


@pytest.fixture
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


def review(ann: Visitor) -> dict[Kind, int]:
    """Judge exchanges by keyboard, as a person would who reads them. Return how many of each kind."""
    page, seen = ann.page, dict.fromkeys(DAY, 0)
    ann.go("/review")
    for number in range(REVIEWS):
        page.wait_for_load_state("load")
        kind = kind_of(page.locator(".turns").inner_text())
        seen[kind] += 1
        if number == 2:
            ann.picture("review")
        page.keyboard.press("y" if kind == "secret" else "n")
        expect(page.get_by_text(f"{number + 1} judged, 0 skipped by you")).to_be_visible()
    return seen


def changes_of(log: Path) -> list[tuple[str, str, str]]:
    with open_log(log) as opened:
        records = [stored.record for stored in opened.records(kinds=["guard"])]
    return [(one["before"]["name"], one["after"]["name"], one["by"]) for one in records]


def test_the_story(house, server, browser) -> None:
    guards, log = house.folder / "guards", house.folder / "decisions.db"

    # A day in shadow mode: everything passes, and the log says what would have been stopped.
    # All of it is reviewed, so that the same verdicts train the new guard in each run.
    house.ask(a_day(list(DAY.items()), first=3000))
    ada = Visitor(browser, house, "admin")
    ada.picture("shadow")

    # Its fifty exchanges are reviewed.
    ann = Visitor(browser, house, "reviewer")
    assert review(ann) == DAY
    ann.go("/review/results")
    expect(ann.page.get_by_text(f"{REVIEWS} verdicts of 1 reviewer")).to_be_visible()
    ann.close()

    # A new guard is built from what was said.
    page = ada.page
    ada.go("/builds")
    expect(page.get_by_text(f"learns from {REVIEWS} verdicts")).to_be_visible()
    page.get_by_label("Name of the new guard").fill("second")
    page.get_by_role("button", name="Start the build").click()
    expect(page.get_by_role("heading", name="second is being built")).to_be_visible()
    ada.picture("build")
    expect(page.locator(".job-done, .job-worse, .job-failed")).to_be_visible(timeout=300_000)
    page.get_by_role("link", name="second").click()
    # So few exchanges may leave it open whether it is no worse.
    expect(page.get_by_role("heading", name=re.compile("old guard: (no worse|unclear)"))).to_be_visible()
    ada.picture("comparison")

    # It takes over.
    page.get_by_role("link", name="Promote…").click()
    expect(page.get_by_role("heading", name="Promote second?")).to_be_visible()
    ada.picture("promote")
    assert (guards / "current").resolve() == guards / "first"
    page.get_by_role("button", name="Promote second").click()
    expect(page.locator("#running")).to_contain_text("second")
    ada.picture("promoted")
    assert (guards / "current").resolve() == guards / "second"

    # The traffic changes, and an alarm says so.
    house.ask(a_day([("visit", 20), ("secret", 100)], first=5000, seed=2))
    ada.go("/scores")
    expect(page.locator("main [role=alert], main .notice.bad").first).to_be_visible()
    ada.picture("alarm")

    # Back to the guard before, with one click.
    ada.go("/rollout")
    page.get_by_role("button", name="Roll back to first").click()
    expect(page.locator("#running")).to_contain_text("first")
    expect(page.locator("#changes tbody tr")).to_have_count(2)
    ada.picture("back")
    house.ask(a_day([("visit", 3)], first=6000))
    ada.close()

    # Link, log and command agree, also after the end.
    assert (guards / "current").resolve() == guards / "first"
    server.send(signal.SIGTERM)
    server.process.wait(60)
    assert "Traceback" not in server.errors.read_text()
    report = checked(log)
    assert (report.decisions, report.unfinished, report.lost, report.open) == (REVIEWS + 123, 0, 0, [])
    assert changes_of(log) == [("first", "second", "theatre/ada"), ("second", "first", "theatre/ada")]
    run("log", "verify", log)
