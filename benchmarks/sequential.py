"""How often the test of the refusal rate gives a false alarm, and how soon it finds a rate that is too high.

    python -m benchmarks.sequential

Simulated exchanges, flagged at random. With a rate at the budget, every alarm within a million exchanges is a false
one. With a rate of 2, 4 and 8 times the budget from the first exchange on, and from one in mid-life on, the delay is
the number of exchanges until the alarm. Writes `sequential` of `results/operate.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import clopper_pearson
from lockgate.calibration.sequential import watch_rate

RESULT = Path(__file__).parents[1] / "results" / "operate.json"
BUDGET = 0.0005
HORIZON = 1_000_000
AFTER = 300_000
CALM = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    found = {
        "command": "python -m benchmarks.sequential",
        "budget": BUDGET,
        "confidence": 0.95,
        "false_alarms": false_alarms(rng, arguments.runs),
        "delays": [
            delay(rng, arguments.runs, times, calm) for calm in (0, CALM) for times in (2.0, 4.0, 8.0)
        ],
    }
    found["delay_median"] = next(
        row["median"] for row in found["delays"] if row["calm"] == 0 and row["times_the_budget"] == 4.0
    )
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps({**known, "sequential": found}, indent=1) + "\n")
    print(json.dumps(found))


def flags(rng: np.random.Generator, rate: float, n: int) -> NDArray[np.int64]:
    """Numbers of the flagged ones of `n` exchanges, from 1."""
    places: NDArray[np.int64] = np.cumsum(rng.geometric(rate, size=int(2 * rate * n + 100)))
    if places[-1] <= n:
        raise RuntimeError("too few were drawn")
    return places[places <= n]


def false_alarms(rng: np.random.Generator, runs: int) -> dict[str, Any]:
    alarms = sum(
        watch_rate(HORIZON, flags(rng, BUDGET, HORIZON).tolist(), BUDGET).left_at is not None
        for _ in range(runs)
    )
    interval = clopper_pearson(alarms, runs)
    return {
        "runs": runs,
        "exchanges": HORIZON,
        "alarms": alarms,
        "share": alarms / runs,
        "share_low": interval.lower,
        "share_high": interval.upper,
    }


def delay(rng: np.random.Generator, runs: int, times: float, calm: int) -> dict[str, Any]:
    """The delay after `calm` exchanges at the budget. Runs with an alarm before that are left out."""
    delays, early, never = [], 0, 0
    for _ in range(runs):
        before = flags(rng, BUDGET, calm).tolist() if calm else []
        after = (calm + flags(rng, times * BUDGET, AFTER)).tolist()
        found = watch_rate(calm + AFTER, [*before, *after], BUDGET).left_at
        if found is None:
            never += 1
        elif found <= calm:
            early += 1
        else:
            delays.append(found - calm)
    low, median, high = (int(value) for value in np.quantile(delays, (0.05, 0.5, 0.95)))
    return {
        "times_the_budget": times,
        "calm": calm,
        "runs": runs,
        "found": len(delays),
        "never": never,
        "early": early,
        "p05": low,
        "median": median,
        "p95": high,
    }


if __name__ == "__main__":
    main()
