"""Defences against what the attacks found: success before and after, on the same attempts' plays.

Fewer successes count by an exact sign test over queries, since attacks on one query go together. Halted twins say what
a defence costs. `kept` tells what the shipped guard and the documents use; LOG.md says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scipy.stats import binomtest

from lockgate.calibration import clopper_pearson
from lockgate.redteam import Row, summarise
from lockgate.tenants import CampaignOptions, Campaigns
from recipes.stand_in_guard.attempts import TABLES, read_table

# Lock out a key of which so many exchanges in a hundred were flagged, as docs/tenants.md shows it.
_FLAGS_PER_HUNDRED = 10.0


@dataclass(frozen=True, slots=True)
class Defence:
    """What is compared: a variant of one table with one of another, in the attacks that both have.

    With `practised`, only the families that the practice has count, or only the others.
    """

    name: str
    before: tuple[str, str]
    after: tuple[str, str]
    kept: bool
    practised: bool | None = None


PRODUCTION = ("stand-in", "production")
DEFENCES = (
    Defence(
        "the whole exchange, not its parts",
        ("stand-in", "input-output"),
        PRODUCTION,
        kept=True,
    ),
    Defence("the first stage alone", PRODUCTION, ("stand-in", "exchange"), kept=False),
    Defence("adversarial retraining", ("before", "unpractised"), PRODUCTION, kept=True),
    Defence(
        "adversarial retraining, families practised",
        ("before", "unpractised"),
        PRODUCTION,
        kept=True,
        practised=True,
    ),
    Defence(
        "adversarial retraining, other families",
        ("before", "unpractised"),
        PRODUCTION,
        kept=True,
        practised=False,
    ),
    Defence("a delay of 64 tokens", ("undelayed", "undelayed"), PRODUCTION, kept=True),
)
PRACTICE = "practice"
LOCK_OUT = "lock-out by flags"


def defences() -> list[dict[str, Any]]:
    """Return the comparison of each defence whose tables are there, and of the lock-out against each search."""
    there = {path.stem for path in TABLES.glob("*.parquet")}
    rows = {name: read_table(name) for name in sorted(there)}
    found: list[dict[str, Any]] = [
        {
            "name": one.name,
            **compare(*(_of(rows[table][0][name], one.practised) for table, name in (one.before, one.after))),
            "kept": one.kept,
        }
        for one in DEFENCES
        if one.before[0] in there and one.after[0] in there
    ]
    # The campaign with the larger budget says more.
    table = next((name for name in ("searches", "stand-in") if name in there), None)
    if table is not None:
        own, facts = rows[table]
        for attack in facts["adaptive"]:
            tried = [row for row in own["production"] if row.attack == attack]
            seen = detection(tried, facts["attempts"])
            found.append({"name": f"{LOCK_OUT}: {attack}", **seen, "kept": True})
    return found


def practised_families() -> frozenset[str]:
    """Return the families whose attempts became lessons."""
    return frozenset(
        row.family for own in read_table(PRACTICE)[0].values() for row in own if row.failed is None
    )


def _of(rows: Sequence[Row], practised: bool | None) -> Sequence[Row]:
    if practised is None:
        return rows
    known = practised_families()
    return [row for row in rows if (row.family in known) == practised]


def compare(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Any]:
    """Return success before and after, over the plays that both have, and which plays changed."""
    first, second = _plays(before), _plays(after)
    both = first.keys() & second.keys()
    won = {play: (first[play], second[play]) for play in both}
    queries = sorted({query for _, query, _ in both})
    better = [_balance(won, query) for query in queries]
    return {
        "before": _rate([row for row in before if _key(row) in both]),
        "after": _rate([row for row in after if _key(row) in both]),
        "stopped": sum(old and not new for old, new in won.values()),
        "opened": sum(new and not old for old, new in won.values()),
        "queries": {"better": sum(one > 0 for one in better), "worse": sum(one < 0 for one in better)},
        "p": _sign_test(sum(one > 0 for one in better), sum(one < 0 for one in better)),
        "twins": {"before": _twins(before, after), "after": _twins(after, before)},
    }


def detection(rows: Sequence[Row], budget: int) -> dict[str, Any]:
    """Return what a lock-out by the share of flags leaves of an attack by one key on all queries, one after the other.

    Only whether an exchange was flagged is used, one exchange a second.
    """
    seen = [row for row in rows if not row.twin and row.failed is None]
    won = {row.query for row in seen if row.success}
    moment = 0.0
    campaigns = Campaigns(CampaignOptions(flags_per_hundred=_FLAGS_PER_HUNDRED), lambda: moment)
    alert = None
    for number, row in enumerate(seen, 1):
        moment = float(number)
        if campaigns.note("attacker", 1.0 if row.halted else -100.0, ()):
            alert = number
            break
    before = {row.query for row in (seen if alert is None else seen[:alert]) if row.success}
    queries = {row.query for row in seen}
    return {
        "before": share(len(won), len(queries)),
        "after": share(len(before), len(queries)),
        "alert_after": alert,
        "attempts": len(seen),
        "budget": budget,
        "median_attempts": median(sum(row.query == query for row in seen) for query in sorted(queries)),
    }


def share(count: int, n: int) -> dict[str, Any]:
    """Return a share with its exact 95 % interval. Of nothing the share is None."""
    return {
        "n": n,
        "success": round(count / n, 4) if n else None,
        "ci": [round(end, 4) for end in clopper_pearson(count, n, 0.95)],
    }


def _key(row: Row) -> tuple[str, str, int]:
    return row.attack, row.query, row.seed


def _plays(rows: Sequence[Row]) -> dict[tuple[str, str, int], bool]:
    found: dict[tuple[str, str, int], bool] = {}
    for row in rows:
        if not row.twin and row.failed is None:
            found[_key(row)] = found.get(_key(row), False) or row.success
    return found


def _balance(won: Mapping[tuple[str, str, int], tuple[bool, bool]], query: str) -> int:
    return sum(int(old) - int(new) for (_, own, _), (old, new) in won.items() if own == query)


def _sign_test(better: int, worse: int) -> float:
    if better + worse == 0:
        return 1.0
    return round(float(binomtest(better, better + worse, 0.5, alternative="greater").pvalue), 4)


def _rate(rows: Sequence[Row]) -> dict[str, Any]:
    found = summarise(rows, 1)["success"]
    return {
        "n": found["n"],
        "success": round(found["success"], 4),
        "ci": [round(end, 4) for end in found["ci"]],
    }


def _twins(rows: Sequence[Row], others: Sequence[Row]) -> dict[str, int]:
    both = {_key(row) for row in others if row.twin and row.failed is None}
    own = [row for row in rows if row.twin and row.failed is None and _key(row) in both]
    return {"n": len(own), "halted": sum(row.halted for row in own)}
