"""The decision log: what was decided about every exchange, in a database, chained by hashes."""

from lockgate.decisions._chain import Break, Kind, Tip
from lockgate.decisions._content import (
    CONTENT_MODES,
    Content,
    ContentKeeper,
    ContentMode,
    ContentReader,
    Turn,
    make_keys,
)
from lockgate.decisions._left import spill_files
from lockgate.decisions._log import DecisionLog, Left, print_failure
from lockgate.decisions._newest import MOST_READ, Found, Line
from lockgate.decisions._onward import Onward
from lockgate.decisions._options import POLICIES, LogOptions, WhenUnwritable
from lockgate.decisions._reading import (
    LogReader,
    Report,
    Stored,
    check_log,
    is_database,
    open_log,
    purge_log,
    read_decisions,
)
from lockgate.decisions._record import (
    Decision,
    DecisionKind,
    Fault,
    GuardChange,
    GuardName,
    Scores,
    Started,
    deciding_score,
    timestamp,
)
from lockgate.decisions._schema import LOG_SCHEMA, PASSWORD_VARIABLE, place_of

__all__ = [
    "CONTENT_MODES",
    "LOG_SCHEMA",
    "MOST_READ",
    "PASSWORD_VARIABLE",
    "POLICIES",
    "Break",
    "Content",
    "ContentKeeper",
    "ContentMode",
    "ContentReader",
    "Decision",
    "DecisionKind",
    "DecisionLog",
    "Fault",
    "Found",
    "GuardChange",
    "GuardName",
    "Kind",
    "Left",
    "Line",
    "LogOptions",
    "LogReader",
    "Onward",
    "Report",
    "Scores",
    "Started",
    "Stored",
    "Tip",
    "Turn",
    "WhenUnwritable",
    "check_log",
    "deciding_score",
    "is_database",
    "make_keys",
    "open_log",
    "place_of",
    "print_failure",
    "purge_log",
    "read_decisions",
    "spill_files",
    "timestamp",
]
