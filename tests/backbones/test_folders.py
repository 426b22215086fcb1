"""Model folders found in practice: each one loads, or the error names what is missing."""

import json
import shutil
from importlib.util import find_spec

import pytest
from models import CHATML, SHAPE, save_tiny, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
from typer.testing import CliRunner

from lockgate.backbones import Backbone
from lockgate.backbones import _folder as folder
from lockgate.cli import app, main
from lockgate.errors import BackboneError


@pytest.fixture
def model(tmp_path):
    return save_tiny("llama", tmp_path / "model")


def change_config(path, **changes) -> None:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


QUANTISED = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ({"load_in_8bit": True}, "bitsandbytes"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptqmodel"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel"),
    ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "compressed-tensors"),
    ({"quant_method": "hqq"}, "hqq"),
    ({"quant_method": "quanto"}, "optimum-quanto"),
]


@pytest.mark.parametrize(("config", "package"), QUANTISED)
def test_quantised_checkpoints_name_what_reads_them(model, config, package, monkeypatch) -> None:
    monkeypatch.setattr(folder, "find_spec", lambda name: None)
    change_config(model, quantization_config=config)
    # Said before the weights are read: these can't be.
    (model / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BackboneError, match=f"quantised with .*pip install {package};"):
        Backbone.load(model)


def test_older_writers_of_quantised_checkpoints_are_known(model, monkeypatch) -> None:
    monkeypatch.setattr(folder, "find_spec", lambda name: None)
    (model / "quantize_config.json").write_text("{}")
    with pytest.raises(BackboneError, match="quantised with gptq"):
        Backbone.load(model)


def test_a_quantisation_without_a_name_is_an_error(model) -> None:
    change_config(model, quantization_config={"bits": 4})
    with pytest.raises(BackboneError, match="not loadable"):
        Backbone.load(model)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"]
)
def test_a_pointer_of_git_lfs_is_named(model, name) -> None:
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(BackboneError, match=f"{name}: a Git LFS pointer.*git lfs pull"):
        Backbone.load(model)


def test_a_snapshot_in_a_hub_cache_has_the_models_name(model, tmp_path) -> None:
    place = tmp_path / "models--river--keeper-1--small"
    snapshot = place / "snapshots" / "0123456789abcdef"
    blobs = place / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    # As the cache keeps them: files are links into another folder.
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.move(file, blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    assert Backbone.load(snapshot).name == "river/keeper-1--small"
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123456789abcdef")
    assert Backbone.load(place).name == "river/keeper-1--small"
    (place / "refs" / "main").write_text("fedcba9876543210")
    with pytest.raises(BackboneError, match="hub cache"):
        Backbone.load(place)


def test_any_other_folder_has_its_own_name(model, tmp_path, monkeypatch) -> None:
    assert Backbone.load(model).name == "model"
    monkeypatch.chdir(model)
    assert Backbone.load(".").name == "model"


def test_shards_are_read_and_a_missing_one_is_named(model) -> None:
    whole = Backbone.load(model).identity.hashes
    tiny_model("llama").save_pretrained(model, max_shard_size="40KB")
    (model / "model.safetensors").unlink()
    shards = sorted(model.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert Backbone.load(model).identity.hashes == whole
    shards[1].unlink()
    with pytest.raises(BackboneError, match=f"1 of {len(shards)} files .*{shards[1].name}"):
        Backbone.load(model)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "config.json: not valid JSON"),
        ("config.json", "[]", "config.json: expected a JSON object"),
        ("config.json", '{"model_type": "llama", "hidden_size": "many"}', "not loadable"),
        ("tokenizer.json", "{}", "not loadable"),
        ("model.safetensors.index.json", "{}", "weight_map"),
    ],
)
def test_damaged_files_are_one_clear_error(model, name, content, said) -> None:
    (model / name).write_text(content)
    with pytest.raises(BackboneError, match=said):
        Backbone.load(model)


@pytest.mark.parametrize(
    ("name", "said"), [("adapter_config.json", "an adapter"), ("x.gguf", "GGUF"), ("x.txt", "config.json is")]
)
def test_a_folder_without_a_model_says_what_it_is(tmp_path, name, said) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(BackboneError, match=said):
        Backbone.load(tmp_path)
    with pytest.raises(BackboneError, match="is a file"):
        Backbone.load(tmp_path / name)


def test_doctor_prints_the_self_test_of_a_model(model) -> None:
    done = CliRunner().invoke(app, ["doctor", "--backbone", str(model), "--json"])
    checks = {check["name"]: check for check in json.loads(done.output)["checks"]}
    assert checks[str(model)]["ok"]
    tests = [name for name in checks if name.startswith("self-test: ")]
    assert len(tests) == 5
    assert all(checks[name]["ok"] for name in tests)
    (model / "chat_template.jinja").write_text("{{ [1, 2] | random }}" + CHATML)
    done = CliRunner().invoke(app, ["doctor", "--backbone", str(model), "--json"])
    assert done.exit_code == 1
    found = {check["name"]: check for check in json.loads(done.output)["checks"]}[str(model)]
    assert not found["ok"]
    assert "random" in found["found"]


def test_a_bad_folder_is_exit_2(model, capsys) -> None:
    change_config(model, quantization_config={"quant_method": "hqq"})
    if find_spec("hqq") is not None:
        pytest.skip("this installation reads the kind that the test takes for missing")
    arguments = ["serve", "--backbone", str(model), "--mode", "off", "--port", "0"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "quantised with hqq" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_a_quantised_checkpoint_is_loaded_and_keeps_its_identity(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(**{**SHAPE, "hidden_size": 128, "vocab_size": len(tokenizer)})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "whole")
    four_bits = BitsAndBytesConfig(load_in_4bit=True)
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole", quantization_config=four_bits, device_map="cpu"
    )
    quantised.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    # Weights are rearranged at the first step; the identity is asked for before and behind one.
    first, second = Backbone.load(tmp_path / "model"), Backbone.load(tmp_path / "model")
    hashes = first.identity.hashes
    second.self_test()
    assert len(second.identity.fingerprint) == 32
    assert second.identity.hashes == hashes
