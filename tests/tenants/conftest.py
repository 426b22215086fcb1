import pytest
from keyholders import Inline, Moment

from lockgate.tenants import Tenants


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    """Where a new operations database can be: each kind of database."""
    if request.param == "sqlite":
        return tmp_path / "operations.db"
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def moment():
    return Moment()


@pytest.fixture
def opened(moment):
    """Opens `Tenants` on the test's clock, whose background work is done at once."""
    made = []

    def open_one(where, **options):
        tenants = Tenants(where, clock=moment, ticks=moment, background=Inline(), **options)
        tenants.open()
        made.append(tenants)
        return tenants

    yield open_one
    for tenants in made:
        tenants.close()
