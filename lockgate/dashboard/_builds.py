"""The pages on which an admin has a new guard built from the reviews, and sees how it compares."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError
from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page, PageError, go_to
from lockgate.decisions import ContentReader
from lockgate.errors import ConfigError, LockgateError
from lockgate.reviews import Left, export_lines
from lockgate.rollout import Builds, Job, Rollout


def _overview(call: Call) -> Response:
    return _shown(call)


def _shown(call: Call, status: int = 200, problem: str | None = None) -> Response:
    verdicts = [review for review in call.desk.reviews.standing(call.scope) if review.verdict is not None]
    now = datetime.fromtimestamp(call.desk.options.clock(), UTC)
    return call.page(
        "builds.html",
        status,
        here="builds",
        problem=problem,
        set_up=call.desk.options.builds is not None,
        verdicts=len(verdicts),
        proposed=now.strftime("%Y-%m-%d-%H%M"),
        **_state(call),
    )


def _live(call: Call) -> Response:
    return call.page("_builds.html", here="builds", **_state(call))


def _state(call: Call) -> dict[str, Any]:
    builds = call.desk.options.builds
    jobs = [] if builds is None else builds.jobs()
    running = next((job for job in jobs if job.state == "running"), None)
    lines = [] if builds is None or running is None else builds.tail(running.name)
    return {"jobs": jobs, "running": running, "lines": lines}


def _one(call: Call) -> Response:
    builds = _allowed(call)[0]
    job = _job(builds, call.path["name"])
    report = builds.report(job.name)
    try:
        return call.page(
            "build.html",
            here="builds",
            job=job,
            report=report,
            lines=builds.tail(job.name, 20),
            there=_on_shelf(call, job),
        )
    except (TemplateError, LookupError, TypeError, ValueError):
        # Another version has written it, perhaps.
        raise ConfigError(f"The report of {job.name} can't be shown; its work folder has a page.") from None


def _on_shelf(call: Call, job: Job) -> bool:
    rollout = call.desk.options.rollout
    return rollout is not None and rollout.shelf.guard(job.name) is not None


def _start(call: Call) -> Response:
    builds, rollout = _allowed(call)
    guard, link = call.desk.guard, rollout.link()
    if guard is None or link.target is None or link.sha256 != guard.sha256:
        return _shown(call, 409, "The link does not name the guard that runs. Promote or roll back first.")
    try:
        builds.start(call.form.get("name", "").strip(), call.who.reviewer, link.target, _reviews(call))
    except ConfigError as error:
        return _shown(call, 409, f"{error}.")
    return go_to("/builds")


def _reviews(call: Call) -> Iterator[bytes]:
    with call.desk.log() as log:
        yield from export_lines(call.desk.reviews.standing(call.scope), log, ContentReader(), Left())


def _resume(call: Call) -> Response:
    builds = _allowed(call)[0]
    job = _job(builds, call.form.get("name", ""))
    try:
        builds.resume(job.name, accept=call.form.get("accept") == "yes")
    except LockgateError as error:
        return _shown(call, 409, f"{error}.")
    return go_to("/builds")


def _cancel(call: Call) -> Response:
    builds = _allowed(call)[0]
    running = next((job for job in builds.jobs() if job.state == "running"), None)
    if running is None or running.name != call.form.get("name"):
        return _shown(call, 409, "This build has ended already.")
    builds.cancel()
    return go_to("/builds")


def _job(builds: Builds, name: str) -> Job:
    found = builds.job(name)
    if found is None:
        raise PageError(404, "No such build", "There is no record of a build of this name.")
    return found


def _allowed(call: Call) -> tuple[Builds, Rollout]:
    builds, rollout = call.desk.options.builds, call.desk.options.rollout
    if builds is None or rollout is None:
        raise PageError(404, "Guards can't be built here", "The config file has no dashboard.build.")
    return builds, rollout


PAGES = (
    Page("/builds", _overview, role="admin"),
    # It asks every few seconds, so it shows nobody's presence.
    Page("/builds/live", _live, role="admin", awake=False),
    Page("/builds/of/{name}", _one, role="admin"),
    Page("/builds/start", _start, role="admin", method="POST"),
    Page("/builds/resume", _resume, role="admin", method="POST"),
    Page("/builds/cancel", _cancel, role="admin", method="POST"),
)
