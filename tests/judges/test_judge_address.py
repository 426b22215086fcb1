"""A judge that is named by its address or folder alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.errors import JudgeError
from lockgate.exchanges import Message
from lockgate.judges import (
    DEFAULT_RULE,
    LAYOUTS,
    GuardModelFile,
    JudgeAddress,
    Template,
    find_judge,
    is_address,
    layout_of,
    read_judge_file,
    write_judge_file,
)
from lockgate.judges._text import fill

URL = "http://127.0.0.1:8000/v1"


def test_another_model_is_asked_whether_the_answer_breaks_the_rule(tmp_path):
    for address, policy, rule in (
        (JudgeAddress(URL, "m"), None, DEFAULT_RULE),
        (JudgeAddress(URL, "m"), "no methods", "no methods"),
        (JudgeAddress(URL, "m", rule=" no prices\n"), "no methods", "no prices"),
    ):
        file = address.file(policy)
        assert isinstance(file.template, Template)
        assert (file.template.harmful, file.template.harmless) == (("Yes",), ("No",))
        asked = fill(file.template.prompt, (Message("user", "hello?"), Message("assistant", "hi.")))
        assert f"Rule: {rule}\n" in asked
        assert asked.index("hi.") < asked.index("Rule:")
        (tmp_path / "judge.yaml").write_bytes(write_judge_file(file))
        assert read_judge_file(tmp_path / "judge.yaml") == file
    assert JudgeAddress(URL, "m", "KEY").file().api_key_env == "KEY"


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("meta-llama/Llama-Guard-3-8B", "llama-guard"),
        ("Qwen/Qwen3Guard-Gen-0.6B", "qwen3guard"),
        ("google/shieldgemma-2b", "shieldgemma"),
        ("granite_guardian-3.2-5b", "granite-guardian"),
        ("llama-guard/another-model", None),
        ("gpt-4o", None),
    ],
)
def test_guard_models_are_known_by_their_name(tmp_path, name, layout):
    assert layout_of(name) == layout
    template = JudgeAddress(URL, name).file("a policy").template
    assert template == layout if layout else isinstance(template, Template)
    folder = tmp_path / name.rpartition("/")[2]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    if layout is None:
        with pytest.raises(JudgeError, match="does not say its verdict words"):
            find_judge(folder)
    else:
        assert find_judge(folder) == GuardModelFile(path=str(folder), template=layout)


@given(st.sampled_from(sorted(LAYOUTS)), st.text("AaBb01-_. ", max_size=6))
def test_every_layout_is_found_in_a_longer_name(layout, more):
    assert layout_of(f"maker/{layout.upper()}{more}") == layout


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (JudgeAddress(URL, "m", rule="never say {answer}"), "stands for a part of the conversation"),
        (JudgeAddress(URL, "Llama-Guard-3-1B", rule="no prices"), "has a policy of its own"),
        (JudgeAddress("http://user:secret@host/v1", "m"), "--judge: url"),
        (JudgeAddress("http://host:99999/v1", "m"), "the port is no number"),
        (JudgeAddress(URL, ""), "--judge: model"),
    ],
)
def test_what_cannot_be_asked_is_refused(address, message):
    with pytest.raises(JudgeError, match=message) as raised:
        address.file()
    assert "secret" not in str(raised.value)


def test_addresses_are_told_from_files(tmp_path):
    assert is_address(URL)
    assert is_address("https://host")
    assert not is_address(tmp_path / "judge.yaml")
    with pytest.raises(JudgeError, match="name it with --judge-model"):
        find_judge(URL)
