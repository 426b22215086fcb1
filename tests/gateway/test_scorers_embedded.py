"""The embedded guard in two parts: a scorer, and a gateway without weights that keeps the second stage."""

import pytest
from engine_runs import start
from given import give, given_run
from local_scorers import LocalScorers

from lockgate.decisions import LogOptions
from lockgate.errors import ConfigError
from lockgate.gateway import EngineOptions, GatewayOptions
from lockgate.gateway.scorers import gateway_of, scorer_of
from lockgate.guards import Guard

pytestmark = pytest.mark.embedded
ANSWER = (
    "Bread rises because yeast makes gas, and the dough holds it. Let it rest in a warm place for an hour. "
    * 3
)


class Told(LocalScorers):
    """Scorers that say what they are."""

    def __init__(self, core, about) -> None:
        super().__init__([core])
        self._about = about

    def about(self):
        return self._about


@pytest.mark.slow
def test_both_parts_together_judge_as_the_whole_guard(tmp_path) -> None:
    limits = EngineOptions(max_streams=2)
    whole, apart = Guard.load(), Guard.load()
    core, about = scorer_of(whole, limits)
    options = GatewayOptions(log=LogOptions(tmp_path / "decisions.db"), engine=limits)
    scorers = Told(core, about)
    gateway = gateway_of(apart, scorers, options, most=3)
    assert {one.device.type for one in apart.backbone.model.parameters()} == {"meta"}
    assert (gateway.engine.kv_tokens, gateway.options.engine.max_streams) == (3 * about.kv_tokens, 6)
    gateway.warm()
    assert gateway.engine.faults.open == {}  # the second stage has judged a prompt
    gateway.start()
    try:
        run = start(gateway.engine, given_run(apart.backbone, "Why does bread rise?"))
        give(gateway.engine, run, ANSWER.split(" ")[:1] + [f" {word}" for word in ANSWER.split(" ")[1:]])
        run.finish()
    finally:
        gateway.close()
        scorers.all[0].idle()
    assert (run.end.decision, run.text()) == ("pass", ANSWER)
    score = whole.score(
        [{"role": "user", "content": "Why does bread rise?"}, {"role": "assistant", "content": ANSWER}]
    )
    assert run.end.max_answer == pytest.approx(score.max_answer, abs=2e-3)
    assert about.described["stages"] == 2
    other = type(about)("0" * 64, about.described, about.kv_tokens)
    with pytest.raises(ConfigError, match="another guard"):
        gateway_of(whole, Told(core, other), options, most=1)
