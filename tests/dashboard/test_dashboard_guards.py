"""Several guards: each stands against its own budget, calibration and threshold, by its own exchanges."""

import dataclasses
import re
from collections import Counter

import pytest
from desks import FLAG, RECORD, SHA, exchange, fill, form_of_review, house_in
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lockgate.dashboard import ServedGuard, served_guard
from lockgate.dashboard._templates import number
from lockgate.decisions import Decision, Scores
from lockgate.guards import EMBEDDED
from lockgate.tenants import Settings

# The same probe and judge as the embedded guard's, so all scores could be compared: only the bundle tells.
STRICT_SHA, STRICT_FLAG, STRICT_BUDGET = "cd" * 32, FLAG - 2.0, 0.02
GUARD = served_guard(EMBEDDED, "embedded", SHA, calibrated=True)
_CASCADE = RECORD.cascade.model_copy(update={"flag": STRICT_FLAG})
_CALIBRATION = {**RECORD.calibration, "budget": STRICT_BUDGET, "threshold": STRICT_FLAG}
_CALIBRATION["quantiles"] = {"0.9": STRICT_FLAG - 1.0, "1": FLAG}
STRICT = dataclasses.replace(
    GUARD,
    name="tight",
    card="",
    sha256=STRICT_SHA,
    record=RECORD.model_copy(update={"cascade": _CASCADE, "calibration": _CALIBRATION}),
)
FLAGS = {SHA: FLAG, STRICT_SHA: STRICT_FLAG}
BOTH = {"guard": GUARD, "further": lambda: {"strict": STRICT}}


def decided(number: int, guard: str, above: bool, tenant: str = "", *, flag: float | None = None) -> Decision:
    """A decision of a guard, with a score above its own threshold or below it."""
    flag = FLAGS[guard] if flag is None else flag
    score = flag + (0.5 if above else -0.5)
    kind = {"decision": "halt" if above else "pass", "enforced": above}
    kind["scores"] = Scores(score - 1, score, flag, score)
    return exchange(number, tenant, score, guard=guard, **kind)


def tiles(text: str) -> dict[str, str]:
    """The figures of a page by their titles."""
    return dict(re.findall(r'<h[23]>([^<]*)</h[23]>\s*<p class="figure">([^<]*)</p>', text))


def row(text: str, title: str) -> list[str]:
    """The cells of the row of a table with a title."""
    found = re.search(rf'<th scope="row">(?:<a [^>]*>)?{title}(?:</a>)?</th>(.*?)</tr>', text, re.DOTALL)
    return [] if found is None else re.findall(r"<td[^>]*>([^<]*)</td>", found[1])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A house whose guards change from example to example, an admin, and all guards so far."""
    guards: dict[str, ServedGuard] = {"default": GUARD, "strict": STRICT}
    serving = {"guard": lambda: guards["default"], "further": lambda: {"strict": guards["strict"]}}
    with house_in(tmp_path_factory.mktemp("guards")) as house:
        desk = house.dashboard._desk
        desk.options = dataclasses.replace(desk.options, **serving)
        yield house, house.signed_in("canal", "ada", "admin"), guards, Counter()


runs = st.lists(
    st.tuples(st.sampled_from(["default", "strict", "gone"]), st.booleans()), min_size=1, max_size=20
)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs)
@example([("default", True), ("strict", False), ("strict", False)])
@example([("gone", True)])
def test_the_exchanges_of_each_guard_count_on_its_own_page_alone(shared, run):
    house, client, guards, before = shared
    turn = before["turn"] = before["turn"] + 1
    for kind, name in enumerate(("default", "strict")):
        guards[name] = dataclasses.replace(guards[name], sha256=f"{2 * turn + kind:064x}")
    bundles = {name: guard.sha256 for name, guard in guards.items()} | {"gone": "ef" * 32}
    flags = {"default": FLAG, "strict": STRICT_FLAG, "gone": FLAG}
    rows = [decided(n, bundles[name], above, flag=flags[name]) for n, (name, above) in enumerate(run)]
    fill(house.log, rows, "none")
    gone = before["all"] + sum(name == "gone" for name, _ in run)
    before["all"] += len(run)
    for name in ("default", "strict"):
        own = [above for judged_by, above in run if judged_by == name]
        n, k = len(own), sum(own)
        overview = client.get(f"/admin/?guard={name}").text
        assert ("Nothing under this guard" in overview) == (not own)
        assert row(overview, name)[1:2] == [str(n)]
        assert (f"{gone} exchange" in overview) == (gone > 0)
        scores = client.get(f"/admin/scores?guard={name}").text
        assert (f"{n} recorded exchanges" in scores) or not own
        what_if = tiles(client.get(f"/admin/scores/what-if?guard={name}").text)
        assert what_if["Flagged"] == str(k)
        assert [what_if[kind] for kind in ("Newly flagged", "Newly passed")] == ["0", "0"]
        assert what_if["Unchanged"] == str(n)
        if own:
            assert tiles(overview)["Exchanges"] == str(n)
            assert f"{k} of {n} checked" in overview
            assert f"<p>{n} exchanges since this guard took over" in scores


@pytest.fixture
def house(tmp_path):
    with house_in(tmp_path, **BOTH) as made:
        yield made


def test_each_guard_has_its_own_budget_threshold_and_calibration(house):
    fill(house.log, [decided(n, SHA, above=n == 0) for n in range(40)], "none")
    fill(house.log, [decided(100 + n, STRICT_SHA, above=n == 0) for n in range(60)], "none")
    client = house.signed_in("canal", "ada", "admin")
    usual, strict = (client.get(f"/admin/{query}").text for query in ("", "?guard=strict"))
    assert row(usual, "Budget") == ["0.050 %"]
    assert row(strict, "Budget") == ["2.0 %"]
    # One of 40 is above 0.05 %, and one of 60 below 2 %.
    assert ("tile-warn" in usual, "tile-warn" in strict) == (True, False)
    assert row(usual, "default")[:5] == row(strict, "default")[:5]
    assert row(strict, "strict")[4] == "2.0 %"
    assert 'aria-current="true">default<' in usual
    assert 'aria-current="true">strict<' in strict
    assert 'hx-get="/admin/live?window=hour&amp;guard=strict"' in strict
    scores = [client.get(f"/admin/scores{query}").text for query in ("", "?guard=strict")]
    for text, own in zip(scores, (FLAG, STRICT_FLAG), strict=True):
        assert re.findall(r"threshold (\S+) ", text)[0] == number(own)
    assert ["the 0.9 quantile" in text for text in scores] == [False, True]
    assert ["the 0.999 quantile" in text for text in scores] == [True, False]
    assert '<input type="hidden" name="guard" value="strict">' in scores[1]
    assert "tight" in client.get("/admin/guard?guard=strict").text


def test_the_alarm_of_a_guard_comes_though_nobody_looks_at_it(house):
    """Every look goes on with the tests of all guards, and tells each page of an alarm elsewhere."""
    fill(house.log, [decided(n, STRICT_SHA, above=True) for n in range(40)], "none")
    client = house.signed_in("canal", "ada", "admin")
    usual = client.get("/admin/").text
    assert re.search(r"Drift</strong> under the guard <a [^>]*>strict</a> since 20", usual)
    assert "<strong>Drift</strong> since" not in usual
    assert row(usual, "strict")[5].startswith("since 20")
    assert row(usual, "default")[5] == "none shown"
    strict = client.get("/admin/live?guard=strict").text
    assert "<strong>Drift</strong> since" in strict
    assert "under the guard" not in strict


def test_a_reviewer_sees_the_guard_of_its_tenant_alone(house):
    house.tenants.add_tenant("mill", Settings(guard="strict"))
    house.tenants.add_tenant("lost", Settings(guard="elsewhere"))
    fill(house.log, [decided(0, STRICT_SHA, True, "mill"), decided(1, SHA, False, "harbour")])
    mill, harbour = (house.signed_in(name, "ann", "reviewer") for name in ("mill", "harbour"))
    assert "Guard tight" in mill.get("/admin/").text
    assert row(mill.get("/admin/").text, "Budget") == ["2.0 %"]
    assert "Guard embedded" in harbour.get("/admin/").text
    for path in ("/", "/live", "/scores", "/guard"):
        assert "embedded" not in mill.get(f"/admin{path}").text
        for who, other in ((mill, "default"), (harbour, "strict")):
            answer = who.get(f"/admin{path}?guard={other}")
            assert (answer.status_code, "strict, " in answer.text) == (404, False)
        assert "tight" not in harbour.get(f"/admin{path}").text
    lost = house.signed_in("lost", "ann", "reviewer")
    assert "lacks the guard" in lost.get("/admin/guard").text
    assert lost.get("/admin/").status_code == 200


def test_margins_and_reviews_go_by_the_guard_that_decided(tmp_path):
    """A guard of one stage decides by its probe. With two stages such a record would have no score."""
    one_stage = {"cascade": None, "classifier": None, "text": None, "judge": None}
    single = dataclasses.replace(STRICT, record=RECORD.model_copy(update=one_stage))
    alone = exchange(0, guard=STRICT_SHA, scores=Scores(None, FLAG - 0.25, FLAG, None), stage=1)
    with house_in(tmp_path, guard=GUARD, further=lambda: {"single": single}) as house:
        fill(house.log, [alone, decided(1, SHA, True)])
        client = house.signed_in("canal", "ada", "admin")
        pages = [client.get(f"/admin/exchanges/chatcmpl-{n}/0").text for n in range(2)]
        assert "\N{MINUS SIGN}0.25" in pages[0]
        assert "+0.50" in pages[1]
        assert ["served now as single" in page for page in pages] == [True, False]
        near = client.get("/admin/exchanges?near=0.3").text
        assert ["chatcmpl-0" in near, "chatcmpl-1" in near] == [True, False]
        form = {**form_of_review(client), "verdict": "harmful", "category": next(iter(single.categories))}
        assert client.post("/admin/review", data=form).status_code == 303
        assert "chatcmpl-" in form["exchange"]


def test_a_guard_that_is_not_there_is_refused_in_words(house):
    client = house.signed_in("canal", "ada", "admin")
    for path in ("/", "/live", "/scores", "/scores/what-if", "/guard"):
        answer = client.get(f"/admin{path}?guard=nobody")
        assert (answer.status_code, "Expected one of default, strict" in answer.text) == (404, True)
