"""The gateway: an OpenAI-compatible server. It releases a token only when the guard has cleared it."""

from lockgate.gateway._app import create_app, create_passing_app
from lockgate.gateway._breaker import BreakerOptions
from lockgate.gateway._connections import ConnectionLimits
from lockgate.gateway._conversations import Conversations
from lockgate.gateway._engine import Engine
from lockgate.gateway._errors import ApiError
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._gateway_options import GatewayOptions
from lockgate.gateway._guarding import bundle_hash
from lockgate.gateway._handover import PromotionError
from lockgate.gateway._keyring import Keyring
from lockgate.gateway._logs import LOG_FORMATS, LogFormat, set_up_logs
from lockgate.gateway._options import (
    MODES,
    CheckOptions,
    EngineDown,
    EngineOptions,
    Hold,
    LogDown,
    Mode,
    QueueFull,
)
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._server import bind, check_exposure, is_loopback, run_server, url_of
from lockgate.gateway.telemetry import TelemetryOptions

__all__ = [
    "LOG_FORMATS",
    "MODES",
    "ApiError",
    "BreakerOptions",
    "CheckOptions",
    "ConnectionLimits",
    "Conversations",
    "Engine",
    "EngineDown",
    "EngineOptions",
    "Gateway",
    "GatewayOptions",
    "Hold",
    "Keyring",
    "LogDown",
    "LogFormat",
    "Mode",
    "PromotionError",
    "QueueFull",
    "Scoring",
    "TelemetryOptions",
    "bind",
    "bundle_hash",
    "check_exposure",
    "create_app",
    "create_passing_app",
    "is_loopback",
    "run_server",
    "set_up_logs",
    "url_of",
]
