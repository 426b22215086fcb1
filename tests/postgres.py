"""A PostgreSQL server of our own: in a folder, on a socket, gone with the tests."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg


def binaries() -> Path | None:
    """The folder of the newest server that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    return None if named is None else Path(named).resolve().parent


class Postgres:
    """A server. It refuses to run as root, so root starts it as the user `postgres`."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None
        self._bin = found
        # Names of sockets are short, so not below pytest's folder.
        self._root = Path(tempfile.mkdtemp(prefix="lg-pg-"))
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(self._root, self._user)
        self._data = self._root / "data"
        self._call(
            "initdb", "-D", str(self._data), "-A", "trust", "-U", "lockgate", "-E", "UTF8", "--no-sync"
        )
        self._number = 0
        self.start()

    def start(self) -> None:
        # What is tested is the death of clients and of this server, not that of the machine.
        small = "-c max_connections=40 -c shared_buffers=16MB -c fsync=off"
        options = f"-k {self._root} -c listen_addresses='' {small}"
        words = ["-D", str(self._data), "-w", "-l", str(self._root / "log"), "-o", options]
        self._call("pg_ctl", *words, "start")

    def stop(self) -> None:
        """Stop it as a power cut does. Its connections break off."""
        self._call("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def database(self) -> str:
        """The address of a new, empty database."""
        self._number += 1
        name = f"log{self._number}"
        self.run("postgres", f"CREATE DATABASE {name}")
        return f"postgresql://lockgate@/{name}?host={self._root}"

    def run(self, database: str, statement: str) -> list[tuple[object, ...]]:
        words = f"host={self._root} user=lockgate dbname={database}"
        with psycopg.connect(words, autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._root, ignore_errors=True)

    def _call(self, program: str, *words: str) -> None:
        command: Sequence[str] = [str(self._bin / program), *words]
        if os.getuid() == 0:
            command = ["runuser", "-u", self._user, "--", *command]
        # The server keeps what it inherits open, so its output goes nowhere.
        done = subprocess.run(
            command,
            cwd=self._root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, (program, done.stderr)
