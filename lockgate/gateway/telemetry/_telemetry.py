"""The telemetry of a server: its tracer and its sender, or nothing."""

from typing import TYPE_CHECKING

from lockgate.gateway._metrics import Metrics
from lockgate.gateway._tracing import Tracer
from lockgate.gateway.telemetry._options import TelemetryOptions

if TYPE_CHECKING:
    from lockgate.gateway.telemetry._sender import Sender

# Seconds that the end of the server waits for the collector.
LAST_SECONDS = 5.0


class Telemetry:
    """What a server sends to a collector. Without options it sends nothing and imports no library.

    Args:
        metrics: what `/metrics` shows. The same counts are sent.

    Attributes:
        tracer: begins the traces of requests. None if none are sent.
    """

    def __init__(self, options: TelemetryOptions | None, metrics: Metrics) -> None:
        self.tracer: Tracer | None = None
        self._sender: Sender | None = None
        if options is None:
            return
        from lockgate.gateway.telemetry import _sender
        from lockgate.gateway.telemetry._measures import Measures
        from lockgate.gateway.telemetry._tracing import Tracing, resource_of

        resource = resource_of(options)
        self._sender = _sender.Sender(options, Measures(metrics, resource) if options.metrics else None)
        if options.traces:
            self.tracer = Tracing(options.share, resource, self._sender.add)

    def start(self) -> None:
        """Begin to send. A second call does nothing."""
        if self._sender is not None:
            self._sender.start()

    def close(self, timeout: float = LAST_SECONDS) -> None:
        """Send what waits, and stop.

        Args:
            timeout: seconds that this may take. What is left is dropped then.
        """
        if self._sender is not None:
            self._sender.close(timeout)
