"""Traces and metrics for a collector of OpenTelemetry, over OTLP/HTTP. It needs the extra `otel`."""

from lockgate.gateway.telemetry._options import TelemetryOptions
from lockgate.gateway.telemetry._telemetry import Telemetry

__all__ = ["Telemetry", "TelemetryOptions"]
