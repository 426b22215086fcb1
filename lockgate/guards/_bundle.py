"""The guard bundle on disk: read with every hash checked, written whole or not at all. No pickle."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from lockgate.classifiers import ProbeHead
from lockgate.constitution import Constitution, load_constitution
from lockgate.errors import GuardError
from lockgate.guards._record import GuardRecord

EMBEDDED = Path(__file__).parent / "embedded"
FILES = ("guard.yaml", "constitution.yaml", "probe.safetensors", "README.md")


class Bundle(NamedTuple):
    """Contents of a bundle: all verified, none yet bound to a backbone."""

    record: GuardRecord
    constitution: Constitution
    constitution_yaml: str
    head: ProbeHead


def read_bundle(path: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        GuardError: a file is missing, changed, cut short or of an unknown format; the message names it.
    """
    if not path.is_dir():
        raise GuardError(f"{path}: no such guard; expected a bundle directory or the word 'embedded'")
    if missing := [name for name in FILES if not (path / name).is_file()]:
        raise GuardError(f"{path}: the bundle lacks {', '.join(missing)}; restore it or make the guard again")
    record = _read_record(path / "guard.yaml")
    found = file_sha256(path / "constitution.yaml")
    if found != record.constitution.sha256:
        raise GuardError(f"{path}/constitution.yaml is not the one the guard was made from (SHA-256 {found[:12]}…)")
    found = file_sha256(path / "probe.safetensors")
    if found != record.probe_sha256:
        raise GuardError(f"{path}/probe.safetensors is damaged or replaced (SHA-256 {found[:12]}…); restore it")
    head = ProbeHead.load(path / "probe.safetensors")
    if head.gamma != record.gamma:
        raise GuardError(f"{path}/guard.yaml: gamma {record.gamma} differs from the probe's {head.gamma}")
    text = (path / "constitution.yaml").read_text(encoding="utf-8")
    return Bundle(record, load_constitution(path / "constitution.yaml"), text, head)


def write_bundle(path: Path, record: GuardRecord, constitution_yaml: str, head: ProbeHead, card: str) -> None:
    """Write a bundle beside `path` and move it there; an existing one is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        made = Path(scratch) / "bundle"
        made.mkdir()
        head.save(made / "probe.safetensors")
        (made / "constitution.yaml").write_text(constitution_yaml, encoding="utf-8")
        hashes = {
            "probe_sha256": file_sha256(made / "probe.safetensors"),
            "constitution": record.constitution.model_copy(
                update={"sha256": file_sha256(made / "constitution.yaml")}
            ),
        }
        content = record.model_copy(update=hashes).model_dump(mode="json")
        (made / "guard.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=110), encoding="utf-8")
        (made / "README.md").write_text(card, encoding="utf-8")
        if path.exists():
            old = Path(scratch) / "old"
            os.replace(path, old)
            os.replace(made, path)
            shutil.rmtree(old)
        else:
            os.replace(made, path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_record(path: Path) -> GuardRecord:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return GuardRecord.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GuardError(f"{path}: not readable as YAML ({type(error).__name__}); restore the bundle") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise GuardError(f"{path}: {where}: {first['msg']}; expected the keys of bundle format 1") from error
