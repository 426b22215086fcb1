"""Another guard takes over from a page: what it says before, what happens, and what is refused."""

import re
from html import unescape

import pytest
from desks import csrf_of_page
from logs import checked
from rollouts import rollout_site, save_guards

from lockgate.rollout import GuardLink


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    return save_guards(tmp_path_factory.mktemp("guards"))


@pytest.fixture
def site(tmp_path, guards):
    with rollout_site(tmp_path, guards) as made:
        yield made


def fields(text: str, action: str) -> dict[str, str]:
    """The hidden fields of a form on a page."""
    form = re.search(rf'action="/admin{action}"[^>]*>(.*?)</form>', text, re.DOTALL)
    assert form is not None, text
    return {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form[1])}


def test_there_and_back_with_entries_in_the_chain(site, guards):
    admin = site.signed_in("ann", "admin")
    first = site.runs()
    page = admin.get("/admin/rollout").text
    assert "knows no guard before this one" in page
    assert "None yet." in page
    sure = admin.get("/admin/rollout/to/second").text
    assert "Promote second?" in sure
    assert "5.0 %" in sure
    form = fields(sure, "/rollout/promote")
    assert form["running"] == first
    answer = admin.post("/admin/rollout/promote", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/rollout")
    assert (site.runs(), site.link.resolve()) == (form["sha256"], guards / "second")
    page = admin.get("/admin/rollout").text
    assert "Roll back to first" in page
    assert admin.post("/admin/rollout/back", data=fields(page, "/rollout/back")).status_code == 303
    assert (site.runs(), site.link.resolve()) == (first, guards / "first")
    page = admin.get("/admin/rollout").text
    assert page.count("<time datetime=") == 2
    assert [(one.before.name, one.after.name, one.by) for one in site.changes()] == [
        ("first", "second", "mill/ann"),
        ("second", "first", "mill/ann"),
    ]
    checked(site.log)


def test_what_is_lost_or_changes_is_said_before(site):
    admin = site.signed_in("ann", "admin")
    text = admin.get("/admin/rollout/to/plain").text
    assert "The budget is lost" in text
    assert "This guard runs already" in admin.get("/admin/rollout/to/first").text
    answer = admin.get("/admin/rollout/to/damaged")
    assert (answer.status_code, "damaged or replaced" in answer.text) == (409, True)
    assert admin.get("/admin/rollout/to/nowhere").status_code == 404


def test_a_guard_that_the_server_refuses_changes_nothing(site, guards):
    admin = site.signed_in("ann", "admin")
    before, history = site.runs(), site.link.with_name("current.history").read_bytes()
    form = fields(admin.get("/admin/rollout/to/foreign").text, "/rollout/promote")
    answer = admin.post("/admin/rollout/promote", data=form)
    assert answer.status_code == 409
    assert "Nothing has changed." in answer.text
    assert "was trained on" in answer.text or "backbone" in answer.text
    assert (site.runs(), site.link.resolve()) == (before, guards / "first")
    assert site.link.with_name("current.history").read_bytes() == history
    assert site.changes() == []


def test_a_page_that_is_no_longer_true_changes_nothing(site, guards):
    ann = site.signed_in("ann", "admin")
    ben = site.signed_in("ben", "admin")
    late = fields(ann.get("/admin/rollout/to/plain").text, "/rollout/promote")
    form = fields(ben.get("/admin/rollout/to/second").text, "/rollout/promote")
    assert ben.post("/admin/rollout/promote", data=form).status_code == 303
    answer = ann.post("/admin/rollout/promote", data=late)
    assert (answer.status_code, "Another guard runs now" in answer.text) == (409, True)
    # Twice the same click, as from two tabs.
    assert ben.post("/admin/rollout/promote", data=form).status_code == 409
    back = fields(ben.get("/admin/rollout").text, "/rollout/back")
    wrong = {**back, "sha256": late["sha256"]}
    assert "another one by now" in ben.post("/admin/rollout/back", data=wrong).text
    wrong = {**fields(ben.get("/admin/rollout/to/plain").text, "/rollout/promote"), "sha256": "0" * 64}
    assert "another guard by now" in ben.post("/admin/rollout/promote", data=wrong).text
    assert site.link.resolve() == guards / "second"
    assert len(site.changes()) == 1


def test_a_change_that_is_under_way_keeps_others_out(site, guards):
    admin = site.signed_in("ann", "admin")
    form = fields(admin.get("/admin/rollout/to/second").text, "/rollout/promote")
    answers = []

    def meanwhile(_):
        answers.append(admin.post("/admin/rollout/promote", data=form))

    GuardLink(site.link).promote(guards / "first", then=meanwhile)
    assert answers[0].status_code == 409
    assert "another change is under way" in answers[0].text
    assert site.changes() == []


def test_a_link_that_the_server_did_not_follow_is_told_and_mended(site, guards):
    GuardLink(site.link).promote(guards / "plain")  # and no SIGHUP
    admin = site.signed_in("ann", "admin")
    page = admin.get("/admin/rollout").text
    assert "The link names another guard" in page
    assert admin.post("/admin/rollout/back", data=fields(page, "/rollout/back")).status_code == 303
    assert site.link.resolve() == guards / "first"
    assert "The link names another guard" not in admin.get("/admin/rollout").text
    # The same guard ran all the time.
    assert site.changes() == []


def test_reviewers_change_nothing(site, guards):
    admin = site.signed_in("ann", "admin")
    reviewer = site.signed_in("eve", "reviewer")
    form = fields(admin.get("/admin/rollout/to/second").text, "/rollout/promote")
    own = csrf_of_page(reviewer.get("/admin/").text)
    assert reviewer.get("/admin/rollout").status_code == 403
    for path in ("promote", "back"):
        assert reviewer.post(f"/admin/rollout/{path}", data={**form, "csrf": own}).status_code == 403
    assert site.link.resolve() == guards / "first"


def test_without_a_folder_of_guards_the_pages_say_what_to_do(tmp_path):
    with rollout_site(tmp_path) as site:
        admin = site.signed_in("ann", "admin")
        page = admin.get("/admin/rollout").text
        assert "dashboard: guards:" in page
        assert admin.get("/admin/rollout/to/first").status_code == 404
        form = {"csrf": csrf_of_page(page), "guard": "first"}
        assert admin.post("/admin/rollout/promote", data=form).status_code == 404
