"""A judge's local folder: content hash, tokenizer and weights. Nothing is unpickled or downloaded."""

import json
from pathlib import Path
from typing import Any

import torch

from lockgate.backbones import choose_placement, without_progress_bars
from lockgate.durable import file_sha256, hash_json
from lockgate.errors import JudgeError
from lockgate.judges._file import GuardModelFile, SequenceFile

# Files that decide what a model says. Read-mes and weights in other formats do not.
_READ = (".json", ".safetensors", ".jinja", ".txt", ".model")


def hash_folder(folder: Path) -> str:
    """Return a hash of the files that a model is loaded from.

    Raises:
        JudgeError: the folder does not exist, or holds no weights in safetensors.
    """
    if not folder.is_dir():
        raise JudgeError(f"{folder}: no such folder; expected a model with its config.json and safetensors")
    files = sorted(path for path in folder.iterdir() if path.suffix in _READ and path.is_file())
    if not any(path.suffix == ".safetensors" for path in files):
        raise JudgeError(
            f"{folder}: no weights in safetensors; convert them, since other formats can run code when they "
            "are read"
        )
    return hash_json([[path.name, file_sha256(path)] for path in files])


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of `config.json`.

    Raises:
        JudgeError: it can't be read, or it asks for code of its own.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if not isinstance(config, dict):
            raise ValueError
    except (OSError, ValueError) as error:
        raise JudgeError(f"{folder}/config.json: not readable ({type(error).__name__})") from None
    if "auto_map" in config:
        raise JudgeError(f"{folder}: the model brings code of its own (auto_map), which is never run")
    return config


def load_model(kind: str, file: SequenceFile | GuardModelFile) -> tuple[Any, Any, torch.device]:
    """Load the tokenizer and the model of a folder.

    Args:
        kind: name of the class in transformers.
        file: the judge's settings.

    Returns:
        The tokenizer, the model in evaluation mode, and its device.

    Raises:
        JudgeError: the folder can't be loaded, or lacks weights of such a model.
        ConfigError: the device is not there, or can't compute in this precision.
    """
    import transformers

    folder = Path(file.path)
    read_config(folder)
    placement = choose_placement(file.device, file.dtype)
    kept: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        with without_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **kept)
            model, found = getattr(transformers, kind).from_pretrained(
                folder,
                **kept,
                use_safetensors=True,
                dtype=getattr(torch, placement.dtype),
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        raise JudgeError(f"{folder}: cannot be loaded as {kind} ({type(error).__name__})") from None
    if missing := sorted(found["missing_keys"]):
        raise JudgeError(
            f"{folder}: {len(missing)} weights of {kind} are missing, the first is {missing[0]}; expected a "
            "model that was trained as one"
        )
    device = torch.device(placement.device)
    return tokenizer, model.to(device).eval(), device


def context_of(tokenizer: Any, config: Any, asked: int | None) -> int:  # noqa: ANN401 - of transformers
    """Return the longest reading in tokens: of the model, of the tokenizer, or as asked."""
    known = [asked, getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min(int(limit) for limit in known if limit is not None)
