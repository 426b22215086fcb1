"""Make docs/images/halted-stream.png: the playground while a real guard halts a real stream.

    PYTHONPATH=. .venv/bin/python docs/picture.py

It needs Chromium, works in runs/picture and goes on where it stopped.

The embedded model answers questions about stage magic. A probe is trained on the answers under the shipped
policy `stage-magic`, which keeps methods secret. Everyday answers calibrate it. The labels follow from the
questions. That is good enough for a picture, and not the way to make a guard.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from playwright.sync_api import Page, expect, sync_playwright

from lockgate.backbones import Backbone
from lockgate.backbones.generation import generate_answers
from lockgate.decisions import read_decisions
from lockgate.exchanges import Exchange, Message, write_exchanges

ROOT = Path(__file__).parents[1]
WORK = ROOT / "runs" / "picture"
IMAGE = ROOT / "docs" / "images" / "halted-stream.png"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
QUESTION = "What does the audience see in the coin trick, and how is it done?"
BUDGET = "0.05"

TRICKS = (
    *("rising card", "card force", "colour changing deck", "coin through the table", "sponge balls"),
    *("cut and restored rope", "linking rings", "floating lady", "sawing a person in half", "egg bag"),
    *("disappearing elephant", "escape from the milk can", "straitjacket escape", "metamorphosis trunk"),
    *("sealed envelope prediction", "two-person mind reading act", "book test", "needle through balloon"),
    *("dove from the silk", "three card trick", "ball under the cup", "torn and restored newspaper"),
)
METHODS = ("What is the secret of the {}?", "Explain step by step how a magician does the {}.")
SHOWS = ("What does the audience see in the {}?", "Who made the {} famous?")
# The first four train; the others calibrate.
THINGS = (
    *("bread", "tea", "a bicycle", "rain", "the moon", "a garden", "a library", "soup", "a train", "the sea"),
    *("honey", "a piano", "chess", "snow", "sleep", "a market", "pottery", "a canal", "wool", "maps"),
)
EVERYDAY = (
    "Tell me something about {}.",
    "Why do people like {}?",
    "Give me three facts about {}.",
    "Write two sentences about {}.",
)


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    training, traffic, guard = WORK / "training.jsonl", WORK / "traffic.jsonl", WORK / "guard"
    if not (training.exists() and traffic.exists()):
        answer_questions(training, traffic)
    if not guard.exists():
        options = ("--constitution", "stage-magic", "--max-tokens", 128, "--output", WORK / "raw")
        run_lockgate("train", "probe", "--input", training, *options)
        run_lockgate("calibrate", WORK / "raw", "--input", traffic, "--budget", BUDGET, "--output", guard)
    with serving(guard) as url:
        take_picture(url)


def answer_questions(training: Path, traffic: Path) -> None:
    """Write what trains (methods, shows, some everyday things) and what calibrates (the other things)."""
    asked = [(form.format(trick), 1.0) for form in METHODS for trick in TRICKS]
    asked += [(form.format(trick), 0.0) for form in SHOWS for trick in TRICKS]
    everyday = [(form.format(thing), 0.0) for thing in THINGS for form in EVERYDAY]
    asked += everyday
    prompts = [(Message("user", text),) for text, _ in asked]
    backbone = Backbone.load("embedded", dtype=torch.bfloat16)
    answers = dict(generate_answers(backbone, prompts, max_tokens=28, temperature=0.6))
    rows = [
        Exchange((*prompts[number], Message("assistant", answers[number] or ".")), label=label)
        for number, (_, label) in enumerate(asked)
    ]
    split = len(rows) - len(everyday) + 4 * len(EVERYDAY)
    write_exchanges(training, rows[:split])
    write_exchanges(traffic, rows[split:])


def run_lockgate(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "lockgate", *map(str, arguments)], cwd=ROOT, check=True)


@contextmanager
def serving(guard: Path) -> Iterator[str]:
    """The URL of a running `lockgate serve`."""
    command = [sys.executable, "-m", "lockgate", "serve", "--guard", str(guard), "--port", "0"]
    log = ["--decisions", str(WORK / "decisions.db")]
    process = subprocess.Popen([*command, *log], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline() if process.stdout else ""
        yield line.removeprefix("Lockgate is ready: ").split()[0]
    finally:
        process.terminate()
        process.wait(60)


def take_picture(url: str) -> None:
    """Ask in the playground and photograph the halt. Fails where the guard does not halt."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1080, "height": 640}, color_scheme="light")
        page.goto(url)
        ask(page, QUESTION, temperature=0.0)
        page.screenshot(path=IMAGE)
        browser.close()
    decision = read_decisions(WORK / "decisions.db")[-1]
    print(f"{IMAGE.relative_to(ROOT)}: {decision.decision} at answer token {decision.token_index}")


def ask(page: Page, question: str, *, temperature: float) -> None:
    """Send a question and wait for the halt."""
    page.get_by_label("Temperature").fill(str(temperature))
    page.get_by_label("Max tokens").fill("120")
    page.get_by_label("Your message").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".answer").last).to_have_attribute("data-state", "halted", timeout=120_000)


if __name__ == "__main__":
    main()
