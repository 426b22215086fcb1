"""The file of a conversation memory: how a guard's scores add up over exchanges, and the evidence for it."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lockgate.cascade.memory import Memory
from lockgate.durable import open_atomic
from lockgate.errors import ConfigError
from lockgate.guards._record import GuardRecord

__all__ = ["MemoryRecord", "read_memory", "write_memory"]


class MemoryRecord(BaseModel):
    """The content of a memory file. Unknown keys are errors.

    Attributes:
        guard: `GuardRecord.measure` of the guard whose scores add up.
        flag: the guard's threshold, which margins are measured from.
        allowance, forget, limit: see `Memory`.
        calibration: how `limit` was chosen; see `Calibration.to_dict`. n counts conversations.
        exchanges: exchanges of these conversations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    guard: str
    flag: float
    allowance: float
    forget: float
    limit: float
    calibration: dict[str, Any]
    exchanges: int

    @property
    def memory(self) -> Memory:
        """The memory that a server uses."""
        return Memory(self.allowance, self.forget, self.limit)


def write_memory(path: Path, record: MemoryRecord) -> None:
    """Write a memory file, whole or not at all."""
    with open_atomic(path) as file:
        file.write((record.model_dump_json(indent=1) + "\n").encode())


def read_memory(path: Path, guard: GuardRecord | None = None) -> MemoryRecord:
    """Read the memory file of a guard.

    Args:
        guard: the guard that it must have been made for. None checks the file alone.

    Raises:
        ConfigError: it can't be read, is malformed, or was made for another guard or another threshold.
    """
    try:
        found = MemoryRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
        found.memory  # noqa: B018 - checks the numbers
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'not readable'}") from error
    except (ValidationError, ValueError, ConfigError) as error:
        raise ConfigError(f"{path}: is no memory file; `lockgate memory` writes one") from error
    if guard is not None and (found.guard, found.flag) != (guard.measure, guard.decides.flag):
        raise ConfigError(
            f"{path}: was made for another guard or threshold than {guard.name}; run `lockgate memory` again"
        )
    return found
