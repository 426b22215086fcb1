"""Fair shares between clients: who is admitted next, and whose streams the next step advances.

Memory is given for the whole life of a request, so its shares are bounded. Steps are short, so streams take
turns in them.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lockgate.gateway._jobs import Job, Stream

# Open streams for each one that a step advances. The others wait for their turn and keep their memory.
PLACES_PER_STREAM = 2


def most_tokens(kv_tokens: int, n: int) -> int:
    """Return how many key-value tokens a request may reserve: all for one answer, half for several."""
    return kv_tokens if n == 1 else kv_tokens // 2


@dataclass(frozen=True, slots=True)
class Load:
    """What a set of requests holds or needs: places of open streams, and key-value tokens."""

    places: int
    tokens: int

    def __add__(self, other: "Load") -> "Load":
        return Load(self.places + other.places, self.tokens + other.tokens)

    def within(self, limit: "Load") -> bool:
        return self.places <= limit.places and self.tokens <= limit.tokens

    @property
    def most_of_it(self) -> "Load":
        """Three quarters. A client holds no more, so that another one finds room."""
        return Load(3 * self.places // 4, 3 * self.tokens // 4)


def need_of(job: Job) -> Load:
    """Return what a request needs at most."""
    return Load(job.n, job.n * job.capacity)


def held_by(jobs: Sequence[Job], client: str) -> Load:
    """Return what the open streams of a client hold."""
    return Load(
        sum(_open(job) for job in jobs if job.client == client),
        sum(_open(job) * job.capacity for job in jobs if job.client == client),
    )


def promised_to(jobs: Sequence[Job]) -> int:
    """Return the key-value tokens that choices of open requests will need when they are forked."""
    return sum(
        job.capacity
        for job in jobs
        if not job.done
        for stream in job.streams
        if stream.lane is None and not stream.done
    )


class Pace:
    """How long a request is served, as a running mean."""

    def __init__(self) -> None:
        self._seconds = 5.0

    def note(self, started: float) -> None:
        """Note a request that is over, and when it was begun."""
        self._seconds += 0.2 * (time.monotonic() - started - self._seconds)

    def retry_after(self, waiting: int, width: int) -> int:
        """Return in how many seconds to try again, if requests wait and `width` are served at a time."""
        return max(1, min(60, round(self._seconds * (1 + waiting / width))))


class Line:
    """The requests that wait. Clients take turns, and a client's requests keep their order.

    It is not thread-safe: the engine's lock guards it.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, deque[Job]] = {}
        self._served: dict[str, int] = {}
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def __iter__(self) -> Iterator[Job]:
        return itertools.chain.from_iterable(list(self._jobs.values()))

    def add(self, job: Job) -> None:
        self._jobs.setdefault(job.client, deque()).append(job)

    def put_back(self, job: Job) -> None:
        """Let a request that was taken wait again, at its old place."""
        self._jobs.setdefault(job.client, deque()).appendleft(job)

    def drop_done(self) -> None:
        """Remove the requests that are over."""
        for client, jobs in list(self._jobs.items()):
            self._jobs[client] = deque(job for job in jobs if not job.done)
            self._drop_if_empty(client)

    def take(self, active: Sequence[Job], free: Load, limit: Load) -> Job | None:
        """Take the next request that may be opened, or None.

        The client that holds the least memory is next, then the one that was served longest ago. A request
        that exceeds its client's share is passed over. One that only lacks room holds the line, so that it
        is not overtaken for ever.
        """
        held = {client: held_by(active, client) for client in self._jobs}
        order = sorted(self._jobs, key=lambda client: (held[client].tokens, self._served.get(client, 0)))
        for client in order:
            need = need_of(self._jobs[client][0])
            if held[client].places and not (held[client] + need).within(limit.most_of_it):
                continue
            if not need.within(free):
                return None
            job = self._jobs[client].popleft()
            self._drop_if_empty(client)
            known = {*self._jobs, *(job.client for job in active)}
            self._served = {name: turn for name, turn in self._served.items() if name in known}
            self._served[client] = next(self._turns)
            return job
        return None

    def to_displace(self, client: str) -> Job | None:
        """Return the request that must make room for one of `client` when the line is full.

        It is the newest request of the client with the longest queue, if that is longer by two or more.
        """
        longest = max(self._jobs.values(), key=len, default=None)
        own = len(self._jobs.get(client, ()))
        return longest[-1] if longest is not None and len(longest) >= own + 2 else None

    def _drop_if_empty(self, client: str) -> None:
        if not self._jobs[client]:
            del self._jobs[client]


class Turns:
    """The turns of open streams in steps.

    Args:
        width: streams that a step advances at most.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._turns = itertools.count(1)
        self._clients: dict[str, int] = {}

    def take(self, runnable: Sequence[tuple[Job, Stream]]) -> list[tuple[Job, Stream]]:
        """Choose the streams of the next step.

        Clients take turns, then the requests of a client, then the choices of a request. At each level the
        one that was served longest ago is first.
        """
        self._clients = {job.client: self._clients.get(job.client, 0) for job, _ in runnable}
        chosen = list(runnable)
        if len(chosen) > self._width:
            chosen = self._in_turn(chosen)[: self._width]
        for job, stream in chosen:
            self._clients[job.client] = job.turn = stream.turn = next(self._turns)
        return chosen

    def _in_turn(self, pairs: Sequence[tuple[Job, Stream]]) -> list[tuple[Job, Stream]]:
        clients: dict[str, dict[int, list[tuple[Job, Stream]]]] = {}
        last = self._clients
        for pair in sorted(pairs, key=lambda pair: (last[pair[0].client], pair[0].turn, pair[1].turn)):
            clients.setdefault(pair[0].client, {}).setdefault(id(pair[0]), []).append(pair)
        return _alternate([_alternate(list(jobs.values())) for jobs in clients.values()])


def _alternate(groups: list[list[tuple[Job, Stream]]]) -> list[tuple[Job, Stream]]:
    rounds = itertools.zip_longest(*groups)
    return [pair for one in rounds for pair in one if pair is not None]


def _open(job: Job) -> int:
    return sum(not stream.done for stream in job.streams)
