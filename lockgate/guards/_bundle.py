"""The guard bundle on disk. Reading checks every hash; writing is all or nothing. Nothing is pickled."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml
from pydantic import ValidationError

from lockgate.classifiers import ExchangeClassifier, ProbeHead
from lockgate.classifiers.text import TextBaseline
from lockgate.constitution import Constitution, load_constitution
from lockgate.durable import atomic_folder, file_sha256, restore_folder
from lockgate.errors import ConfigError, ExchangeError, GuardError
from lockgate.exchanges import PromptPrints
from lockgate.guards._record import GuardRecord, PromptsRecord

if TYPE_CHECKING:
    from lockgate.judges import Judge

EMBEDDED = Path(__file__).parent / "embedded"
_SHIPPED = {folder.name: folder for folder in (EMBEDDED, Path(__file__).parent / "stand-in")}
_SEAL = "sha256: "
FILES = ("guard.yaml", "constitution.yaml", "probe.safetensors", "README.md")
CLASSIFIER = "classifier"
TEXT = "text"
JUDGE = "judge.yaml"
PROMPTS = "training.safetensors"


class Bundle(NamedTuple):
    """The verified contents of a bundle, not yet bound to a backbone."""

    record: GuardRecord
    constitution: Constitution
    constitution_yaml: str
    head: ProbeHead
    prompts: PromptPrints | None = None


def bundle_folder(source: str | Path) -> Path:
    """Return the folder of a guard that is given by its path or by the name of a guard in the package.

    The names are `embedded` and `stand-in`, the guard of the stand-in policy `stage-magic`.
    """
    return _SHIPPED.get(str(source)) or Path(source)


def is_shipped(source: str | Path) -> bool:
    """Tell whether a guard is given by the name of one in the package."""
    return str(source) in _SHIPPED


def read_bundle(path: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        GuardError: a file is missing, changed, cut short or has an unknown format. The message names it.
    """
    restore_folder(path)
    if not path.is_dir():
        raise GuardError(f"{path}: no such guard; expected a bundle directory, embedded or stand-in")
    if missing := [name for name in FILES if not (path / name).is_file()]:
        raise GuardError(f"{path}: the bundle lacks {', '.join(missing)}; restore it or make the guard again")
    record = _read_record(path / "guard.yaml")
    found = file_sha256(path / "constitution.yaml")
    if found != record.constitution.sha256:
        raise GuardError(
            f"{path}/constitution.yaml is not the one the guard was made from (SHA-256 {found[:12]}…)"
        )
    found = file_sha256(path / "probe.safetensors")
    if found != record.probe_sha256:
        raise GuardError(
            f"{path}/probe.safetensors is damaged or replaced (SHA-256 {found[:12]}…); restore it"
        )
    for name, part in ((CLASSIFIER, record.classifier), (TEXT, record.text)):
        _check_part(path / name, None if part is None else part.files)
    _check_judge(path / JUDGE, record)
    prompts = _read_prompts(path / PROMPTS, record.training_prompts)
    head = ProbeHead.load(path / "probe.safetensors")
    if head.gamma != record.gamma:
        raise GuardError(f"{path}/guard.yaml: gamma {record.gamma} differs from the probe's {head.gamma}")
    text = (path / "constitution.yaml").read_bytes().decode("utf-8")
    return Bundle(record, load_constitution(path / "constitution.yaml"), text, head, prompts)


def check_target(path: Path) -> None:
    """Check that a bundle may be written to `path`. It would replace the whole folder.

    Raises:
        GuardError: `path` is a file, or a folder that is neither empty nor a bundle.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise GuardError(f"{path}: is not a folder; a guard is a folder, choose another name")
    if path.is_dir():
        found = {entry.name for entry in path.iterdir()}
        if found and ("guard.yaml" not in found or found - {*FILES, CLASSIFIER, TEXT, JUDGE, PROMPTS}):
            raise GuardError(
                f"{path}: holds other files, and a guard would replace them; choose another folder"
            )


def write_bundle(
    path: Path,
    bundle: Bundle,
    card: str,
    classifier: ExchangeClassifier | None = None,
    text: TextBaseline | None = None,
    judge: "Judge | None" = None,
) -> None:
    """Write a bundle next to `path`, then move it there. An existing bundle is replaced as a whole.

    Raises:
        GuardError: something that is not a bundle is at `path`.
    """
    path = path.absolute()
    check_target(path)
    record = bundle.record
    with atomic_folder(path) as made:
        bundle.head.save(made / "probe.safetensors")
        (made / "constitution.yaml").write_bytes(bundle.constitution_yaml.encode("utf-8"))
        hashes: dict[str, object] = {
            "probe_sha256": file_sha256(made / "probe.safetensors"),
            "constitution": record.constitution.model_copy(
                update={"sha256": file_sha256(made / "constitution.yaml")}
            ),
        }
        if classifier is not None and record.classifier is not None:
            classifier.save(made / CLASSIFIER, prompts=False)
            update = {"files": _hash_files(made / CLASSIFIER)}
            hashes["classifier"] = record.classifier.model_copy(update=update)
        if text is not None and record.text is not None:
            text.save(made / TEXT, prompts=False)
            hashes["text"] = record.text.model_copy(update={"files": _hash_files(made / TEXT)})
        if judge is not None and record.judge is not None:
            from lockgate.judges import write_judge_file

            (made / JUDGE).write_bytes(write_judge_file(judge.file))
            hashes["judge"] = record.judge.model_copy(update={"file_sha256": file_sha256(made / JUDGE)})
        if bundle.prompts is not None:
            bundle.prompts.save(made / PROMPTS)
            hashes["training_prompts"] = PromptsRecord(
                count=len(bundle.prompts), sha256=file_sha256(made / PROMPTS)
            )
        content = record.model_copy(update=hashes).model_dump(mode="json")
        # Parts that a guard lacks are left out, so that versions without these keys can read the record.
        for name in ("provisional", "classifier", "text", "judge", "voices", "cascade", "training_prompts"):
            if content[name] is None:
                del content[name]
        if content["backbone"]["device"] == "cpu":
            del content["backbone"]["device"]
        for name in ("drift", "delay") if record.cascade is not None else ():
            if not content["cascade"][name]:
                del content["cascade"][name]
        (made / "guard.yaml").write_bytes(_sealed(yaml.safe_dump(content, sort_keys=False, width=110)))
        (made / "README.md").write_text(card, encoding="utf-8")


def _hash_files(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


def _check_part(folder: Path, files: Mapping[str, str] | None) -> None:
    """Check a judge's folder against the hashes of its files. None: the guard has no such judge."""
    what = {CLASSIFIER: "classifier", TEXT: "text baseline"}[folder.name]
    if files is None:
        if folder.exists():
            raise GuardError(f"{folder}: the guard's record names no {what}; take the folder away")
        return
    if not folder.is_dir():
        raise GuardError(f"{folder}: the bundle lacks its {what}; restore it or make the guard again")
    if {path.name for path in folder.iterdir()} != set(files):
        raise GuardError(f"{folder}: expected exactly {', '.join(sorted(files))}; restore the bundle")
    for name, expected in files.items():
        if (found := file_sha256(folder / name)) != expected:
            raise GuardError(f"{folder}/{name} is damaged or replaced (SHA-256 {found[:12]}…); restore it")


def _check_judge(path: Path, record: GuardRecord) -> None:
    """Check `judge.yaml` against its hash. Its folder or endpoint is looked at when the guard is loaded."""
    if record.judge is None:
        if path.exists():
            raise GuardError(f"{path}: the guard's record names no judge; take the file away")
    elif not path.is_file():
        raise GuardError(f"{path}: the bundle lacks its judge's settings; restore it or make the guard again")
    elif (found := file_sha256(path)) != record.judge.file_sha256:
        raise GuardError(
            f"{path} is damaged or replaced (SHA-256 {found[:12]}…); restore it, or calibrate with the judge "
            "again"
        )


def _read_prompts(path: Path, record: PromptsRecord | None) -> PromptPrints | None:
    if record is None:
        if path.exists():
            raise GuardError(f"{path}: the guard's record names no such file; take it away")
        return None
    if not path.is_file() or file_sha256(path) != record.sha256:
        raise GuardError(
            f"{path}: the guard's fingerprints of training prompts are missing or damaged; restore it"
        )
    try:
        return PromptPrints.load(path)
    except ExchangeError as error:
        raise GuardError(str(error)) from error


def _sealed(text: str) -> bytes:
    """Return `guard.yaml` with a last line that holds the hash of everything before it."""
    body = text.encode("utf-8")
    return body + f"{_SEAL}{hashlib.sha256(body).hexdigest()}\n".encode()


def _read_record(path: Path) -> GuardRecord:
    try:
        data = path.read_bytes()
        content = yaml.safe_load(data.decode("utf-8"))
        if isinstance(content, dict):
            content.pop(_SEAL.strip(": "), None)
        record = GuardRecord.model_validate(content)
        record.thresholds.to_thresholds()
        if record.cascade is not None:
            record.cascade.to_cascade()
    except ConfigError as error:
        raise GuardError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise GuardError(
            f"{path}: not readable as YAML ({type(error).__name__}); restore the bundle"
        ) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise GuardError(f"{path}: {where}: {first['msg']}; expected the keys of bundle format 1") from error
    # Without this check, an edit or a cut that leaves valid YAML could change the guard's claim unnoticed.
    body = data[: data.rfind(_SEAL.encode())]
    if data != _sealed(body.decode("utf-8")):
        raise GuardError(
            f"{path}: changed or cut short after it was written; restore it "
            "(to set another threshold run: lockgate calibrate)"
        )
    return record
