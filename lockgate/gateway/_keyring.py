"""The keys that clients may send: those of the config by name, and those of tenants."""

import hmac
from collections.abc import Iterable, Mapping

from lockgate.tenants import Tenants

# Name of the key that has none of its own.
UNNAMED = ""
# Bytes of a key from which on it counts as one that can't be guessed.
LONG_KEY = 20


class Keyring:
    """The keys of a server. `replace` changes those of the config for the requests that follow.

    Args:
        keys: keys of the config, by name.
        tenants: where tenants' keys are found, if the server has any.
    """

    def __init__(self, keys: Mapping[str, str], tenants: Tenants | None = None) -> None:
        self.tenants = tenants
        self._keys: Mapping[str, bytes] = {}
        self.replace(keys)

    def replace(self, keys: Mapping[str, str]) -> None:
        """Take other keys, by name."""
        self._keys = {name: key.encode() for name, key in keys.items()}

    def __bool__(self) -> bool:
        """Whether clients need a key."""
        return bool(self._keys) or self.tenants is not None

    def find(self, given: Iterable[str], *, long_only: bool = False) -> str | None:
        """Return the name of a key among the `given` ones, or None. The time tells nothing about the keys.

        Keys of tenants are not among them.

        Args:
            long_only: whether only keys count that nobody can guess, however often he tries.
        """
        found = None
        for text in given:
            for name, key in self._keys.items():
                if long_only and len(key) < LONG_KEY:
                    continue
                if hmac.compare_digest(text.encode(), key):
                    found = name
        return found
