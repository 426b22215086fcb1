"""Keys as text: how they are made, read and hashed.

A key is `lg_PREFIX_SECRET`. The prefix is public: lists, logs and pages show it. The secret has 256 random
bits. A fast hash is right for it: no one can try 2^256 secrets, so that a slow hash (Argon2, scrypt), which
protects words that people choose, would add only load that an attacker could cause.
"""

import hashlib
import hmac
import re
import secrets

_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_PREFIX_LENGTH = 12
_KEY = re.compile(rf"lg_([{_LETTERS}]{{{_PREFIX_LENGTH}}})_[A-Za-z0-9_-]{{43}}")


def new_key() -> tuple[str, str]:
    """Make a key. Return its prefix and the whole key."""
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(_PREFIX_LENGTH))
    return prefix, f"lg_{prefix}_{secrets.token_urlsafe(32)}"


def prefix_of(key: str) -> str | None:
    """Return the prefix of a key, or None if the text has not the form of a key."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1]


def digest_of(key: str) -> bytes:
    """Return the hash by which a key is known."""
    return hashlib.sha256(key.encode()).digest()


def fits(key: str, digest: bytes) -> bool:
    """Tell whether a key has this hash. The time tells nothing about the hash."""
    return hmac.compare_digest(digest_of(key), digest)
