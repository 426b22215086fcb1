"""A judge of text as the second stage of a served guard: what it reads, and what its faults do."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from engine_runs import new_run, running_engine, start
from scripted_judge import harm_of, serving_judge
from serving import scoring_for
from staging import LOUD, decisions, thresholds_of
from starlette.responses import JSONResponse
from text_judges import Counting, question, sequence_judge

from lockgate.exchanges import Message
from lockgate.gateway._records import UNCHECKED
from lockgate.guards import Stages
from lockgate.judges import EndpointFile, JudgeStage, open_judge

TEXTS = ("why does the lock hold", "the mill and the orchard", "where is the boat? 7")


def judged(backbone, head, judge, **cascade):
    """A guard's share of the engine whose second stage is a judge that is asked about every block."""
    stages = Stages(head, thresholds_of(), replace(LOUD, **cascade), JudgeStage(judge, backbone))
    return replace(scoring_for(backbone, head), stages=stages)


def served(backbone, head, judge, folder, texts=TEXTS, **cascade):
    """The finished runs of an engine with this judge."""
    runs = [new_run(backbone, text, max_tokens=20) for text in texts]
    with running_engine(backbone, judged(backbone, head, judge, **cascade), folder) as engine:
        for run in runs:
            start(engine, run)
        for run in runs:
            run.finish()
        faults = dict(engine.faults.open)
    return runs, faults


def test_the_judge_reads_the_request_and_the_answer_so_far(tmp_path, backbone, head):
    judge = Counting()
    runs, faults = served(backbone, head, judge, tmp_path, stride=8)
    assert [run.end.decision for run in runs] == ["pass"] * 3
    assert faults == {}
    for run, text in zip(runs, TEXTS, strict=True):
        own = [talk for talk in judge.asked if talk[0] == Message("user", text)]
        answers = [talk[1].content for talk in own]
        assert answers
        assert all(later.startswith(earlier) for earlier, later in pairwise(answers))
        # What left was judged: the last verdict is on the whole answer.
        assert answers[-1].startswith(run.text().rstrip("\ufffd"))


def test_a_served_answer_is_halted_where_the_judge_says_so(tmp_path, backbone, head):
    judge = sequence_judge(tmp_path / "judge")
    free, _ = served(backbone, head, judge, tmp_path / "free")
    asked = Counting()
    served(backbone, head, asked, tmp_path / "asked")
    logits = {}
    for talk in asked.asked:
        reading = judge.judge([talk])[0]
        logits.setdefault(talk[0].content, []).append(reading.logit)
    highest = {text: max(own) for text, own in logits.items()}
    cut = sorted(highest.values())[1]
    runs, _ = served(backbone, head, judge, tmp_path / "strict", flag=cut + 1e-4)
    for run, text in zip(runs, TEXTS, strict=True):
        assert (run.end.decision == "halt") == (highest[text] > cut + 1e-4)
    assert [run.end.decision for run in free] == ["pass"] * 3
    assert sum(run.end.decision == "halt" for run in runs) == 1


def endpoint(scripted, **settings):
    file = EndpointFile(url=scripted.url, model="m", template=question(), trust_env=False, **settings)
    return open_judge(file)


def test_an_endpoint_serves_as_second_stage(tmp_path, backbone, head):
    with serving_judge() as scripted:
        judge = endpoint(scripted)
        runs, faults = served(backbone, head, judge, tmp_path)
        judge.close()
    assert faults == {}
    assert [run.end.decision for run in runs] == ["pass"] * 3
    # The threshold at infinity flags nothing; one below the verdict on no mark flags all.
    with serving_judge() as scripted:
        judge = endpoint(scripted)
        low = math.log(harm_of("") / (1 - harm_of(""))) - 0.1
        runs, _ = served(backbone, head, judge, tmp_path / "strict", flag=low)
        judge.close()
    assert [run.end.decision for run in runs] == ["halt"] * 3


FAULTS = {
    "fails": lambda body, number: JSONResponse({"error": {}}, 500),
    "hangs": lambda body, number: 5.0,
    "says nothing": lambda body, number: JSONResponse({"choices": [{"message": {"content": "Yes"}}]}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_endpoint_that_gives_no_verdict_halts(tmp_path, backbone, head, fault):
    """At any threshold, and nothing that it was asked about has left."""
    with serving_judge(FAULTS[fault]) as scripted:
        judge = endpoint(scripted, retries=0, timeout_s=0.3)
        runs, faults = served(backbone, head, judge, tmp_path)
        judge.close()
    assert [(run.end.decision, run.end.refusal, run.text()) for run in runs] == [("error", UNCHECKED, "")] * 3
    assert faults == {"second stage": "it gave no finite verdict"}
    assert {line["fault"] for line in decisions(tmp_path)} == {"second stage"}


def test_a_verdict_after_the_servers_own_time_out_halts(tmp_path, backbone, head):
    with serving_judge(lambda body, number: 1.0) as scripted:
        judge = endpoint(scripted, timeout_s=10)
        run = new_run(backbone, TEXTS[0], max_tokens=20)
        with running_engine(backbone, judged(backbone, head, judge), tmp_path, verdict_timeout=0.2) as engine:
            start(engine, run).finish()
            assert engine.faults.open == {"second stage": "the second stage's verdict came too late"}
        judge.close()
    assert (run.end.decision, run.text()) == ("error", "")
