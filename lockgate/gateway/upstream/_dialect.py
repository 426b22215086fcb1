"""What a dialect is: an API of an upstream, as the guard reads its requests and answers.

A dialect changes nothing that it passes on. It says which texts a request holds and as whose, which text each
event of an answer brings to which choice, and how a halt and a fault look to the client.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lockgate.exchanges import Message
from lockgate.gateway._errors import ApiError
from lockgate.gateway.upstream._options import Media


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the guard reads it.

    Attributes:
        messages: its texts, as whose they count.
        payload: what the upstream gets.
        stream: whether the answer is streamed.
        choices: number of answers.
        max_tokens: longest answer, if the request says so.
        media: number of images, recordings and files that pass unread.
    """

    messages: tuple[Message, ...]
    payload: dict[str, Any]
    stream: bool
    choices: int = 1
    max_tokens: int | None = None
    media: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer that leaves as a whole.

    Attributes:
        choice: the choice that it belongs to. None: to all, and it leaves after what came before it.
        text: what the guard must clear before it leaves.
        ended: why the choice is over, if this is its last piece with a meaning of its own.
        data: the bytes for the client.
        mark: what the transcript must know once the piece has left.
    """

    choice: int | None
    text: str
    data: bytes
    ended: str | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why a choice was stopped: the text for the client, and the tokens that the guard has counted."""

    refusal: str
    prompt_tokens: int
    completion_tokens: int


class Transcript(Protocol):
    """One answer of an upstream, as it passes. It remembers what the closing events need."""

    def read(self, event: str, data: str) -> Sequence[Piece]:
        """Take an event of the stream and return its pieces.

        Raises:
            UpstreamError: it is an error of the upstream, or can't be understood.
        """
        ...

    def left(self, piece: Piece) -> None:
        """Note that a piece has left, since the closing events depend on what the client has seen."""
        ...

    @property
    def over(self) -> bool:
        """Whether the upstream has said that nothing follows."""
        ...

    def leave(self, choice: int) -> str:
        """Return text that closes what was scored of a choice, when it ends."""
        ...

    def halt(self, choice: int, stopped: Stopped) -> bytes:
        """Return the events that end a stopped choice."""
        ...

    def close(self, stopped: Stopped | None) -> bytes:
        """Return the events that end the stream. `stopped` is set if the upstream's own end never came."""
        ...

    def fail(self, error: ApiError) -> bytes:
        """Return the events that break the stream off."""
        ...

    def read_whole(self, body: dict[str, Any]) -> Sequence[tuple[int, str]]:
        """Return the text of each choice of an answer that was not streamed, with the choice's number.

        Raises:
            UpstreamError: the body is no answer of this dialect.
        """
        ...

    def stop_whole(self, body: dict[str, Any] | None, stopped: dict[int, Stopped]) -> dict[str, Any]:
        """Return the answer with the stopped choices emptied. None: the upstream was not asked."""
        ...


class Dialect(Protocol):
    """An API: its path, how its requests are read, and how an answer of it passes."""

    @property
    def path(self) -> str:
        """The route, below `/v1`."""
        ...

    def read_request(self, payload: dict[str, Any], media: Media, most_choices: int) -> Asked:
        """Check a request as far as the guard must understand it.

        Raises:
            ApiError: a field is not valid, or would let text pass unread (400).
        """
        ...

    def open(self, asked: Asked) -> Transcript:
        """Return the transcript for one answer."""
        ...

    def error(self, error: ApiError) -> dict[str, Any]:
        """Return the body of an error."""
        ...
