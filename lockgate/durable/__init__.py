"""Files and runs that survive an interruption."""

from lockgate.durable._files import file_sha256, open_atomic

__all__ = [
    "file_sha256",
    "open_atomic",
]
