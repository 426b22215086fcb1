import os
from collections.abc import Iterator

import pytest
from postgres import Postgres, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of our own, started when the first test asks for it."""
    if binaries() is None:
        assert not os.environ.get("LOCKGATE_REQUIRE_POSTGRES"), "PostgreSQL is not installed"
        pytest.skip("PostgreSQL is not installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Where a new log can be: each kind of database."""
    if request.param == "sqlite":
        return tmp_path / "decisions.db"
    return request.getfixturevalue("postgres").database()
