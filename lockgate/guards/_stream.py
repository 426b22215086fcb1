"""A guard beside somebody else's generate loop: token ids in, verdicts out."""

from collections.abc import Iterable, Sequence
from operator import index

from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.cascade import StreamState, Thresholds, Verdict
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import ConfigError, ContextOverflow, GuardError
from lockgate.exchanges import Message
from lockgate.guards._scoring import regions_of

_CHUNK = 256


class GuardStream:
    """Scores one answer while it is written. Feed each token before it is shown; stop at a flag.

    The prompt is read when the stream is made; `verdict` then says whether it flags by itself.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: ProbeHead,
        thresholds: Thresholds,
        messages: Sequence[Message],
        max_tokens: int,
    ) -> None:
        chat = backbone.render(messages, add_generation_prompt=True)
        if max_tokens < 1:
            raise ConfigError(f"max_tokens: expected at least 1, found {max_tokens}")
        if len(chat.token_ids) >= backbone.context_length:
            raise ContextOverflow(
                f"the prompt has {len(chat.token_ids)} tokens; "
                f"the context holds {backbone.context_length} with the answer"
            )
        capacity = min(len(chat.token_ids) + max_tokens, backbone.context_length)
        self._tap = ProbeTap([head], backbone.hidden_size, backbone.device)
        self._pool = SessionPool(backbone, capacity)
        self._session = self._pool.open(capacity, prefix=chat.token_ids[: chat.prefix_length])
        self._state = StreamState(thresholds, head.gamma, regions_of(chat), head.category_ids)
        self._closed = False
        self._vocab_size = backbone.vocab_size
        self._read(chat.token_ids[chat.prefix_length :])

    @property
    def verdict(self) -> Verdict:
        """What is known after the newest token."""
        return self._state.verdict

    def push(self, token_ids: int | Iterable[int]) -> Verdict:
        """Read the next token or tokens of the answer, not the end-of-turn token.

        Args:
            token_ids: one id or several; tensors and arrays of integers will do.

        Raises:
            ContextOverflow: more tokens than `max_tokens` or the backbone's context allow. Nothing was read.
            GuardError: the stream is finished, or an id that the backbone does not have. Nothing was read.
        """
        if self._closed:
            raise GuardError("this stream is finished; open another one for the next answer")
        ids = _token_list(token_ids)
        if not all(0 <= token < self._vocab_size for token in ids):
            raise GuardError(f"push: expected token ids from 0 to {self._vocab_size - 1}")
        if self._session.length + len(ids) > self._session.capacity:
            raise ContextOverflow(
                f"push: {len(ids)} tokens, {self._session.capacity - self._session.length} more fit; "
                "open the stream with a larger max_tokens"
            )
        self._read(ids)
        return self.verdict

    def finish(self) -> Verdict:
        """End the answer: the last verdict, which also judges answers too short to be judged before."""
        verdict = self._state.verdict if self._closed else self._state.finish()
        self.close()
        return verdict

    def close(self) -> None:
        """Give the memory back."""
        self._closed = True
        self._session.close()
        self._pool.close()

    def __enter__(self) -> "GuardStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, token_ids: Sequence[int]) -> None:
        for start in range(0, len(token_ids), _CHUNK):
            self._pool.step([Feed(self._session, token_ids[start : start + _CHUNK])], self._tap)
            self._state.consume(self._tap.logits.double().cpu().numpy())


def _token_list(token_ids: int | Iterable[int]) -> list[int]:
    if isinstance(token_ids, Iterable) and getattr(token_ids, "ndim", None) != 0:
        return [index(token) for token in token_ids]
    return [index(token_ids)]  # type: ignore[arg-type]
