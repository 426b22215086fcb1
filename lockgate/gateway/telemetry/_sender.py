"""The thread that sends spans and metrics. Nothing else ever waits for the collector.

OpenTelemetry's own exporters take headers, certificates and proxies out of the environment, try again for as
long as a request may take, and write a line for each failure. So only its encoders are used.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx2
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from lockgate._version import __version__
from lockgate.gateway.telemetry._options import TelemetryOptions

logger = logging.getLogger("lockgate.telemetry")

# Spans that wait at most, and that go into one request.
MOST_WAITING = 8192
AT_ONCE = 512
CONNECT_SECONDS, REQUEST_SECONDS = 2.0, 5.0
# Statuses with which a collector says that it may take the same request later.
_LATER = frozenset({429, 502, 503, 504})


class Unsent(Exception):
    """A request was not taken. The message says why, in our own words.

    Attributes:
        later: whether it may be taken later.
    """

    def __init__(self, why: str, *, later: bool) -> None:
        super().__init__(why)
        self.later = later


@dataclass(slots=True)
class _Signal:
    """How the sending of traces or metrics goes.

    Attributes:
        failing: whether the newest request failed.
        lost: spans that were dropped since it began to fail.
    """

    name: str
    failing: bool = False
    lost: int = field(default=0)

    def failed(self, why: str) -> None:
        if not self.failing:
            logger.warning("telemetry: %s can't be sent (%s); requests go on", self.name, why)
        self.failing = True

    def succeeded(self) -> None:
        if self.failing:
            lost = f"; {self.lost} spans were dropped" if self.lost else ""
            logger.info("telemetry: %s are sent again%s", self.name, lost)
        self.failing, self.lost = False, 0


class Sender:
    """Sends what is added, and the metrics, at each interval. Any thread may call it.

    Args:
        measures: returns the metrics of the moment, encoded. None sends none.
    """

    def __init__(self, options: TelemetryOptions, measures: Callable[[], bytes] | None) -> None:
        self._options = options
        self._measures = measures
        self._wake = threading.Condition()
        self._spans: deque[ReadableSpan] = deque()
        self._traces, self._metrics = _Signal("traces"), _Signal("metrics")
        self._until: float | None = None  # when all must be over, once the server stops
        self._thread = threading.Thread(target=self._run, name="lockgate-telemetry", daemon=True)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        if self._thread.ident is None:
            self._thread.start()

    def add(self, span: ReadableSpan) -> None:
        """Queue a span. If too many wait, the oldest one is dropped."""
        with self._wake:
            self._spans.append(span)
            self._trim()
            if len(self._spans) >= AT_ONCE:
                self._wake.notify()

    def close(self, timeout: float) -> None:
        """Send what waits, for at most `timeout` seconds, and stop. A second call does nothing."""
        with self._wake:
            if self._until is not None:
                return
            self._until = time.monotonic() + timeout
            self._wake.notify()
        if self._thread.ident is not None:
            # A request that hangs ends with the process.
            self._thread.join(timeout)

    def _run(self) -> None:
        with httpx2.Client(
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS),
            headers={"user-agent": f"lockgate/{__version__}", **self._options.headers},
        ) as client:
            due, closing = time.monotonic() + self._options.interval, False
            while not closing:
                closing = self._wait(due)
                self._send_spans(client)
                if self._measures is not None and (closing or time.monotonic() >= due):
                    self._send_metrics(client, self._measures)
                if time.monotonic() >= due:
                    due = time.monotonic() + self._options.interval

    def _wait(self, due: float) -> bool:
        """Wait until something must be sent. Tell whether the server stops."""
        with self._wake:
            while self._until is None and (left := due - time.monotonic()) > 0:
                if len(self._spans) >= AT_ONCE and not self._traces.failing:
                    break
                self._wake.wait(left)
            return self._until is not None

    def _send_spans(self, client: httpx2.Client) -> None:
        while batch := self._take():
            try:
                self._post(client, "/v1/traces", encode_spans(batch).SerializeToString())
                self._traces.succeeded()
            except Exception as error:  # the thread must outlive any fault
                later = isinstance(error, Unsent) and error.later
                self._put_back(batch if later else (), lost=0 if later else len(batch))
                self._traces.failed(_words(error))
                if later:
                    return

    def _send_metrics(self, client: httpx2.Client, measures: Callable[[], bytes]) -> None:
        try:
            self._post(client, "/v1/metrics", measures())
            self._metrics.succeeded()
        except Exception as error:  # the thread must outlive any fault
            self._metrics.failed(_words(error))

    def _post(self, client: httpx2.Client, path: str, body: bytes) -> None:
        """Send a request. Raises Unsent."""
        if self._until is not None and time.monotonic() >= self._until:
            raise Unsent("the server is stopping", later=True)
        try:
            # What a collector answers beside the status is not read.
            with client.stream(
                "POST",
                self._options.endpoint + path,
                content=body,
                headers={"content-type": "application/x-protobuf"},
            ) as response:
                status = response.status_code
        except httpx2.TransportError as error:
            raise Unsent(type(error).__name__, later=True) from None
        if not 200 <= status < 300:
            raise Unsent(f"HTTP {status}", later=status in _LATER)

    def _take(self) -> list[ReadableSpan]:
        with self._wake:
            return [self._spans.popleft() for _ in range(min(AT_ONCE, len(self._spans)))]

    def _put_back(self, batch: Sequence[ReadableSpan], lost: int) -> None:
        with self._wake:
            self._traces.lost += lost
            self._spans.extendleft(reversed(batch))
            self._trim()

    def _trim(self) -> None:
        while len(self._spans) > MOST_WAITING:
            self._spans.popleft()
            self._traces.lost += 1


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, Unsent) else type(error).__name__
