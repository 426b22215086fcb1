"""What the check of the dashboard's pages counts as a page, and what is gathered of it."""

import json
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.routing import Mount, Route

from benchmarks import operate

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/admin", "/admin"),
        ("/admin/", "/admin/"),
        ("/admin/?window=week", "/admin/"),
        ("/admin/exchanges/a%2Fb/0", None),
        ("/admin/exchanges/a/0?x=1", "/admin/exchanges/{exchange}/{choice}"),
        ("/admin/post", None),
        ("/elsewhere", None),
    ],
)
def test_a_page_is_named_by_its_route(address, name):
    pytest.importorskip("axe_playwright_python")
    from benchmarks.dashboard_pages import route_of

    def answer(_: object) -> Response:
        return Response()

    inner = [
        Route("/", answer, methods=["GET"]),
        Route("/exchanges/{exchange}/{choice}", answer, methods=["GET"]),
        Route("/post", answer, methods=["POST"]),
    ]
    routes = [Route("/admin", answer, methods=["GET"]), Mount("/admin", routes=inner)]
    found = route_of(address.replace("%2F", "/"), routes)
    assert found == name


def test_what_is_gathered():
    pages = {"pages": ["/admin/"], "axe_violations": 3, "looks": []}
    kills = {"kills": {"sqlite": {"runs": 2, "lost": 0, "seconds": 1.0}}}
    added = {"p50": 1.0, "p50_low": 0.5, "p50_high": 1.5, "p99": 2.0, "p99_low": -1.0, "p99_high": 4.0}
    request = {"rounds": 2, "requests": 3, "n": 6, "confidence": 0.95, "added_ms": added, "with": {}}
    log = {"databases": {"sqlite": {"records_per_s": 9.0, "request": request}}}
    assert operate.gathered({"sequential": 1}, {}, {}, {}) == {"sequential": 1}
    assert operate.gathered({"axe_violations": 7, "sequential": 1}, kills, log, pages) == {
        "sequential": 1,
        "kills": {"sqlite": {"runs": 2, "lost": 0}},
        "log_ms": {**added, "rounds": 2, "requests": 3, "n": 6, "confidence": 0.95},
        "records_per_s": {"sqlite": 9.0},
        "pages": ["/admin/"],
        "axe_violations": 3,
    }


def test_the_committed_figures_are_those_of_the_pages():
    pages = json.loads((RESULTS / "dashboard_pages.json").read_text())
    gathered = json.loads((RESULTS / "operate.json").read_text())
    looks = pages["looks"]
    assert gathered["pages"] == pages["pages"] == sorted({look["page"] for look in looks})
    assert gathered["axe_violations"] == sum(len(look["violations"]) for look in looks) == 0
    ways = {(look["width"], look["scheme"]) for look in looks}
    assert len(ways) == 4
    # Each page was opened in each way.
    assert len(looks) == len(ways) * len(pages["pages"])
