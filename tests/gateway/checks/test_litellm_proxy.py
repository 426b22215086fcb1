"""LiteLLM's real proxy asks a real Lockgate server about a scripted model's answers."""

import openai
import pytest
from checking import ANSWER, BACKBONE, HEAD, PROMPT, offline, prompt_tokens
from litellm_proxy import ScriptedModel, find_litellm, litellm_proxy, served
from serving import NEVER, REFUSAL, GatewayFactory, decisions_of, scoring_for
from test_openai_client import live

COMMAND = find_litellm()
KEY = "sesame"
PIECES = [f"{word} " for word in ANSWER.split()]
WHOLE = "".join(PIECES)


def ask(client, **fields):
    return client.chat.completions.create(model="scripted", messages=PROMPT, **fields)


def streamed(client):
    """The text that reached the client, and whether the stream was stopped."""
    text = ""
    try:
        for chunk in ask(client, stream=True):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    except openai.APIError:
        return text, True
    return text, False


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A gateway that tests can put under another threshold, the model, and a client of the proxy between."""
    folder = tmp_path_factory.mktemp("litellm")
    gateway = GatewayFactory(folder)(BACKBONE, scoring_for(BACKBONE, HEAD, flag_on="both"), api_key=KEY)
    model = ScriptedModel()
    how = {"streaming_transform_mode": "incremental_diff", "streaming_sampling_rate": 1}
    with (
        live(gateway) as guard,
        served(model.app) as upstream,
        litellm_proxy(COMMAND, folder, model=upstream, guard=guard, key=KEY, **how) as client,
    ):
        yield gateway, model, client


def under(gateway, flag, flag_on):
    """Let the running server judge by another threshold."""
    gateway.engine._stepper._scoring = scoring_for(BACKBONE, HEAD, flag, flag_on=flag_on)


def test_calm_answers_pass_through_whole(settings):
    gateway, model, client = settings
    model.pieces = PIECES
    assert ask(client).choices[0].message.content == WHOLE
    assert streamed(client) == (WHOLE, False)
    kinds = [line["decision"] for line in decisions_of(gateway)]
    assert kinds
    assert set(kinds) == {"pass"}


def test_a_flagged_prompt_never_reaches_the_model(settings):
    gateway, model, client = settings
    under(gateway, -NEVER, "both")
    model.pieces = []
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert REFUSAL in str(caught.value)
    assert decisions_of(gateway)[-1]["decision"] == "block"


def test_a_flagged_answer_stops_before_its_flagged_token(settings):
    gateway, model, client = settings
    score = offline(scoring_for(BACKBONE, HEAD), WHOLE)
    under(gateway, score.max_answer - 1e-3, "answer")
    expected = offline(scoring_for(BACKBONE, HEAD, score.max_answer - 1e-3), WHOLE)
    assert expected.flag_token is not None
    model.pieces = PIECES
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert REFUSAL in str(caught.value)
    text, stopped = streamed(client)
    halted = [line for line in decisions_of(gateway) if line["decision"] == "halt"]
    # LiteLLM shows the prompt in another call, before the answer.
    assert halted
    assert {line["prompt_tokens"] for line in halted} == {prompt_tokens()}
    tokens = BACKBONE.chat.vocabulary.encode_answer_tokens(WHOLE)
    cleared = sum(len(token.text) for token in tokens[: expected.flag_token])
    assert stopped
    assert WHOLE.startswith(text)
    assert len(text) <= cleared < len(WHOLE)
