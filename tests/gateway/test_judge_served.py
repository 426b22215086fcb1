"""A judge of text as the second stage of a served guard: what it reads, and what its faults do."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from engine_runs import new_run, running_engine, start
from live import serving
from scripted_judge import harm_of, serving_judge
from serving import scoring_for
from staging import LOUD, decisions, thresholds_of
from starlette.responses import JSONResponse
from text_judges import Counting, question, sequence_judge, talk

from lockgate.backbones import Feed, SessionPool
from lockgate.errors import JudgeError
from lockgate.exchanges import Message
from lockgate.gateway._records import UNCHECKED
from lockgate.guards import Stages
from lockgate.judges import EndpointFile, JudgeStage, TokenIds, open_judge
from lockgate.judges._text import fill

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
    for own in asked.asked:
        logits.setdefault(own[0].content, []).append(judge.judge([own])[0].logit)
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


@torch.inference_mode()
def log_probabilities(backbone, text):
    """Of the model's first token after a user's text."""
    ids = backbone.render([Message("user", text)], add_generation_prompt=True).token_ids
    with SessionPool(backbone, len(ids)) as pool:
        logits = pool.step([Feed(pool.open(len(ids)), ids, want_logits=True)])[0]
    return logits.double().log_softmax(0)


TALKS = [talk("why", "the boat"), talk("what is the mill?", "a bridge, the water"), talk("when")]


def test_our_own_server_is_an_endpoint_with_tokens_of_the_words(make_gateway, backbone):
    """Without alternatives to the chosen token, and the verdict is that of the model itself."""
    ids = [backbone.chat.encode_text(letter) for letter in "ynms"]
    words = TokenIds(harmful=(*ids[0], *ids[2]), harmless=(*ids[1], *ids[3]))
    with serving(make_gateway(backbone, None)) as url:
        file = EndpointFile(
            url=f"{url}/v1", model="any", template=question(), token_ids=words, trust_env=False
        )
        judge = open_judge(file)
        judge.check()
        readings = judge.judge(TALKS)
        judge.close()
    for conversation, reading in zip(TALKS, readings, strict=True):
        logprobs = log_probabilities(backbone, fill(question().prompt, conversation))
        wanted = max(logprobs[list(words.harmful)]) - max(logprobs[list(words.harmless)])
        assert reading.logit == pytest.approx(float(wanted), abs=1e-4)
        assert (reading.error, reading.completion_tokens) == (None, 2)


def test_our_own_server_says_that_it_gives_no_alternatives(make_gateway, backbone):
    with serving(make_gateway(backbone, None)) as url:
        file = EndpointFile(url=f"{url}/v1", model="any", template=question(), trust_env=False)
        judge = open_judge(file)
        with pytest.raises(JudgeError, match=r"gives no alternatives.*set top_logprobs: 0"):
            judge.check()
        judge.close()
        words = question(harmful=("y",), harmless=("n",))
        judge = open_judge(file.model_copy(update={"top_logprobs": 0, "template": words}))
        with pytest.raises(JudgeError, match="begins with none of the verdict words"):
            judge.check()
        judge.close()
