"""The lines that a server writes on standard error: as text, or each as a JSON object."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, get_args

from lockgate.errors import ConfigError
from lockgate.gateway._tracing import current_trace

LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
# The attribute under which a record carries further fields.
FIELDS = "lockgate_fields"
_ACCESS = "lockgate.access"
_Exception = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def fields(**values: object) -> dict[str, Any]:
    """Return the `extra` of a record that carries these fields. They must hold no text of users."""
    return {FIELDS: values}


def set_up_logs(form: LogFormat) -> None:
    """Write the records of all loggers to standard error, one line for each, in this form.

    It replaces what it has set up before. In the form `json` warnings of libraries are records too.

    Raises:
        ConfigError: there is no such form.
    """
    if form not in LOG_FORMATS:
        raise ConfigError(f"log_format: expected one of {', '.join(LOG_FORMATS)}")
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Stderr)]:
        root.removeHandler(old)
    handler = _Stderr()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root.addHandler(handler)
    logging.getLogger("lockgate").setLevel(logging.INFO)
    logging.captureWarnings(form == "json")


class _Stderr(logging.Handler):
    """Writes to what is standard error at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # a full disk behind standard error must not stop an answer
            self.handleError(record)


class _Lines(logging.Formatter):
    def formatException(self, ei: _Exception) -> str:  # noqa: N802 - the library's name
        """Return where an exception came from, and its type. Its message may quote what a user has sent."""
        kind, _, trace = ei
        frames = [f"{at.filename}:{at.lineno} in {at.name}" for at in traceback.extract_tb(trace)]
        return " < ".join([kind.__name__ if kind is not None else "no exception", *frames[::-1]])


class TextLines(_Lines):
    """Lines for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        line = _plain(record.getMessage())
        if record.exc_info:
            line += f": {self.formatException(record.exc_info)}"
        return line if record.name == _ACCESS else f"lockgate: {line}"


class JsonLines(_Lines):
    """Lines for programs: `time` in UTC, `level`, `logger`, `message`, and the record's own fields.

    A line about a request that has a trace names it as `trace_id`.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _plain(record.getMessage()),
            **getattr(record, FIELDS, {}),
        }
        if (trace := current_trace()) is not None:
            line["trace_id"] = trace.trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _plain(text: str) -> str:
    """Return a text on one line, without characters that a terminal acts on."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
