import pytest

from lockgate.databases import Place
from lockgate.reviews import Reviews


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Where reviews can be: each kind of database."""
    where = tmp_path / "operations.db"
    if request.param == "postgres":
        where = request.getfixturevalue("postgres").database()
    return Place.of(where, "reviews", "NO_PASSWORD")


@pytest.fixture
def reviews(place):
    made = Reviews(place)
    made.open()
    yield made
    made.close()
