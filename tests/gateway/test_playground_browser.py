"""The page in a real browser, against a real server with a tiny model behind a real guard."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from browsers import CHROMIUM_ARGS, find_chromium
from engine_runs import new_run, oracle_answer, oracle_scores
from live import Site, Valve, Visit, serving
from models import random_head, tiny_backbone
from playwright.sync_api import Page, expect, sync_playwright
from serving import GatewayFactory, decisions_of, scoring_for

pytestmark = pytest.mark.browser

CHROMIUM = find_chromium()

PASSING, HALTING = "how does the boat pass", "water"
LENGTH = 40
ENDED = re.compile("done|halted")
REFUSAL = "<b>The gates stay shut.</b>"
MARKUP = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
ABOUT = {
    "name": "tiny",
    "sha256": "ab" * 32,
    "constitution": {
        "name": "canal",
        "version": "1.0.0",
        "categories": {"first": "Flooding <the> mill", "second": "Draining the canal"},
    },
    "calibrated": False,
    "budget": None,
}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def model():
    """A tiny model under a probe and a threshold that lets PASSING through and halts HALTING midway."""
    backbone = tiny_backbone("llama")
    wide = random_head(backbone)
    head = replace(wide, weights=wide.weights * 0.15)
    scores = {}
    for text in (PASSING, HALTING):
        run = new_run(backbone, text, LENGTH)
        answer = oracle_answer(backbone, run.job.prompt, LENGTH)
        all_scores = oracle_scores(backbone, head, run.job.prompt + answer, run.job.regions)
        scores[text] = all_scores[-len(answer) :]
    threshold = max(scores[PASSING]) + 0.15
    crossing = next(index for index, score in enumerate(scores[HALTING]) if score > threshold)
    assert len(scores[PASSING]) == LENGTH
    assert crossing >= 8
    return SimpleNamespace(
        backbone=backbone, head=head, threshold=threshold, scores=scores[PASSING], crossing=crossing
    )


@pytest.fixture(scope="module")
def open_site(model, tmp_path_factory):
    """Makes gateways of the module's model and serves them."""
    factory = GatewayFactory(tmp_path_factory.mktemp("playground"))

    @contextmanager
    def open_one(flag=model.threshold, flag_on="answer", **options):
        valve = Valve(model.backbone, model.head)
        scoring = scoring_for(model.backbone, model.head, flag, tap=valve, flag_on=flag_on)
        scoring = None if options.get("mode") == "off" else replace(scoring, refusal=REFUSAL)
        gateway = factory(model.backbone, scoring, risk_events=True, **options)
        gateway.about_guard = None if scoring is None else ABOUT
        with serving(gateway) as url:
            try:
                yield Site(url, gateway, valve, flag)
            finally:
                valve.open()

    return open_one


@pytest.fixture(scope="module")
def site(open_site):
    with open_site() as served:
        yield served


@pytest.fixture
def visit(browser):
    """Opens pages, and checks at the end that none of them complained or left its host."""
    visits = []

    def open_page(site: Site, **context) -> Visit:
        page = browser.new_context(**context).new_page()
        seen = Visit(page)
        page.on("console", lambda message: _note(seen, message.type, message.text))
        page.on("pageerror", lambda error: seen.problems.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        visits.append((site, seen))
        page.goto(site.url)
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Max tokens").fill(str(LENGTH))
        return seen

    yield open_page
    for served, seen in visits:
        seen.page.context.close()
        served.valve.open()
        assert seen.problems == []
        assert all(url.startswith(served.url + "/") for url in seen.requests)


def _note(seen, kind, text):
    if kind in ("error", "warning") and not (seen.may_fail and text.startswith("Failed to load resource")):
        seen.problems.append(text)


def test_answer_comes_token_by_token_with_tints_and_scores(visit, site, model):
    seen = visit(site)
    page = seen.page
    site.valve.let_through(8)
    seen.ask(PASSING, "streaming")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    first = seen.tokens.count()
    assert 0 < first < 10
    site.valve.let_through(10)
    seen.wait_for(lambda: seen.tokens.count() > first + 4)
    assert seen.tokens.count() < LENGTH
    expect(seen.answer).to_have_attribute("data-state", "streaming")
    site.valve.open()
    expect(seen.answer).to_have_attribute("data-state", "done", timeout=30_000)
    expect(seen.tokens).to_have_count(LENGTH)

    shown = seen.tokens.evaluate_all(
        "all => all.map((token) => [token.dataset.score, token.title, token.dataset.band,"
        " getComputedStyle(token).backgroundColor])"
    )
    for (number, title, band, _), score in zip(shown, model.scores, strict=True):
        assert float(number.replace("−", "-")) == pytest.approx(score, abs=0.011)
        assert title.startswith(f"score {number}, ")
        assert title.endswith(" below the threshold")
        assert band == ("close" if score > model.threshold - 1.5 else "below")
    tints = {colour for *_, colour in shown}
    assert len(tints) > 3
    highest, lowest = model.scores.index(max(model.scores)), model.scores.index(min(model.scores))
    assert shown[highest][3] != shown[lowest][3]
    expect(seen.answer.locator(".foot")).to_contain_text(f"{LENGTH} tokens")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_text("Dotted underline: close to the threshold.")).to_be_visible()


def test_line_is_drawn_against_the_threshold(visit, site, model):
    seen = visit(site)
    expect(seen.page.get_by_text("The line is drawn as the answer is written.")).to_be_visible()
    seen.ask(PASSING)
    seen.wait_for(lambda: len(points(seen.page)) == LENGTH)
    line = points(seen.page)
    limit = float(seen.page.locator(".chart-threshold").get_attribute("y1"))
    assert [x for x, _ in line] == sorted({x for x, _ in line})
    assert all(y > limit for _, y in line)
    assert min(range(LENGTH), key=lambda i: line[i][1]) == model.scores.index(max(model.scores))
    expect(seen.page.locator(".chart-label")).to_contain_text(f"threshold {model.threshold:.2f}")
    expect(seen.page.locator(".chart-halt")).to_be_hidden()


def test_halt_is_visible_with_category_and_refusal(visit, site, model):
    seen = visit(site)
    seen.ask(HALTING, "halted")
    banner = seen.answer.get_by_role("alert")
    expect(banner).to_contain_text("Halted · ")
    decision = decisions_of(site.gateway)[-1]
    expect(banner).to_contain_text(ABOUT["constitution"]["categories"][decision["category"]])
    expect(banner).to_contain_text(REFUSAL)
    expect(banner).to_contain_text("above the threshold")
    assert banner.locator("b").count() == 0
    expect(seen.tokens).to_have_count(model.crossing)
    assert float(seen.answer.locator(".text").evaluate("node => getComputedStyle(node).opacity")) < 1
    expect(seen.page.locator(".chart-halt")).to_be_visible()
    limit = float(seen.page.locator(".chart-threshold").get_attribute("y1"))
    line = points(seen.page)
    assert len(line) == model.crossing + 1
    assert line[-1][1] < limit
    assert all(y >= limit for _, y in line[:-1])


def test_conversation_goes_on_after_a_halt(visit, site):
    seen = visit(site)
    seen.ask(HALTING, "halted")
    with seen.page.expect_request("**/v1/chat/completions") as sent:
        seen.ask("and now", None)
    messages = json.loads(sent.value.post_data)["messages"]
    assert messages == [
        {"role": "user", "content": HALTING},
        {"role": "assistant", "content": None, "refusal": REFUSAL},
        {"role": "user", "content": "and now"},
    ]
    expect(seen.answer).not_to_have_attribute("data-state", re.compile("waiting|streaming|failed"))


def test_stop_button_ends_the_request_and_keeps_the_text(visit, site):
    seen = visit(site)
    site.valve.let_through(12)
    seen.ask(PASSING, "streaming")
    seen.wait_for(lambda: seen.tokens.count() > 4)
    before = len(decisions_of(site.gateway))
    seen.page.get_by_role("button", name="Stop").click()
    expect(seen.answer).to_have_attribute("data-state", "stopped")
    expect(seen.answer.locator(".foot")).to_contain_text("Stopped by you")
    expect(seen.page.get_by_role("button", name="Send")).to_be_visible()
    assert 4 < seen.tokens.count() < LENGTH
    site.valve.open()
    seen.wait_for(lambda: len(decisions_of(site.gateway)) > before)
    assert decisions_of(site.gateway)[-1]["decision"] == "cancelled"

    text = seen.answer.locator(".text").text_content()
    with seen.page.expect_request("**/v1/chat/completions") as sent:
        seen.ask("go on", None)
    body = json.loads(sent.value.post_data)
    assert [message["content"] for message in body["messages"]] == [PASSING, text, "go on"]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, LENGTH, True)


def test_escape_stops_and_new_chat_forgets(visit, site):
    seen = visit(site)
    site.valve.let_through(6)
    seen.ask(PASSING, "streaming")
    # All that the valve lets through. With less of it, the next question would have another history.
    expect(seen.tokens).to_have_count(5)
    seen.page.keyboard.press("Escape")
    expect(seen.answer).to_have_attribute("data-state", "stopped")
    # Until the server has seen the page go, the answer before would take the next one's steps.
    site.valve.open()
    seen.wait_for(lambda: site.gateway.engine.active_streams == 0)
    site.valve.let_through(6)
    seen.ask("again", "streaming")
    seen.page.get_by_role("button", name="New chat").click()
    expect(seen.page.locator(".turn")).to_have_count(0)
    expect(seen.page.get_by_role("heading", name="Every word passes the gate")).to_be_visible()
    site.valve.open()
    with seen.page.expect_request("**/v1/chat/completions") as sent:
        seen.ask(PASSING)
    assert len(json.loads(sent.value.post_data)["messages"]) == 1
    expect(seen.tokens).to_have_count(LENGTH)


def test_markup_stays_text(visit, site):
    seen = visit(site)
    seen.ask(MARKUP, ENDED)
    expect(seen.page.locator(".question .text")).to_have_text(MARKUP)
    shown = seen.page.evaluate(
        """async (markup) => {
            const { AnswerView } = await import("/static/transcript.js");
            const view = new AnswerView();
            document.getElementById("log").append(view.root);
            const chunk = (delta, reason = null) => ({ choices: [{ delta, finish_reason: reason }] });
            const lockgate = { tokens: [{ text: markup, score: 1 }], threshold: 2 };
            view.add({ ...chunk({ content: markup }), lockgate });
            view.add(chunk({ content: markup }));
            view.add(chunk({}, "stop"));
            view.end("done");
            view.addBanner({ kind: "halt", title: markup, body: markup, detail: markup });
            return view.root.textContent;
        }""",
        MARKUP,
    )
    assert shown.count(MARKUP) == 5
    assert seen.page.locator("#log img, #log script, #log b").count() == 0
    assert seen.page.evaluate("window.pwned") is None


def test_stream_is_read_whatever_its_pieces(visit, site):
    seen = visit(site)
    events = ['{"a": "水門 🚤"}', '{"b": "two\\nlines"}', "[DONE]"]
    wrong = seen.page.evaluate(
        """async (events) => {
            const { EventParser } = await import("/static/stream.js");
            const wrong = [];
            for (const end of ["\\n", "\\r\\n", "\\r"]) {
                const sent = events.map((data) => `data: ${data}${end}id: 1${end}${end}`);
                const text = `: comment${end}${sent.join("")}:`;
                const bytes = new TextEncoder().encode(text);
                const read = (cuts) => {
                    const [found, decoder] = [[], new TextDecoder()];
                    const parser = new EventParser((data) => found.push(data));
                    for (let i = 0; i + 1 < cuts.length; i++) {
                        parser.push(decoder.decode(bytes.slice(cuts[i], cuts[i + 1]), { stream: true }));
                    }
                    return found;
                };
                const check = (cuts) => {
                    if (JSON.stringify(read(cuts)) !== JSON.stringify(events)) wrong.push([end, cuts]);
                };
                check([...bytes.keys(), bytes.length]);
                for (let i = 0; i <= bytes.length; i++) {
                    for (let j = i; j <= bytes.length; j++) check([0, i, j, bytes.length]);
                }
            }
            return wrong.slice(0, 3);
        }""",
        events,
    )
    assert wrong == []


def test_scores_can_be_read_without_colour_or_mouse(visit, site):
    seen = visit(site)
    page = seen.page
    seen.ask(PASSING)
    page.get_by_label("Scores as numbers").check()
    number = seen.tokens.first.evaluate("node => getComputedStyle(node, '::after').content")
    assert number.strip('"') == seen.tokens.first.get_attribute("data-score")
    line = page.get_by_role("slider")
    line.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(seen.tokens.nth(1)).to_have_class(re.compile("is-selected"))
    expect(line).to_have_attribute("aria-valuenow", "2")
    expect(line).to_have_attribute("aria-valuetext", re.compile("Token 2, .*: score .* below the threshold"))
    expect(page.locator("#reading-words")).to_contain_text(f"token 2 of {LENGTH}")
    seen.tokens.nth(5).hover()
    expect(line).to_have_attribute("aria-valuenow", "6")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_needs_no_sideways_scrolling(visit, site, scheme):
    seen = visit(site, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    expect(seen.page.locator("#uncalibrated")).to_be_visible()
    seen.ask("w" * 120, ENDED)
    seen.ask(HALTING, ENDED)
    seen.page.locator(".facts summary").click()
    expect(seen.page.get_by_text("This guard has not been calibrated")).to_be_visible()
    widths = "[...document.querySelectorAll('html, #log')].map((node) => node.scrollWidth - node.clientWidth)"
    assert seen.page.evaluate(widths) == [0, 0]
    for name in ("Send", "New chat"):
        box = seen.page.get_by_role("button", name=name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 740


def test_ink_is_legible_on_the_strongest_tint(visit, site):
    for scheme in ("light", "dark"):
        seen = visit(site, color_scheme=scheme)
        ratio = seen.page.evaluate(
            """async () => {
                const { AnswerView } = await import("/static/transcript.js");
                const view = new AnswerView();
                const lockgate = { tokens: [{ text: "x", score: 9 }], threshold: 2 };
                view.add({ choices: [{ delta: { content: "x" }, finish_reason: null }], lockgate });
                document.getElementById("log").append(view.root);
                const context = document.createElement("canvas").getContext(
                    "2d", { willReadFrequently: true },
                );
                const rgb = (...colours) => {
                    for (const colour of colours) {
                        context.fillStyle = colour;
                        context.fillRect(0, 0, 1, 1);
                    }
                    return context.getImageData(0, 0, 1, 1).data;
                };
                const light = (data) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
                    const c = data[i] / 255;
                    return sum + weight * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                }, 0);
                const token = getComputedStyle(view.root.querySelector(".token"));
                const paper = getComputedStyle(document.body).backgroundColor;
                const pair = [light(rgb(paper, token.backgroundColor)), light(rgb(token.color))];
                return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            }"""
        )
        assert ratio >= 4.5


def test_too_long_a_chat_is_said_in_plain_words(visit, site):
    seen = visit(site)
    seen.may_fail = True
    seen.ask("the lock " * 600, "failed")
    banner = seen.answer.get_by_role("alert")
    expect(banner).to_contain_text("This chat is too long for the model")
    expect(banner).to_contain_text("Or start a new chat.")
    seen.ask(PASSING)
    expect(seen.tokens).to_have_count(LENGTH)


def test_busy_server_is_said_in_plain_words_and_can_be_asked_again(visit, open_site):
    with open_site(max_streams=1, max_queue=0) as small:
        first, second = visit(small), visit(small)
        second.may_fail = True
        small.valve.let_through(6)
        first.ask(PASSING, "streaming")
        second.ask(PASSING, "failed")
        banner = second.answer.get_by_role("alert")
        expect(banner).to_contain_text("The server is busy")
        expect(banner).to_contain_text(re.compile(r"Try again in \d+ s"))
        small.valve.open()
        expect(first.answer).to_have_attribute("data-state", "done", timeout=30_000)
        banner.get_by_role("button", name="Try again").click()
        expect(second.answer).to_have_attribute("data-state", "done", timeout=30_000)
        expect(second.page.locator(".question")).to_have_count(1)


def test_lost_connection_is_said_in_plain_words(visit, site):
    seen = visit(site)
    seen.may_fail = True
    route = "**/v1/chat/completions"
    seen.page.route(route, lambda call: call.abort("connectionrefused"))
    seen.ask(PASSING, "failed")
    expect(seen.answer.get_by_role("alert")).to_contain_text("Is it still running?")
    chunk = 'data: {"choices": [{"delta": {"content": "half"}, "finish_reason": null}]}\n\n'
    seen.page.unroute(route)
    seen.page.route(route, lambda call: call.fulfill(body=chunk, content_type="text/event-stream"))
    seen.ask(PASSING, "failed")
    expect(seen.answer.get_by_role("alert")).to_contain_text("before the answer ended")
    expect(seen.answer.locator(".text")).to_have_text("half")


def test_key_is_asked_for_and_kept_in_memory_only(visit, open_site):
    with open_site(api_key="sesame") as locked:
        seen = visit(locked)
        seen.may_fail = True
        seen.ask(PASSING, "failed")
        expect(seen.answer.get_by_role("alert")).to_contain_text("An API key is needed")
        expect(seen.page.get_by_label("API key")).to_be_focused()
        seen.page.keyboard.type("sesame")
        seen.answer.get_by_role("button", name="Try again").click()
        expect(seen.answer).to_have_attribute("data-state", "done", timeout=30_000)
        stored = "[localStorage.length, sessionStorage.length, document.cookie]"
        assert seen.page.evaluate(stored) == [0, 0, ""]
        seen.page.reload()
        expect(seen.page.get_by_label("API key")).to_have_value("")


def test_shadow_mode_shows_what_would_have_been_stopped(visit, open_site):
    with open_site(mode="shadow") as watching:
        seen = visit(watching)
        expect(seen.page.locator(".chip").first).to_have_text("Shadow mode")
        seen.ask(HALTING)
        expect(seen.answer.get_by_role("alert")).to_contain_text("this would have been stopped")
        assert seen.answer.locator(".token[data-band=over]").count() > 0
        expect(seen.page.locator(".chart-halt")).to_be_hidden()


def test_unguarded_server_shows_text_without_scores(visit, open_site):
    with open_site(mode="off") as bare:
        seen = visit(bare)
        seen.ask(PASSING)
        assert seen.answer.locator(".text").text_content() != ""
        expect(seen.page.locator("#chart")).to_have_class(re.compile("is-empty"))
        assert seen.answer.locator(".token[data-band=none]").count() == LENGTH
        expect(seen.answer.locator(".foot")).not_to_contain_text("score")


@pytest.mark.parametrize("status", [200, 400])
def test_flagged_question_is_stopped_before_the_answer(visit, open_site, status):
    with open_site(flag=-1e9, flag_on="both", block_input_status=status) as shut:
        seen = visit(shut)
        seen.may_fail = True
        seen.ask(PASSING, "halted")
        banner = seen.answer.get_by_role("alert")
        expect(banner).to_contain_text("Stopped at the question")
        expect(banner).to_contain_text(REFUSAL)
        expect(seen.tokens).to_have_count(0)


def test_answer_can_be_halted_at_its_first_token(visit, open_site):
    with open_site(flag=-1e9) as shut:
        seen = visit(shut)
        seen.ask(PASSING, "halted")
        expect(seen.answer.get_by_role("alert")).to_contain_text("Nothing had passed")
        expect(seen.tokens).to_have_count(0)


def points(page: Page) -> list[tuple[float, float]]:
    """The vertices of the drawn line once a frame has passed."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    path = page.locator(".chart-line").get_attribute("d") or ""
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", path)]
