"""Text from cleared tokens: whole characters, no stop strings, and each token beside its text."""

from hypothesis import given
from hypothesis import strategies as st
from models import tiny_tokenizer

from lockgate.gateway._stream import AnswerText
from lockgate.gateway._text import StopMatcher

WORDS = st.text(alphabet="abAB é水🚤 .", max_size=40)


def decode(ids):
    return tiny_tokenizer().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def encode(text):
    return tiny_tokenizer().encode(text, add_special_tokens=False)


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=4), max_size=4))
def test_stop_matcher_agrees_with_a_search_of_the_whole(pieces, stops):
    matcher = StopMatcher(stops)
    given_out, stopped = "", False
    for piece in pieces:
        result = matcher.push(piece)
        given_out += result.text
        assert not any(stop in given_out for stop in stops)
        if result.stopped:
            stopped = True
            break
    else:
        given_out += matcher.finish()
    whole = "".join(pieces)
    places = [whole.find(stop) for stop in stops if stop in whole]
    assert stopped == bool(places)
    if not stopped:
        assert given_out == whole
    else:
        assert whole.startswith(given_out)
        assert not any(stop in given_out for stop in stops)


@given(WORDS, st.lists(st.text("abAB水.", min_size=1, max_size=3), max_size=3))
def test_tokens_leave_with_their_text(text, stops):
    answer = AnswerText(decode, stops)
    out, shown, stopped = "", "", False
    for token in encode(text):
        step = answer.push(token, 0.0, None)
        out += step.text
        shown += "".join(item.text for item in step.tokens)
        assert out.startswith(shown)
        if step.stopped:
            stopped = True
            break
    if not stopped:
        rest = answer.finish()
        assert out + rest.text == text
        assert shown + "".join(item.text for item in rest.tokens) == text
    else:
        assert not any(stop in out for stop in stops)
        assert not any(stop in shown for stop in stops)
