"""The generator behind an HTTP endpoint: any server with OpenAI's chat completions."""

import asyncio
from collections.abc import Iterator, Sequence

from lockgate._extras import need
from lockgate.synthesis._endpoint_attempt import Sender
from lockgate.synthesis._endpoint_call import EndpointCall, Sleep
from lockgate.synthesis._endpoint_config import EndpointConfig
from lockgate.synthesis._endpoint_health import Health
from lockgate.synthesis._requests import GenerationRequest, Generator, Outcome
from lockgate.synthesis._usage import Budget, Usage


class EndpointGenerator(Generator):
    """A generator behind an OpenAI-compatible endpoint. It sends several requests at once and retries.

    Put it into a `CachedGenerator`. Then no answer is asked for again after an error, a kill or the end of
    the budget. `stream` runs its own event loop and can't be called from inside another.

    Args:
        config: see `EndpointConfig`.
        budget: a budget shared with other generators. The default is its own, from `config`.
        sleep: how to wait; tests replace it.

    Raises:
        MissingExtra: The HTTP client is not installed (extra `synthesis`).
        GeneratorError: The key's variable is not set.
    """

    def __init__(
        self, config: EndpointConfig, *, budget: Budget | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.name = config.model
        self.config = config
        self.usage = Usage()
        self.budget = config.budget() if budget is None else budget
        self.health = Health(config.stop_after_failures)
        self.sleep = sleep
        self.headers = config.headers()
        self.http = need("httpx2", extra="synthesis", feature="generation over HTTP")

    @property
    def identity(self) -> str:
        return self.config.identity

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        with asyncio.Runner() as runner:
            call = self.start(requests)
            try:
                while finished := runner.run(call.next_finished()):
                    yield from finished
            finally:
                runner.run(call.close())
        if call.error is not None:
            raise call.error

    def start(self, requests: Sequence[GenerationRequest]) -> EndpointCall:
        """Return a call with its own connections. It sends nothing until its first outcome is asked for."""
        return EndpointCall(
            requests,
            self.config,
            Sender(self.config, self.headers, self.http),
            self.usage,
            self.budget,
            self.health,
            self.sleep,
        )
