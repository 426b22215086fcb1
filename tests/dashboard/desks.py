"""A dashboard over real databases, and people who sign in."""

import html
import random
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from logs import decision, opened_log
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lockgate.dashboard import Dashboard, DashboardOptions, served_guard
from lockgate.decisions import Content, Decision, Scores, Turn
from lockgate.guards import EMBEDDED, read_bundle
from lockgate.tenants import Role, Settings, Sign, Tenants

RECORD = read_bundle(EMBEDDED).record
SHA = "ab" * 32
FLAG = RECORD.decides.flag
SAME_SITE = {"sec-fetch-site": "same-origin"}


@dataclass
class House:
    """A dashboard, its tenants and its log."""

    folder: Path
    dashboard: Dashboard
    tenants: Tenants
    log: Path | str

    def key(self, tenant: str, name: str, role: Role) -> str:
        """The secret of a new key; the tenant is made if it is not there."""
        if tenant not in {found.name for found in self.tenants.tenants()}:
            self.tenants.add_tenant(tenant)
        return self.tenants.create_key(tenant, name, role)[1]

    @property
    def app(self) -> Starlette:
        return Starlette(routes=self.dashboard.routes)

    def visitor(self) -> TestClient:
        return TestClient(self.app, base_url="http://127.0.0.1", headers=SAME_SITE, follow_redirects=False)

    def signed_in(self, tenant: str, name: str, role: Role) -> TestClient:
        client = self.visitor()
        answer = client.post("/admin/login", data={"key": self.key(tenant, name, role)})
        assert answer.status_code == 303, answer.text
        return client


@contextmanager
def house_in(
    folder: Path, *, log: Path | str | None = None, operations: Path | str | None = None, **options: Any
) -> Iterator[House]:
    """A dashboard with a log that exists."""
    log = log or folder / "decisions.db"
    opened_log(log).close()
    where = operations or folder / "operations.db"
    guard = options.pop("guard", served_guard(EMBEDDED, "embedded", SHA, calibrated=True))
    clock = options.get("clock")
    with Tenants(where, **({} if clock is None else {"clock": clock})) as tenants:
        shown = DashboardOptions(log, "NO_PASSWORD", lambda: "enforce", lambda: guard, **options)
        dashboard = Dashboard(shown, tenants)
        dashboard.open()
        try:
            yield House(folder, dashboard, tenants, log)
        finally:
            dashboard.close()


def csrf_of_page(text: str) -> str:
    """The token in the forms of a page."""
    return text.partition('name="csrf" value="')[2].partition('"')[0]


def form_of_review(client: TestClient) -> dict[str, str]:
    """The hidden fields of the exchange that the queue shows."""
    found = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', client.get("/admin/review").text)
    return {name: html.unescape(value) for name, value in found}


def exchange(number: int, tenant: str = "", score: float = -2.0, **fields: Any) -> Decision:
    """A decision of the embedded guard."""
    flagged = score > FLAG
    usual: dict[str, Any] = {
        "guard": SHA,
        "measure": RECORD.measure,
        "decision": "halt" if flagged else "pass",
        "enforced": flagged,
        "scores": Scores(score - 1, score, FLAG, score if RECORD.cascade else None),
        "tenant": tenant,
        "stage": RECORD.stages,
        "first_token_ms": 40.0,
    }
    return decision(number, **{**usual, **fields})


def talk(number: int) -> Content:
    """A harmless conversation."""
    things = ("the morning boat", "a barge with gravel", "two canoes", "the ferry", "a rowing boat")
    thing = things[number % len(things)]
    return Content(
        (
            Turn("user", f"How does {thing} pass the lock, and how long does it take? (question {number})"),
            Turn(
                "assistant",
                f"First the lower gates open and {thing} goes in. The gates close, water flows in from "
                "above, and when both levels are equal the upper gates open.\n\n"
                "It takes about a quarter of an hour.",
            ),
        )
    )


def fill(where: Path | str, decisions: Sequence[Decision], content: str = "full", **options: Any) -> None:
    """Write decisions with their talks."""
    log = opened_log(where, content=content, **options)
    for number, found in enumerate(decisions):
        log.write(found, content=talk(number))
    assert log.close().unwritten == 0


def day_of_traffic(
    count: int = 400, tenants: Sequence[str] = ("mill", "harbour"), seed: int = 7
) -> list[Decision]:
    """Decisions as a day may bring them."""
    draw = random.Random(seed)
    categories = list(read_bundle(EMBEDDED).constitution.category_ids)[:4]
    found = []
    for number in range(count):
        score = draw.gauss(FLAG - 5, 1.8) if draw.random() > 0.03 else FLAG + draw.expovariate(1.2)
        one = exchange(
            number,
            draw.choice(tenants),
            round(score, 4),
            queue_ms=round(draw.expovariate(0.4), 1),
            first_token_ms=round(60 + draw.expovariate(0.02), 1),
            total_ms=round(400 + draw.expovariate(0.001), 1),
            completion_tokens=draw.randint(12, 400),
        )
        if one.flagged:
            one = msgspec.structs.replace(one, category=draw.choice(categories), token_index=17)
        elif draw.random() < 0.01:
            one = msgspec.structs.replace(one, decision="cancelled")
        found.append(one)
    return found


def with_alerts(house: House) -> None:
    """Two tenants with limits, and an alert about a key of each. One key is locked out."""
    for tenant, lock_out in (("harbour", None), ("mill", 3600.0)):
        house.key(tenant, "app", "client")
        prefix = next(info.prefix for info in house.tenants.keys(tenant) if info.name == "app")
        sign = Sign("flags" if lock_out else "duplicates", 23.4 if lock_out else 7.0, 5.0, 40)
        house.tenants.add_alert(tenant, prefix, sign, lock_out)
    limits = Settings(requests_per_minute=600, burst=50, tokens_per_minute=200_000, concurrent=20)
    house.tenants.change_tenant("mill", lambda _: limits)


def spread_times(where: Path, hours: float = 1.0) -> None:
    """Move the records of a log over the last hours. Its chains no longer hold then."""
    with sqlite3.connect(where) as connection:
        rows = connection.execute(
            "SELECT chain, seq FROM entries WHERE kind = 'decision' ORDER BY seq"
        ).fetchall()
        end = datetime.now(UTC)
        for place, (chain, seq) in enumerate(rows):
            at = end - timedelta(hours=hours) * (1 - (place + 1) / (len(rows) + 1))
            text = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            connection.execute("UPDATE entries SET at = ? WHERE chain = ? AND seq = ?", (text, chain, seq))
