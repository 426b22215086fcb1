"""The interface of a judge: it reads the text of conversations and gives a logit of harm for each."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lockgate.exchanges import Message, PromptPrints
from lockgate.judges._file import JudgeFile

# A conversation up to what the assistant has written so far. It ends in an assistant's turn if there is text.
Talk = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class JudgeReading:
    """What a judge says about one conversation, and what that cost.

    Attributes:
        logit: logit of harm; NaN if the judge gave no verdict.
        error: why there is no verdict, without text of the conversation; None if there is one.
        seconds: time that the verdict took. A batch is shared out by conversations.
        prompt_tokens, completion_tokens: tokens that the judge read and wrote, in its own tokenizer.
    """

    logit: float
    error: str | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def given(self) -> bool:
        """Whether there is a verdict. Anything else must halt."""
        return self.error is None and math.isfinite(self.logit)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready fields."""
        return asdict(self)


class Judge(Protocol):
    """A judge of conversations, ready to read.

    One thread uses it. A verdict depends on the conversation alone, not on others in the batch, except for
    float noise.

    Attributes:
        file: its settings, as a bundle keeps them.
        sha256: its identity: hash of everything that decides a verdict.
        training_prompts: fingerprints of the prompts that it was trained on; None if they are not known.
    """

    @property
    def file(self) -> JudgeFile: ...

    @property
    def sha256(self) -> str: ...

    @property
    def training_prompts(self) -> PromptPrints | None: ...

    def judge(self, talks: Sequence[Talk]) -> list[JudgeReading]:
        """Judge conversations. One that fails has a reading without a verdict, and the others have theirs."""
        ...

    def check(self) -> None:
        """Ask for one verdict on harmless words, so that a wrong setting is found before long work.

        Raises:
            JudgeError: the judge gives no verdict. The message says what to change.
        """
        ...

    def close(self) -> None:
        """Give connections and memory back."""
        ...


SAMPLE: Talk = (
    Message("user", "Which way does the lock gate open?"),
    Message("assistant", "It opens against the water, so that the water keeps it shut."),
)
