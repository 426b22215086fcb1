"""Names of generators are keys of the cache, so another model must have another name."""

from pathlib import Path

from models import tiny_backbone

from lockgate.synthesis import EmbeddedGenerator
from lockgate.synthesis.factory import embedded_source


def write_model(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_local_model_is_named_by_its_files(tmp_path) -> None:
    one = embedded_source(str(write_model(tmp_path / "a" / "writer", b"one")))
    two = embedded_source(str(write_model(tmp_path / "b" / "writer", b"two")))
    moved = embedded_source(str(write_model(tmp_path / "c" / "writer", b"one")))
    assert one.name == moved.name != two.name
    assert one.name.startswith("writer@")
    assert str(tmp_path) not in one.name
    (tmp_path / "a" / "writer" / "model.safetensors").write_bytes(b"other")
    assert embedded_source(str(tmp_path / "a" / "writer")).name not in (one.name, two.name)


def test_the_shipped_model_keeps_its_name(tmp_path, monkeypatch) -> None:
    write_model(tmp_path / "embedded", b"one")
    monkeypatch.chdir(tmp_path)
    assert embedded_source(dtype="bfloat16", streams=4).name == "embedded/bfloat16/4"


def test_answers_of_the_shipped_model_are_kept_under_what_it_is_made_from(monkeypatch) -> None:
    before = embedded_source()
    assert before.identity.startswith("embedded/float32/32 ")
    assert embedded_source().identity == before.identity
    monkeypatch.setattr("lockgate.backbones._embedded.GGUF_SHA256", "0" * 64)
    after = embedded_source()
    assert after.name == before.name
    assert after.identity != before.identity


def test_answers_are_kept_under_the_sources_name(saved_backbone) -> None:
    source = embedded_source(str(saved_backbone("llama")), streams=2)
    assert source.get().name == source.name
    assert source.get().identity == source.identity
    backbone = tiny_backbone()
    plain = EmbeddedGenerator(backbone, streams=2)
    assert plain.identity == plain.name == f"{backbone.name}/float32/2"
    named = EmbeddedGenerator(backbone, name="writer", identity="writer 1")
    assert (named.name, named.identity) == ("writer", "writer 1")
