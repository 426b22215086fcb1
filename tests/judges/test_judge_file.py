"""A judge's settings as YAML: what is kept, what is refused, and what they decide."""

import pytest
import yaml
from text_judges import question

from lockgate.errors import JudgeError
from lockgate.judges import (
    ClassifierFile,
    EndpointFile,
    GuardModelFile,
    Price,
    SequenceFile,
    TokenIds,
    find_judge,
    read_judge_file,
    write_judge_file,
)

FILES = [
    SequenceFile(path="/models/a", harmful=("toxic",), reads="answer", price=Price(prompt=0.5)),
    GuardModelFile(path="/models/b", template="llama-guard", lead="", harmful=("unsafe",)),
    GuardModelFile(path="/models/b", template=question(), dtype="bfloat16"),
    ClassifierFile(path="/models/c", backbone="/models/d", policy={"name": "x", "version": 2}),
    EndpointFile(url="https://host/v1", model="m", template=question(), api_key_env="KEY"),
    EndpointFile(
        url="http://[::1]:8000/v1",
        model="m",
        template=question(),
        token_ids=TokenIds(harmful=(1,), harmless=(2,)),
    ),
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.kind)
def test_a_file_comes_back_as_it_was_written(tmp_path, file):
    path = tmp_path / "judge.yaml"
    path.write_bytes(write_judge_file(file))
    assert read_judge_file(path) == file
    assert find_judge(path) == file


def test_folders_are_taken_from_the_files_own_folder(tmp_path):
    (tmp_path / "judge.yaml").write_text("kind: classifier\npath: c\nbackbone: b\n")
    found = read_judge_file(tmp_path / "judge.yaml")
    assert (found.path, found.backbone) == (str(tmp_path / "c"), str(tmp_path / "b"))
    (tmp_path / "judge.yaml").write_text("kind: classifier\npath: c\n")
    assert read_judge_file(tmp_path / "judge.yaml").backbone == "embedded"


END = {"kind": "endpoint", "url": "http://h/v1", "model": "m"}
ASK = {"prompt": "{answer}", "harmful": ["yes"], "harmless": ["no"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: [", "not readable as YAML"),
        ("- 1", "expected the keys of a judge"),
        ("path: x", "kind: expected sequence-classifier, guard-model, classifier or endpoint"),
        ("kind: oracle", "kind: expected sequence-classifier"),
        ({"kind": "sequence-classifier"}, "path: Field required"),
        ({"kind": "sequence-classifier", "path": "x", "harmfull": []}, "harmfull: Extra inputs"),
        ({"kind": "guard-model", "path": "x", "template": "llamaguard"}, "template"),
        ({"kind": "guard-model", "path": "x", "template": {**ASK, "words": 1}}, "Extra inputs"),
        ({"kind": "guard-model", "path": "x", "template": ASK, "harmful": ["a"]}, "in the template itself"),
        ({**END, "template": {**ASK, "prompt": "hello"}}, "expected {conversation} or {answer}"),
        ({**END, "template": {**ASK, "harmless": ["Yes "]}}, "yes stands for harmful and for harmless"),
        ({**END, "template": {**ASK, "harmless": []}}, "harmless"),
        ({**END, "template": {**ASK, "harmless": [" "]}}, "a verdict word is empty"),
        ({**END, "template": ASK, "url": "ftp://h"}, "url"),
        ({**END, "template": ASK, "url": "http://user:pass@h/v1"}, "url"),
        ({**END, "template": ASK, "url": "http://h:99999/v1"}, "the port"),
        ({**END, "template": ASK, "extra_body": {"max_tokens": 5}}, "extra_body may not set max_tokens"),
        ({**END, "template": ASK, "api_key": "secret"}, "api_key: Extra inputs"),
        ({**END, "template": ASK, "timeout_s": 0}, "timeout_s"),
        ({**END, "template": "llama"}, "template"),
        (
            {**END, "template": "llama-guard", "token_ids": {"harmful": [1], "harmless": [2]}},
            "a template of your own",
        ),
        ({**END, "template": ASK, "token_ids": {"harmful": [1], "harmless": [1]}}, "none of them for both"),
    ],
)
def test_bad_settings_are_named_by_file_and_key(tmp_path, content, message):
    path = tmp_path / "judge.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(JudgeError) as caught:
        read_judge_file(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_folder_or_address_alone_may_not_say_enough(tmp_path):
    with pytest.raises(JudgeError, match="no such judge"):
        find_judge(tmp_path / "none")
    (tmp_path / "classifier.yaml").write_text("")
    with pytest.raises(JudgeError, match="also needs its backbone"):
        find_judge(tmp_path)
    with pytest.raises(JudgeError, match="an address alone"):
        find_judge("http://127.0.0.1:9/v1")
