"""What is kept of the text of exchanges: nothing, a redacted form, an encrypted form, or all."""

import base64
import binascii
from typing import Any, Literal

import msgspec

from lockgate import _extras
from lockgate.decisions._redact import redact
from lockgate.errors import ConfigError, DecisionLogError

ContentMode = Literal["none", "redacted", "encrypted", "full"]
CONTENT_MODES: tuple[ContentMode, ...] = ("none", "redacted", "encrypted", "full")
_PUBLIC, _PRIVATE = "lgpub_", "lgkey_"
_KEY_BYTES = 32


class Turn(msgspec.Struct, frozen=True):
    """A message."""

    role: str
    content: str


class Content(msgspec.Struct, frozen=True):
    """The text of an exchange. The last turn is the answer, as far as it has reached the client."""

    messages: tuple[Turn, ...]


class ContentKeeper:
    """Turns the text of exchanges into what the log keeps of it.

    Args:
        mode: what is kept.
        public_key: for `encrypted`, the key that texts are sealed with.

    Raises:
        ConfigError: the mode and the key do not belong together, or the key is none.
        MissingExtra: the extra `encrypt` is not installed.
    """

    def __init__(self, mode: ContentMode = "none", public_key: str | None = None) -> None:
        if mode not in CONTENT_MODES:
            raise ConfigError(f"content: expected one of {', '.join(CONTENT_MODES)}")
        if (mode == "encrypted") != (public_key is not None):
            raise ConfigError("public_key: `content: encrypted` and a public key need each other")
        self.mode = mode
        self._box: Any = None
        if public_key is not None:
            nacl = _nacl()
            self._box = nacl.SealedBox(nacl.PublicKey(_key_bytes(public_key, _PUBLIC, "public_key")))

    def keep(self, content: Content) -> tuple[bytes | None, str | None]:
        """Return the bytes that the log keeps of a text, and the name of their form."""
        if self.mode == "none":
            return None, None
        content = Content(tuple(Turn(turn.role, _encodable(turn.content)) for turn in content.messages))
        if self.mode == "redacted":
            turns = tuple(Turn(turn.role, redact(turn.content)) for turn in content.messages)
            return msgspec.json.encode(Content(turns)), self.mode
        plain = msgspec.json.encode(content)
        return (bytes(self._box.encrypt(plain)) if self.mode == "encrypted" else plain), self.mode


class ContentReader:
    """Reads what the log has kept of texts.

    Args:
        private_key: the key for sealed texts. Without it, they can't be read.

    Raises:
        ConfigError: the key is none.
        MissingExtra: the extra `encrypt` is not installed.
    """

    def __init__(self, private_key: str | None = None) -> None:
        self._box: Any = None
        if private_key is not None:
            nacl = _nacl()
            self._box = nacl.SealedBox(nacl.PrivateKey(_key_bytes(private_key, _PRIVATE, "key")))

    def read(self, kept: bytes, mode: str) -> Content | None:
        """Return the text; None if it is sealed and there is no key.

        Raises:
            DecisionLogError: the key is another one than the text was sealed for, or the text is damaged.
        """
        if mode == "encrypted":
            if self._box is None:
                return None
            try:
                kept = bytes(self._box.decrypt(kept))
            except Exception:  # the library's own errors; which one is a detail
                raise DecisionLogError(
                    "content: does not open with this key; give the private key of the public key that the "
                    "server had"
                ) from None
        try:
            return msgspec.json.decode(kept, type=Content)
        except msgspec.MsgspecError:
            raise DecisionLogError("content: is damaged; `lockgate log verify` says where") from None


def make_keys() -> tuple[str, str]:
    """Return a new public key and its private key. Raises MissingExtra."""
    private = _nacl().PrivateKey.generate()
    return _PUBLIC + _text(bytes(private.public_key)), _PRIVATE + _text(bytes(private))


def _encodable(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()


def _nacl() -> Any:  # noqa: ANN401 - a module
    return _extras.need("nacl.public", extra="encrypt", feature="encrypted content in the decision log")


def _text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _key_bytes(key: str, prefix: str, name: str) -> bytes:
    key = key.strip()
    if prefix == _PUBLIC and key.startswith(_PRIVATE):
        raise ConfigError(f"{name}: is a private key; the server must not have it. Give the public one")
    try:
        found = base64.urlsafe_b64decode(key.removeprefix(prefix) + "=")
    except (binascii.Error, ValueError):
        found = b""
    if not key.startswith(prefix) or len(found) != _KEY_BYTES:
        raise ConfigError(f"{name}: expected a key of `lockgate log keygen`, which begins with {prefix}")
    return found
