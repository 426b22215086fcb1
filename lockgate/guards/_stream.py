"""A guard beside somebody else's generate loop: token ids in, verdicts out."""

from collections.abc import Sequence

from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.cascade import StreamState, Thresholds, Verdict
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import GuardError
from lockgate.exchanges import Message
from lockgate.guards._scoring import regions_of

_CHUNK = 256


class GuardStream:
    """Scores one answer while it is written. Feed each token before it is shown; stop when a verdict is flagged.

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
        capacity = min(len(chat.token_ids) + max_tokens, backbone.context_length)
        self._tap = ProbeTap([head], backbone.hidden_size, backbone.device)
        self._pool = SessionPool(backbone, capacity)
        self._session = self._pool.open(capacity, prefix=chat.token_ids[: chat.prefix_length])
        self._state = StreamState(thresholds, head.gamma, regions_of(chat), head.category_ids)
        self._closed = False
        self._read(chat.token_ids[chat.prefix_length :])

    @property
    def verdict(self) -> Verdict:
        """What is known after the newest token."""
        return self._state.verdict

    def push(self, token_ids: int | Sequence[int]) -> Verdict:
        """Read the next token or tokens of the answer, not the end-of-turn token.

        Raises:
            ContextOverflow: more tokens than `max_tokens` or the backbone's context allow.
            GuardError: the stream is finished.
        """
        if self._closed:
            raise GuardError("this stream is finished; open another one for the next answer")
        self._read([token_ids] if isinstance(token_ids, int) else list(token_ids))
        return self.verdict

    def finish(self) -> Verdict:
        """End the answer: the last verdict, which also judges answers too short to be judged before."""
        verdict = self._state.finish()
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
