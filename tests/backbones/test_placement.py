"""Device and precision are decided in one place, before anything is loaded. The identity is one in all."""

import json
import struct
from pathlib import Path

import pytest
import torch
from models import save_tiny, tiny_model, tokenizer_for

from lockgate.backbones import Backbone, Placement, choose_placement, stored_dtypes
from lockgate.backbones import _placement as placing
from lockgate.errors import BackboneError, ConfigError

HALVES = ("bfloat16", "float16")
needs_cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
needs_no_mps = pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")


def save_in(dtype: str, path: Path) -> Path:
    """Write a tiny model whose files hold this precision."""
    tiny_model("llama").to(getattr(torch, dtype)).save_pretrained(path)
    tokenizer_for("llama").save_pretrained(path)
    return path


def fake_weights(path: Path, kind: str, count: int) -> Path:
    """Write the header of a safetensors file that claims `count` numbers, without their data."""
    path.mkdir()
    header = json.dumps({"w": {"dtype": kind, "shape": [count], "data_offsets": [0, 0]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@needs_cpu_only
@needs_no_mps
def test_a_machine_without_accelerator_computes_in_float32_on_the_cpu() -> None:
    for stored in ((), ("bfloat16",), ("float16", "float32")):
        assert choose_placement(stored=stored) == Placement("cpu", "float32")
    for dtype in ("float32", *HALVES):
        assert choose_placement("cpu", dtype) == choose_placement(dtype=getattr(torch, dtype))
        assert str(choose_placement("cpu", dtype)) == f"{dtype} on cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", "cpu:0", "cuda:0:1"])
def test_an_unknown_device_is_refused_with_the_known_ones(device) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, cuda:N or mps"):
        choose_placement(device)


@pytest.mark.parametrize("dtype", ["int8", "bf16", "float64", "", "torch.int8", torch.float64])
def test_an_unknown_precision_is_refused_with_the_known_ones(dtype) -> None:
    with pytest.raises(ConfigError, match="expected auto, float32, bfloat16 or float16"):
        choose_placement("cpu", dtype)


@needs_cpu_only
@needs_no_mps
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_refused_before_the_folder_is_read(device, tmp_path) -> None:
    with pytest.raises(ConfigError, match=f"device {device}: .*choose cpu or auto"):
        Backbone.load(tmp_path / "no such folder", device=device)


def test_cuda_is_preferred_and_counted(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert choose_placement() == Placement("cuda:0", "float32")
    assert choose_placement("cuda:1", stored=("bfloat16",)) == Placement("cuda:1", "bfloat16")
    assert choose_placement("cuda", stored=("float32",)).dtype == "float32"
    with pytest.raises(ConfigError, match="device cuda:2: this machine has cuda:0 to cuda:1"):
        choose_placement("cuda:2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choose_placement(stored=("float16",)).dtype == "float32"


@pytest.mark.parametrize("stored", ["float32", *HALVES])
def test_equal_weights_have_one_identity_in_every_precision(stored, tmp_path) -> None:
    folder = save_in(stored, tmp_path / "m")
    assert stored_dtypes(folder) == {stored}
    loaded = {dtype: Backbone.load(folder, device="cpu", dtype=dtype) for dtype in ("float32", *HALVES)}
    assert {dtype: found.placement.dtype for dtype, found in loaded.items()} == {d: d for d in loaded}
    assert len({json.dumps(found.identity.hashes) for found in loaded.values()}) == 1
    assert {found.identity.dtype for found in loaded.values()} == set(loaded)
    assert {found.identity.device for found in loaded.values()} == {"cpu"}


def test_other_weights_have_another_identity_in_bfloat16(tmp_path) -> None:
    found = [Backbone.load(save_tiny("llama", tmp_path / str(n), seed=n), dtype="bfloat16") for n in (0, 1)]
    assert found[0].identity.hashes != found[1].identity.hashes


def test_weights_larger_than_memory_are_refused_before_they_are_loaded(tmp_path) -> None:
    free = placing.free_memory("cpu")
    assert free is not None
    count = free // 3  # too large at four bytes a number, small enough at two
    folder = fake_weights(tmp_path / "m", "BF16", count)
    with pytest.raises(BackboneError, match=f"take {4 * count / 2**30:.1f} GiB in float32, and cpu has"):
        placing.require_memory(folder, Placement("cpu", "float32"))
    placing.require_memory(folder, Placement("cpu", "bfloat16"))
    placing.require_memory(folder, Placement("cpu", "float32"), quantised=True)


def test_a_model_that_is_too_large_is_named_by_load(tmp_path) -> None:
    save_tiny("llama", tmp_path / "m")
    shutil_free = placing.free_memory("cpu") or 0
    for file in (tmp_path / "m").glob("*.safetensors"):
        file.unlink()
    fake_weights(tmp_path / "w", "F32", shutil_free)
    (tmp_path / "w" / "model.safetensors").rename(tmp_path / "m" / "model.safetensors")
    with pytest.raises(BackboneError, match=r"GiB free; take a smaller model"):
        Backbone.load(tmp_path / "m")


@pytest.mark.parametrize(("stored", "bits"), [("I32", 32), ("U8", 8), ("F4", 4), ("F8_E4M3", 8)])
def test_quantised_weights_count_as_they_are_stored(tmp_path, monkeypatch, stored, bits) -> None:
    folder = fake_weights(tmp_path / "m", stored, 1000)
    monkeypatch.setattr(placing, "free_memory", lambda _: 1000 * bits // 8)
    placing.require_memory(folder, Placement("cpu", "float32"), quantised=True)
    monkeypatch.setattr(placing, "free_memory", lambda _: 1000 * bits // 8 - 1)
    with pytest.raises(BackboneError, match="the weights take"):
        placing.require_memory(folder, Placement("cpu", "float32"), quantised=True)


def test_a_containers_limit_counts_without_the_memory_of_files(tmp_path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("file 900\nanon 300\n")
    assert placing._group_limit(tmp_path) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert placing._group_limit(tmp_path) is None
