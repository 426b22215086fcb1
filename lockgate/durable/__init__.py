"""Files, folders and processes for work that survives an interruption."""

from lockgate.durable._files import (
    Mark,
    atomic_path,
    file_sha256,
    hash_json,
    hash_path,
    home,
    open_atomic,
)
from lockgate.durable._folders import (
    atomic_folder,
    hold_folder,
    lock_folder,
    replace_folder,
    restore_folder,
    scratch_folder,
)

__all__ = [
    "Mark",
    "atomic_folder",
    "atomic_path",
    "file_sha256",
    "hash_json",
    "hash_path",
    "hold_folder",
    "home",
    "lock_folder",
    "open_atomic",
    "replace_folder",
    "restore_folder",
    "scratch_folder",
]
