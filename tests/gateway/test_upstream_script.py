"""The text of an answer as the guard reads it, however its parts arrive."""

import json

from hypothesis import given
from hypothesis import strategies as st

from lockgate.gateway.upstream._script import AnswerScript, text_of

CALL = {"id": st.text("abc_1", min_size=1), "name": st.text(min_size=1), "arguments": st.text()}
CALLS = st.lists(st.fixed_dictionaries(CALL), max_size=3)


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@given(content=st.text(), calls=CALLS, cuts=st.lists(st.integers(0, 99), max_size=4))
def test_content_and_calls_read_as_files_do(content, calls, cuts) -> None:
    script, made = AnswerScript(), ""
    for piece in split(content, cuts):
        made += script.text("content", piece)
    for number, call in enumerate(calls):
        made += script.call(number, call["id"], call["name"])
        for piece in split(call["arguments"], cuts):
            made += script.call(number, arguments=piece)
    made += script.end()
    whole = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in calls
    ]
    told = json.dumps(whole, ensure_ascii=False) if calls else ""
    assert made == (f"{content}\n{told}" if content and told else content + told)


def test_other_channels_stand_apart() -> None:
    script = AnswerScript()
    parts = [("reasoning", "I "), ("reasoning", "think."), ("content", "Yes"), ("refusal", "No")]
    assert "".join(script.text(*part) for part in parts) + script.end() == "I think.\n\nYes\n\nNo"


def test_text_after_a_call_closes_it() -> None:
    script = AnswerScript()
    made = script.call(0, "", "f", "{}") + script.text("content", "done") + script.end()
    assert made == '[{"type": "function", "function": {"name": "f", "arguments": "{}"}}]\n\ndone'


@given(
    st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_no_text_of_an_unknown_field_is_lost(value) -> None:
    def texts(found):
        match found:
            case str():
                yield found
            case dict():
                for key, item in found.items():
                    yield key
                    yield from texts(item)
            case list():
                for item in found:
                    yield from texts(item)

    told = text_of(value)
    for text in texts(value):
        assert text in told or json.dumps(text, ensure_ascii=False)[1:-1] in told
