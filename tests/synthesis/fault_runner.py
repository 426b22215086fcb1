"""Run the stage pipeline against an endpoint in child processes that each die at a chosen moment.

Called with one JSON argument: folder, url and the cases. Each case is a list of moments; at each the process
ends without any clean-up, and after the last of them the pipeline is run to its end. A moment is a number of
events (files opened, renamed or removed, connections, answers received), or the name of a fault.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fake_endpoint import words_of
from stage_pipeline import stage_steps, topic_rows

from lockgate.errors import SynthesisError
from lockgate.synthesis import (
    CachedGenerator,
    Completion,
    EndpointConfig,
    EndpointGenerator,
    GenerationRequest,
    Generator,
    Outcome,
    Pipeline,
    RequestCache,
    ScriptedGenerator,
)

CONCURRENCY = 3
ROWS = 14
_EVENTS = ("open", "os.rename", "os.remove", "sqlite3.connect", "socket.connect")
# Enough for a batch, too little for the step that writes all rows into one file.
_FILE_LIMIT = 5000


class Clock:
    """Counts events; the process ends when so many have passed."""

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self.last = last

    def tick(self) -> None:
        self.count += 1
        if self.count == self.last:
            os._exit(9)

    def hear(self, event: str, _: object) -> None:
        if event in _EVENTS:
            self.tick()


class Ticking(Generator):
    """Passes on what another generator answers; each answer is an event before anybody has seen it."""

    def __init__(self, generator: Generator, clock: Clock) -> None:
        self.name = generator.name
        self._generator = generator
        self._clock = clock

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        for index, outcome in self._generator.stream(requests):
            self._clock.tick()
            yield index, outcome


def run_here(folder: Path, url: str, model: str, clock: Clock) -> None:
    config = EndpointConfig(base_url=url, model=model, concurrency=CONCURRENCY, trust_env=False)
    with RequestCache(folder / "answers.sqlite") as cache:
        generator = CachedGenerator(Ticking(EndpointGenerator(config), clock), cache)
        Pipeline(stage_steps("endpoint", lambda: generator), folder / "run").run(topic_rows(ROWS))


def run_without_room(folder: Path) -> str:
    """The same from a script, with files that may not grow: what the error says."""

    def script(request: GenerationRequest) -> Completion:
        body = {"messages": [m.to_dict() for m in request.messages], "seed": request.seed}
        return Completion(words_of(body), "stop", 5, 3)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, limits[1]))
    try:
        steps = stage_steps("endpoint", lambda: ScriptedGenerator(script))
        Pipeline(steps, folder / "run").run(topic_rows(ROWS))
    except SynthesisError as error:
        return str(error)
    return "no error"


def in_child(work: object) -> int:
    """Exit status of a child process that does the work."""
    child = os.fork()
    if child == 0:
        try:
            work()  # type: ignore[operator]
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_case(root: Path, url: str, name: str, moments: Sequence[int | str]) -> list[int]:
    folder = root / name
    folder.mkdir()

    def attempt(moment: int | str | None) -> None:
        if moment == "no room":
            (folder / "error.txt").write_text(run_without_room(folder))
            return
        clock = Clock(moment if isinstance(moment, int) else None)
        sys.addaudithook(clock.hear)
        run_here(folder, url, name, clock)
        (folder / "events.txt").write_text(str(clock.count))

    return [in_child(lambda moment=moment: attempt(moment)) for moment in [*moments, None]]


def main() -> None:
    assert "torch" not in sys.modules
    assert "httpx2" not in sys.modules, "the client is loaded only when an endpoint is used"
    import httpx2  # noqa: F401 - once here rather than in each child

    task = json.loads(sys.argv[1])
    cases = task["cases"].items()
    status = {name: run_case(Path(task["folder"]), task["url"], name, case) for name, case in cases}
    sys.stdout.write(json.dumps(status))


if __name__ == "__main__":
    main()
