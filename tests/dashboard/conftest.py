import pytest
from desks import house_in


@pytest.fixture
def house(tmp_path):
    with house_in(tmp_path) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def any_house(request, tmp_path):
    """A dashboard over each kind of database; log and operations share the server's."""
    if request.param == "sqlite":
        with house_in(tmp_path) as made:
            yield made
        return
    server = request.getfixturevalue("postgres")
    where = server.database()
    with house_in(tmp_path, log=where, operations=where) as made:
        yield made
