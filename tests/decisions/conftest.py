import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Where a new log can be: each kind of database."""
    if request.param == "sqlite":
        return tmp_path / "decisions.db"
    return request.getfixturevalue("postgres").database()
