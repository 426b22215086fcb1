"""A log that the server wrote, replayed at a threshold, says what a server with that threshold decides."""

import math

import pytest
from parts import make_guard
from serving import CHAT, ask, client_for, decisions_of, path_of

from lockgate.backbones import Backbone
from lockgate.calibration import choose_threshold
from lockgate.gateway._guarding import scoring_of
from lockgate.traffic import ReplayPlan, replay_decisions

QUESTIONS = [
    f"{word} {number}" for number in range(4) for word in ("why the lock", "where is a boat", "mill")
]


@pytest.mark.anyio
async def test_the_counts_are_those_of_a_server_with_the_new_threshold(
    make_gateway, saved_backbone, tmp_path
) -> None:
    backbone = Backbone.load(saved_backbone("llama"))
    made = make_guard(backbone, flag=1e9, flag_on="both", min_tokens=4)

    async def serve(guard):
        gateway = make_gateway(backbone, scoring_of(guard), mode="shadow")
        async with client_for(gateway) as client:
            for question in QUESTIONS:
                assert (await client.post(CHAT, json=ask(question, max_tokens=12))).status_code == 200
        return path_of(gateway), decisions_of(gateway)

    calm = made.save(tmp_path / "calm")
    log, lines = await serve(calm)
    assert {line["measure"] for line in lines} == {calm.record.measure}
    highest = sorted(max(line["scores"]["max_prompt"], line["scores"]["max_answer"]) for line in lines)
    middle = (highest[5] + highest[6]) / 2
    assert math.isfinite(middle)
    chosen = choose_threshold([middle] * 60, [str(i) for i in range(60)], 0.05, 1e-3)
    strict = made.with_calibration(chosen).save(tmp_path / "strict")
    strict_log, strict_lines = await serve(strict)
    halted = [line["decision"] in ("halt", "block") for line in strict_lines]
    assert 0 < sum(halted) < len(QUESTIONS)
    # The old log says what the new guard does, and the new log says that nothing changes.
    found = replay_decisions(strict.path, log)
    assert found.counts == (sum(halted), 0, 0, len(halted) - sum(halted))
    assert [change.row - 1 for change in found.changes] == [i for i, flag in enumerate(halted) if flag]
    same = replay_decisions(strict.path, strict_log)
    assert same.counts == (0, 0, sum(halted), len(halted) - sum(halted))
    back = replay_decisions(strict.path, strict_log, ReplayPlan(thresholds=(1e9,)))
    assert back.counts == (0, sum(halted), 0, len(halted) - sum(halted))
    assert (back.unenforced, back.cut_short) == (sum(halted), 0)
