"""Memory of streams is given back, whoever ends them and whenever."""

import time

from engine_runs import running_engine, start
from given import give, given_run
from serving import scoring_for
from test_given import BACKBONE, HEAD

from lockgate.gateway._events import Unserved


def test_a_job_that_ends_while_others_are_cleaned_up_gives_its_memory_back(tmp_path) -> None:
    with running_engine(BACKBONE, scoring_for(BACKBONE, HEAD), tmp_path) as engine:
        late, early = given_run(BACKBONE, "why"), given_run(BACKBONE, "why so")
        start(engine, late)
        start(engine, early)
        engine.give(late.job, 0, "it holds ")
        late.first()
        forget = engine.verdicts.forget

        def forgotten(conversation) -> None:
            # The earlier job is cleaned up after the late one was looked at.
            engine.give_up(late.job, Unserved(503, "gone", "It is gone.", 1))
            forget(conversation)

        engine.verdicts.forget = forgotten
        give(engine, early, ["so it is"])
        early.finish()
        late.finish()
        until = time.monotonic() + 30
        while engine.kv_used_tokens and time.monotonic() < until:
            time.sleep(0.01)
        assert engine.kv_used_tokens == 0
