"""Excerpts of an answer, judged beside the whole text.

The n-grams of a whole conversation are weighed together. So a long harmless context, or harmless sentences
in between, outweigh a few harmful ones. Excerpts have one length, and each begins in the middle of the one
before.
"""

from lockgate.classifiers._ngrams import NgramWeights, TextReader, normalise

_HEADER = "[assistant]\n"


def excerpts_of(answer: str, length: int) -> list[str]:
    """Return the excerpts of an answer, under its role. The last one ends with the answer.

    An answer that is no longer than an excerpt has one. No excerpt is shorter than half of `length`, unless
    the answer is.

    Args:
        answer: normalised text.
        length: characters of an excerpt, even.
    """
    step = length // 2
    starts = range(0, max(1, len(answer) - step), step)
    return [_HEADER + answer[start : start + length] for start in starts]


class ExchangeReader:
    """One exchange whose answer grows: the highest logit of its whole text and of the answer's excerpts.

    The logit is that of `TextBaseline.decision_function` on the same text, up to float noise. It is the same
    bits for every split of the answer. Each character is read three times at most.
    """

    def __init__(self, baseline: NgramWeights, request: str, excerpt: int = 0) -> None:
        """Take the text before the answer, without its header."""
        self._baseline = baseline
        self._whole = TextReader(baseline)
        self._whole.read(f"{request}\n{_HEADER}")
        self._step = excerpt // 2
        self._length = 0
        self._highest = float("-inf")
        # The excerpts that cover the newest character, the older first. Only one is old enough to be judged.
        self._open: list[TextReader] = []

    def read(self, text: str) -> None:
        """Append text of the answer."""
        text = normalise(text)
        self._whole.read(text)
        if not self._step:
            return
        while text:
            if self._length % self._step == 0:
                self._begin()
            part = text[: self._step - self._length % self._step]
            for reader in self._open:
                reader.read(part)
            self._length += len(part)
            text = text[len(part) :]

    @property
    def logit(self) -> float:
        """The logit of harm of the exchange so far."""
        whole = self._whole.logit
        return max(whole, self._highest, self._open[0].logit) if self._open else whole

    def _begin(self) -> None:
        if len(self._open) == 2:
            self._highest = max(self._highest, self._open.pop(0).logit)
        reader = TextReader(self._baseline)
        reader.read(_HEADER)
        self._open.append(reader)
