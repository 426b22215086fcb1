"""How the decision log is kept."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lockgate.databases import Place
from lockgate.decisions._content import ContentKeeper, ContentMode
from lockgate.decisions._schema import PASSWORD_VARIABLE, place_of
from lockgate.errors import ConfigError

WhenUnwritable = Literal["stop_admission", "degrade", "block"]
POLICIES: tuple[WhenUnwritable, ...] = ("stop_admission", "degrade", "block")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Where and how decisions are kept.

    Attributes:
        where: path of a file for SQLite, or the address of a PostgreSQL database.
        content: what is kept of the text of exchanges.
        public_key: key that texts are sealed with, if `content` is `encrypted`.
        retention_days: age in days at which records are removed. None keeps them.
        when_unwritable: what happens while no record can be written. `stop_admission` takes no new requests,
            `degrade` goes on, `block` also ends the open answers.
        writer: name under which this server's chains belong together.
        password_env: environment variable that may hold the database's password.
        patience: seconds that the end of an answer waits for the database. Then the database counts as
            unwritable.
        most_waiting: records that are kept in memory while none can be written.
        spill: folder for a file of records that wait. By default the database's folder; for a server, the
            folder `LOCKGATE_HOME`.

    Raises:
        ConfigError: a value is not valid.
        MissingExtra: the extra `encrypt` is not installed.
    """

    where: str | Path
    content: ContentMode = "none"
    public_key: str | None = None
    retention_days: float | None = None
    when_unwritable: WhenUnwritable = "stop_admission"
    writer: str = ""
    password_env: str = PASSWORD_VARIABLE
    patience: float = 2.0
    most_waiting: int = 10_000
    spill: Path | None = None

    def __post_init__(self) -> None:
        if self.when_unwritable not in POLICIES:
            raise ConfigError(f"when_unwritable: expected one of {', '.join(POLICIES)}")
        if self.retention_days is not None and not self.retention_days > 0:
            raise ConfigError("retention_days: expected more than 0")
        if not self.patience > 0 or self.most_waiting < 1:
            raise ConfigError("patience and most_waiting: expected more than 0")
        ContentKeeper(self.content, self.public_key)
        place_of(self.where, self.password_env)
        if not self.writer:
            object.__setattr__(self, "writer", socket.gethostname())

    @property
    def place(self) -> Place:
        """Where the log is, with the password from the environment."""
        return place_of(self.where, self.password_env)

    @property
    def keeps_content(self) -> bool:
        return self.content != "none"
