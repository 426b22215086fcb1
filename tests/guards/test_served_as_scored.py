"""With any template, a streamed answer and a finished one get the same scores."""

import pytest
from models import tiny_model
from odd_templates import TEMPLATES, tokenizer_with
from parts import make_guard
from tokenizers import AddedToken

from lockgate.backbones import Backbone
from lockgate.exchanges import Message

ANSWER = "if x:\n    y\n\nthe lock holds </think> the water"
CONVERSATIONS = {
    "one turn": [Message("user", "why")],
    "system": [Message("system", "be brief"), Message("user", "why    so")],
    "several turns": [
        Message("system", "be brief"),
        Message("user", "why"),
        Message("assistant", "so </think>"),
        Message("user", "and then"),
    ],
}


@pytest.fixture(scope="module", params=TEMPLATES)
def guard(request):
    tokenizer = tokenizer_with(TEMPLATES[request.param])
    plain = [AddedToken(text, special=False, normalized=False) for text in ("    ", "\n\n", "</think>")]
    tokenizer.add_tokens(plain)
    model = tiny_model("llama")
    model.resize_token_embeddings(len(tokenizer))
    backbone = Backbone(model, tokenizer, name="tiny-odd")
    return make_guard(backbone)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_stream_and_a_finished_exchange_have_one_score(guard, conversation) -> None:
    turns = CONVERSATIONS[conversation]
    # The tokens that a model writes for such a text, added ones among them.
    written = guard.backbone.tokenizer.encode(ANSWER, add_special_tokens=False)
    assert guard.backbone.tokenizer.convert_tokens_to_ids("</think>") in written
    assert guard.backbone.decode(written) == ANSWER
    whole = guard.score([*turns, Message("assistant", ANSWER)])
    with guard.stream(turns) as stream:
        for token in written:
            stream.push(token)
        stream.finish()
        found = stream._state
    assert found.scored == whole.tokens
    assert found.max_prompt == pytest.approx(whole.max_prompt, abs=1e-3)
    assert found.max_answer == pytest.approx(whole.max_answer, abs=1e-3)
    other = guard.score([*turns, Message("assistant", ANSWER + " and boats")])
    assert other.max_prompt == pytest.approx(whole.max_prompt, abs=1e-3)
