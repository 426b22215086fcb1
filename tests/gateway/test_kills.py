"""SIGKILL under load: a response that has ended has its decision, and what was cut off is known."""

import asyncio
import random

import pytest
from logs import checked, decisions_in, opened_log
from served import serving

from benchmarks.kills import load_until_killed
from lockgate.decisions import open_log


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "decisions.db")
    return request.getfixturevalue("postgres").database()


def test_no_ended_response_lacks_its_decision(folders, preloaded, place):
    draw, ended = random.Random(3), set()
    for _ in range(3):
        with serving(preloaded, folders, "--port", "0", "--decisions", place) as (process, line):
            url = line.split()[3]
            ended |= asyncio.run(load_until_killed(url, process, draw.uniform(0, 0.5)))
    assert ended
    assert ended <= {found["id"] for found in decisions_in(place)}
    report = checked(place)
    assert (len(report.heads), len(report.open)) == (3, 3)
    with open_log(place) as log:
        begun = {stored.record["id"] for stored in log.records(kinds=["start"])}
    assert ended <= begun
    # The next start goes on.
    opened_log(place).close()
    assert checked(place).unfinished == report.unfinished
