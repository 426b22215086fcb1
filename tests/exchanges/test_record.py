import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.errors import ExchangeError
from lockgate.exchanges import ROLES, Exchange, Message, exchange_from_dict, messages_from_list

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": TEXT}), min_size=1, max_size=4
)
RECORDS = st.fixed_dictionaries(
    {"messages": MESSAGES},
    optional={
        "label": st.one_of(st.none(), st.floats(0, 1)),
        "category": st.one_of(st.none(), TEXT),
        "source": TEXT,
        "meta": st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.booleans()), max_size=3),
    },
)


def record(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], "label": None, **changes}


@given(RECORDS)
def test_dict_form_is_a_fixed_point(obj: dict[str, Any]) -> None:
    exchange = exchange_from_dict(obj)
    again = exchange_from_dict(json.loads(json.dumps(exchange.to_dict())))
    assert again == exchange
    assert again.id == exchange.id


def test_id_is_pinned_and_ignores_everything_but_messages() -> None:
    first = exchange_from_dict(record())
    assert first.id == "d98167dd28f22e33"
    assert exchange_from_dict(record(label=1, category="x", source="y", split="z")).id == first.id
    assert Exchange((Message("user", "hello"), Message("assistant", ""))).id != first.id


def test_unknown_top_level_keys_go_into_meta() -> None:
    exchange = exchange_from_dict(record(meta={"family": "a"}, language="de", id=7))
    assert exchange.meta == {"family": "a", "language": "de", "id": 7}
    with pytest.raises(ExchangeError, match=r"^meta: .*both"):
        exchange_from_dict(record(meta={"language": "en"}, language="de"))


def test_prompt_only_is_about_the_last_message() -> None:
    assert exchange_from_dict(record()).is_prompt_only
    assert not Exchange((Message("user", "a"), Message("assistant", "b"))).is_prompt_only
    assert Exchange((Message("assistant", "b"), Message("tool", "c"))).is_prompt_only


def test_tool_calls_may_stand_for_content() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    (message,) = messages_from_list(
        [{"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}]
    )
    assert message == Message("assistant", "", tool_calls=(call,))
    assert message.to_dict()["tool_calls"] == [call]


def test_messages_pass_through_unchanged() -> None:
    turns = [Message("user", "a", name="n"), Message("tool", "b", tool_call_id="c")]
    assert messages_from_list(turns) == tuple(turns)


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (None, "record"),
        ([], "record"),
        ({}, "messages"),
        (record(messages=[]), "messages"),
        (record(messages="hello"), "messages"),
        (record(messages={"role": "user"}), "messages"),
        (record(messages=["hello"]), r"messages\[0\]"),
        (record(messages=[{"role": "user", "content": "a"}, {"content": "b"}]), r"messages\[1\].role"),
        (record(messages=[{"role": ["user"], "content": "a"}]), r"messages\[0\].role"),
        (record(messages=[{"role": "user"}]), r"messages\[0\].content"),
        (record(messages=[{"role": "user", "content": [{"text": "a"}]}]), r"messages\[0\].content"),
        (record(messages=[{"role": "user", "content": "a\ud800b"}]), r"messages\[0\].content"),
        (record(messages=[{"role": "user", "content": "a", "name": "\udfff"}]), r"messages\[0\].name"),
        (record(messages=[{"role": "user", "content": "a", "thoughts": "b"}]), r"messages\[0\]"),
        (
            record(messages=[{"role": "assistant", "content": "", "tool_calls": ["f"]}]),
            r"messages\[0\].tool_calls",
        ),
        (
            record(messages=[{"role": "assistant", "content": "", "tool_calls": [{"f": "\ud800"}]}]),
            r"messages\[0\].tool_calls",
        ),
        (record(label="1"), "label"),
        (record(label=True), "label"),
        (record(label=-0.01), "label"),
        (record(label=1.01), "label"),
        (record(label=math.nan), "label"),
        (record(category=3), "category"),
        (record(source=["a"]), "source"),
        (record(meta=[1]), "meta"),
        (record(meta={"a": math.inf}), "meta"),
        (record(extra={1, 2}), "meta"),
        (record(extra="\ud800"), "meta"),
    ],
)
def test_bad_records_name_their_field(obj: object, field: str) -> None:
    with pytest.raises(ExchangeError, match=f"^{field}: ") as caught:
        exchange_from_dict(obj)
    str(caught.value).encode("utf-8")


@given(st.text(st.characters(categories=["L"]), min_size=12, max_size=30))
def test_errors_never_repeat_user_text(secret: str) -> None:
    for bad in (
        record(label=secret),
        record(messages=secret),
        record(messages=[{"role": secret, "content": secret}]),
        record(messages=[{"role": "user", "content": secret + "\ud800"}]),
        record(messages=[{"role": "user", "content": "a", secret: secret}]),
        record(meta={secret: math.nan}),
    ):
        with pytest.raises(ExchangeError) as caught:
            exchange_from_dict(bad)
        assert secret not in str(caught.value)
