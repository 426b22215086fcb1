"""Provenance of a result: code, command, seeds and input files."""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lockgate._version as own
from lockgate.durable import file_sha256

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyarrow", "torch", "transformers")


def collect_provenance(
    command: Sequence[str], seeds: Mapping[str, int], inputs: Iterable[str | os.PathLike[str]]
) -> dict[str, Any]:
    """Collect the provenance that every result carries.

    Returns:
        `commit`: hash, with `+uncommitted` if files are changed; None outside a Git work tree.
        `command` and `seeds`: as given.
        `inputs`: SHA-256 of each input file, by its path as given.
        `versions`: of Python, Lockgate and the main libraries.
    """
    return {
        "commit": _commit(),
        "command": list(command),
        "seeds": dict(seeds),
        "inputs": {str(path): file_sha256(path) for path in inputs},
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "lockgate": own.__version__}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    # An installed copy may lie inside another repository. Its commit would say nothing about this code.
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+uncommitted" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
