"""Parts of attacks that learn from replies: a limit of attempts, and the search for a boundary."""

from collections.abc import Callable, Generator

from lockgate.redteam._attempts import Attempt, Play, Seen


def limited(play: Play, budget: int) -> Play:
    """Yield at most so many attempts of a play."""
    try:
        attempt = next(play)
        for number in range(budget):
            seen = yield attempt
            if number + 1 < budget:
                attempt = play.send(seen)
    except StopIteration:
        return
    finally:
        play.close()


def passes(make: Callable[[int], Attempt], lead: int) -> Generator[Attempt, Seen, bool]:
    """Try an attempt until one outcome leads, and return whether it passes. Only `reply.halted` is read.

    Args:
        make: makes the attempt of a given number: the same thing in other noise, since the same words would
            get the same reply.
        lead: by how many votes an outcome must lead. One trusts each reply; two or more are for guards that
            are random.
    """
    votes = number = 0
    while abs(votes) < lead:
        seen = yield make(number)
        votes += -1 if seen.reply.halted else 1
        number += 1
    return votes > 0


def boundary(
    make: Callable[[int, int], Attempt], low: int, high: int, lead: int
) -> Generator[Attempt, Seen, int]:
    """Return the highest level that passes, if `low` passes, `high` doesn't, and the guard is monotone.

    It takes `ceil(log2(high - low))` trials. `make` makes the attempt of a level and of a number.
    """
    while high - low > 1:
        level = (low + high) // 2

        def at_level(number: int, level: int = level) -> Attempt:
            return make(level, number)

        if (yield from passes(at_level, lead)):
            low = level
        else:
            high = level
    return low
