"""Checks of a model's folder before the model is loaded: missing files, needed packages, the model's name."""

import hashlib
import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lockgate.durable import file_sha256
from lockgate.errors import BackboneError

_LFS = b"version https://git-lfs.github.com/spec/"
_PARTS = ("*.json", "*.jinja", "*.safetensors", "*.model", "additional_chat_templates/*.jinja")
# Packages that read a quantised checkpoint, by method. One of a group is enough.
_NEEDS: dict[str, tuple[str, ...]] = {
    "aqlm": ("aqlm",),
    "auto-round": ("auto_round",),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "eetq": ("kernels",),
    "fbgemm_fp8": ("fbgemm_gpu",),
    "gptq": ("gptqmodel",),
    "higgs": ("flute",),
    "hqq": ("hqq",),
    "mxfp4": ("kernels",),
    "quanto": ("optimum.quanto",),
    "quark": ("quark",),
    "spqr": ("spqr_quant",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
_PIP = {
    "auto_round": "auto-round",
    "compressed_tensors": "compressed-tensors",
    "fbgemm_gpu": "fbgemm-gpu-genai",
    "optimum.quanto": "optimum-quanto",
    "quark": "amd-quark",
    "flute": "flute-kernel",
}


def find_folder(path: Path) -> Path:
    """Return the folder of a model. For a model's place in a hub cache it is the current snapshot.

    Raises:
        BackboneError: there is no model. The message says what was found instead.
    """
    if (path / "config.json").is_file():
        return path
    try:
        commit = (path / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    snapshots = path / "snapshots"
    if snapshots.is_dir():
        found = [
            place for place in sorted(snapshots.iterdir()) if commit in ("", place.name) and place.is_dir()
        ]
        if len(found) == 1 and (found[0] / "config.json").is_file():
            return found[0]
        raise BackboneError(f"{path}: a place in a hub cache; name one folder of its snapshots")
    if (path / "adapter_config.json").is_file():
        raise BackboneError(f"{path}: an adapter without its model; merge the two and save the whole model")
    if path.is_dir() and any(path.glob("*.gguf")):
        raise BackboneError(f"{path}: holds GGUF files; expected a Hugging Face model with safetensors")
    if path.is_file():
        raise BackboneError(f"{path}: is a file; expected the directory of a Hugging Face model")
    raise BackboneError(f"{path}: expected a directory with a Hugging Face model (config.json is missing)")


def name_of(path: Path) -> str:
    """Return the model's name: the folder's name, or `ORG/MODEL` for a snapshot in a hub cache."""
    for place in (path.absolute(), path.resolve()):
        parts = place.parts
        if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
            return parts[-3].removeprefix("models--").replace("--", "/", 1)
    return path.resolve().name


def check_folder(path: Path) -> dict[str, Any]:
    """Check a model's folder and return the content of its `config.json`.

    Raises:
        BackboneError: a file is only a Git LFS pointer, the configuration or the index is broken, a shard is
            missing, or the checkpoint needs a package that is not installed.
    """
    for pattern in _PARTS:
        for file in sorted(path.glob(pattern)):
            if _begins_as_pointer(file):
                raise BackboneError(
                    f"{file}: a Git LFS pointer, not the file itself; run `git lfs pull` in {path}"
                )
    config = _read_object(path / "config.json")
    if (index := path / "model.safetensors.index.json").is_file():
        _check_shards(path, index)
    if (method := quantisation_of(path, config)) is not None:
        _check_quantised(path, method)
    return config


def hash_weights(path: Path) -> str:
    """Hash the files with weights in a folder, byte for byte."""
    found = [[file.name, file_sha256(file)] for file in sorted(path.glob("*.safetensors"))]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash tensors, in their names' order, as float32: equal weights have one hash in any precision."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        full = tensor.detach().cpu()
        full = full.float() if full.is_floating_point() else full
        digest.update(json.dumps([name, list(full.shape), str(full.dtype)]).encode())
        digest.update(full.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def quantisation_of(path: Path, config: dict[str, Any]) -> str | None:
    """Return the method that a checkpoint was quantised with; None if it was not quantised."""
    found = config.get("quantization_config") or config.get("compression_config")
    nested = config.get("text_config")
    if not found and isinstance(nested, dict):
        found = nested.get("quantization_config")
    if isinstance(found, dict):
        method = found.get("quant_method")
        if isinstance(method, str):
            return {"bitsandbytes_4bit": "bitsandbytes", "bitsandbytes_8bit": "bitsandbytes"}.get(
                method, method
            )
        if found.get("load_in_4bit") or found.get("load_in_8bit"):
            return "bitsandbytes"
        return "compressed-tensors" if "config_groups" in found or "format" in found else "unknown"
    # Older tools write these files and do not mention them in the configuration.
    if (path / "quantize_config.json").is_file():
        return "gptq"
    return "awq" if (path / "quant_config.json").is_file() else None


def find_template(path: Path, loaded: Any) -> Any:  # noqa: ANN401 - as the library has it: text, or by name
    """Return the loaded templates, with a default from files in which the library does not look for one."""
    if isinstance(loaded, str) or (isinstance(loaded, dict) and "default" in loaded):
        return loaded
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = _read_object(path / name).get("chat_template") if (path / name).is_file() else None
        if isinstance(found, list):
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        if isinstance(found, str):
            return {**loaded, "default": found} if isinstance(loaded, dict) else found
    return loaded


def _check_quantised(path: Path, method: str) -> None:
    needed = _NEEDS.get(method.replace("_", "-"), _NEEDS.get(method, ()))
    if needed and not any(_is_installed(name) for name in needed):
        raise BackboneError(
            f"{path}: quantised with {method}, which needs the package {_PIP.get(needed[0], needed[0])}: "
            f"pip install {_PIP.get(needed[0], needed[0])}; or take a checkpoint that isn't quantised"
        )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _begins_as_pointer(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(_LFS)) == _LFS
    except OSError as error:
        raise BackboneError(f"{file}: can't be read: {error.strerror}") from error


def _check_shards(path: Path, index: Path) -> None:
    weights = _read_object(index).get("weight_map")
    if not isinstance(weights, dict):
        raise BackboneError(f"{index}: weight_map: expected an object of tensor names and files")
    shards = sorted(set(map(str, weights.values())))
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise BackboneError(
            f"{path}: {len(missing)} of {len(shards)} files with weights are missing, the first is "
            f"{missing[0]}; fetch the whole model"
        )


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BackboneError(f"{file}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{file}: not valid JSON; fetch the model again") from error
    if not isinstance(value, dict):
        raise BackboneError(f"{file}: expected a JSON object")
    return value
