"""Builds from a page: what starts them, what they show, and what is refused."""

import json
import re

import pytest
from desks import csrf_of_page, exchange, fill
from rollouts import rollout_site, save_guards
from test_dashboard_rollout import fields

from lockgate.rollout import GuardLink, Job

CHANGE = {
    "category": "all", "harmful": True, "n": 40, "n_prompts": 40,
    "before": {"value": 0.5, "lower": 0.4, "upper": 0.6},
    "after": {"value": 0.75, "lower": 0.6, "upper": 0.9},
    "difference": {"value": 0.25, "lower": 0.1, "upper": 0.4}, "lost": ["x"], "gained": ["y"] * 11,
    "p_worse": 1.0,
}  # fmt: skip
REPORT = {
    "update": {
        "verdict": "no worse", "reasons": ["<b>No</b> category got worse."], "accepted": False,
        "point": "0.01", "n": 80, "n_prompts": 78, "left_out": 2, "overall": [CHANGE],
        "categories": [{**CHANGE, "category": "methods", "harmful": False}],
        "reviews": {"n": 12, "mended": 5, "spoilt": 1},
    },
    "claim": {
        "budget": 0.05, "false_refusal_rate": {"flagged": 2, "n": 80, "bound": 0.049, "confidence": 0.95},
    },
    "threshold": 1.25, "warnings": [], "limits": ["the generator is small"],
    "rows": {"feedback": {"trained": 38, "held_out": 12, "relabelled": 3, "conflicts": []}},
}  # fmt: skip


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    return save_guards(tmp_path_factory.mktemp("guards"))


@pytest.fixture
def site(tmp_path, guards):
    with rollout_site(tmp_path, guards, ("policy.yaml",)) as made:
        yield made


def keep(site, name, state, report=REPORT, **changes):
    """Leave the record of a build, as one that has ended does."""
    folder = site.link.parent / "builds" / "jobs" / name
    folder.mkdir(parents=True)
    job = Job(name=name, by="mill/ann", begun="2026-01-31T12:00:00Z", update="old", reviews=50, state=state)
    (folder / "job.json").write_text(job.model_copy(update=changes).model_dump_json())
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    (folder / "output.txt").write_text("train the probe: 3/3\n")


def reviewed(site, admin, count=3):
    """Let somebody judge exchanges."""
    fill(site.log, [exchange(number, "mill") for number in range(count)])
    for _ in range(count):
        page = admin.get("/admin/review").text
        form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
        assert admin.post("/admin/review", data={**form, "verdict": "harmless"}).status_code == 303


def test_a_build_is_started_shown_and_cancelled(site, guards):
    admin = site.signed_in("ann", "admin")
    page = admin.get("/admin/builds").text
    assert "No builds yet" in page
    form = {**fields(page, "/builds/start"), "name": "next"}
    answer = admin.post("/admin/builds/start", data=form)
    assert (answer.status_code, "no verdict with a text yet" in answer.text) == (409, True)
    reviewed(site, admin)
    assert "learns from 3 verdicts" in admin.get("/admin/builds").text
    answer = admin.post("/admin/builds/start", data={**form, "name": "../next"})
    assert (answer.status_code, "expected up to 64 letters" in answer.text) == (409, True)
    answer = admin.post("/admin/builds/start", data={**form, "name": "second"})
    assert (answer.status_code, "there is a guard or a build" in answer.text) == (409, True)
    assert admin.post("/admin/builds/start", data=form).status_code == 303
    page = admin.get("/admin/builds/live").text
    assert "next is being built" in page
    assert "from 3 reviews" in page
    assert 'hx-trigger="every 2s"' in page
    again = admin.post("/admin/builds/start", data={**form, "name": "other"})
    assert (again.status_code, "another build is running" in again.text) == (409, True)
    wrong = admin.post("/admin/builds/cancel", data={**form, "name": "other"})
    assert (wrong.status_code, "has ended already" in wrong.text) == (409, True)
    assert admin.post("/admin/builds/cancel", data=form).status_code == 303
    page = admin.get("/admin/builds/live").text
    assert "Cancelled" in page
    assert "hx-trigger" not in page
    assert "It goes on where it was" in admin.get("/admin/builds/of/next").text
    (job,) = (site.link.parent / "builds" / "jobs").iterdir()
    lines = [json.loads(line) for line in (job / "reviews.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["harmless"] * 3
    assert json.loads((job / "job.json").read_text())["update"] == str(guards / "first")


def test_a_comparison_leads_to_the_promotion(site):
    admin = site.signed_in("ann", "admin")
    keep(site, "second", "done")
    page = admin.get("/admin/builds/of/second").text
    assert "Compared with the old guard: no worse" in page
    assert "both cut at the same share of harmless exchanges, 1.0 %" in page
    assert "&lt;b&gt;No&lt;/b&gt; category got worse." in page
    assert ">75.0 %<" in page
    assert "5 are corrected and 1 newly wrong" in page
    assert 'href="/admin/rollout/to/second"' in page
    # Its guard was removed meanwhile.
    keep(site, "gone", "done")
    assert "/admin/rollout/to" not in admin.get("/admin/builds/of/gone").text


def test_what_did_not_end_well_says_why_and_can_go_on(site):
    admin = site.signed_in("ann", "admin")
    keep(site, "weak", "worse", problem="the old guard was kept because the new one is worse: TPR falls")
    keep(site, "broken", "failed", None, problem="traffic.jsonl, line 7: no such role")
    keep(site, "lost", "running", None)
    weak = admin.get("/admin/builds/of/weak").text
    assert "TPR falls" in weak
    assert "Make it all the same" in weak
    assert fields(weak, "/builds/resume")["accept"] == "yes"
    broken = admin.get("/admin/builds/of/broken").text
    assert "line 7: no such role" in broken
    assert "accept" not in fields(broken, "/builds/resume")
    assert "Interrupted: the server ended before the build did" in admin.get("/admin/builds/of/lost").text
    assert admin.post("/admin/builds/resume", data=fields(broken, "/builds/resume")).status_code == 303
    assert "broken is being built" in admin.get("/admin/builds").text


def test_what_is_not_there_or_damaged_is_told(site):
    admin = site.signed_in("ann", "admin")
    assert admin.get("/admin/builds/of/nothing").status_code == 404
    keep(site, "odd", "done", {"update": {"verdict": "fine"}})
    answer = admin.get("/admin/builds/of/odd")
    assert (answer.status_code, "can&#39;t be shown" in answer.text) == (400, True)
    keep(site, "done", "done")
    form = {"csrf": csrf_of_page(admin.get("/admin/").text), "name": "done"}
    assert "could go on" in admin.post("/admin/builds/resume", data=form).text


def test_the_guard_to_compare_with_must_be_the_one_that_runs(site, guards):
    GuardLink(site.link).promote(guards / "plain")  # and no SIGHUP
    admin = site.signed_in("ann", "admin")
    reviewed(site, admin)
    form = {**fields(admin.get("/admin/builds").text, "/builds/start"), "name": "next"}
    answer = admin.post("/admin/builds/start", data=form)
    assert (answer.status_code, "does not name the guard that runs" in answer.text) == (409, True)


def test_reviewers_build_nothing(site):
    reviewer = site.signed_in("eve", "reviewer")
    form = {"csrf": csrf_of_page(reviewer.get("/admin/").text), "name": "next"}
    for path in ("start", "resume", "cancel"):
        assert reviewer.post(f"/admin/builds/{path}", data=form).status_code == 403
    assert reviewer.get("/admin/builds").status_code == 403
    assert not (site.link.parent / "builds" / "jobs" / "next").exists()


def test_without_its_section_the_page_says_what_to_do(tmp_path, guards):
    with rollout_site(tmp_path, guards) as site:
        admin = site.signed_in("ann", "admin")
        page = admin.get("/admin/builds").text
        assert "dashboard: build:" in page
        form = {"csrf": csrf_of_page(page), "name": "next"}
        assert admin.post("/admin/builds/start", data=form).status_code == 404
