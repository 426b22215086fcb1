"""Where the way of a job is noted, for a server that sends traces. Without one, nothing is noted."""

from lockgate.decisions import Decision


class JobTrace:
    """Takes what happens to a job, and drops it.

    The engine's threads call it, `ended` under the engine's lock. So a subclass must be quick, and must not
    raise.
    """

    __slots__ = ()

    def read(self) -> None:
        """Note that the prompt is read and cleared."""

    def judged(self, choice: int, asked: float, *, given: bool) -> None:
        """Note that the wait for a verdict on a choice is over.

        Args:
            asked: when it began, in monotonic seconds.
            given: whether the verdict is there.
        """

    def ended(self, record: Decision) -> None:
        """Note that a choice is over. Its record has not been written yet."""


UNTRACED = JobTrace()
