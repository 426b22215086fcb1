"""Alerts are kept, acknowledged and removed; keys know which of them were rotated into each other."""

import pytest
from sqlalchemy import text

from lockgate.databases import Database
from lockgate.errors import ConfigError
from lockgate.tenants import OPERATIONS_SCHEMA, Sign, Tenants

SIGN = Sign("flags", 50.0, 10, 40)


def test_an_alert_is_acknowledged_once_and_removed_when_it_is_old(where, opened, moment):
    tenants = opened(where)
    for name in ("acme", "other", "acme"):
        moment.now += 3600
        tenants.add_alert(name, "k", SIGN)
    assert [alert.tenant for alert in tenants.alerts()] == ["acme", "other", "acme"]
    own = tenants.alerts(tenant="acme")
    assert [alert.tenant for alert in own] == ["acme", "acme"]
    assert tenants.alerts(1) == own[:1]
    assert (tenants.new_alerts(), tenants.new_alerts("acme"), tenants.new_alerts("x")) == (3, 2, 0)
    tenants.acknowledge_alert(own[0].id, "mill/boss")
    moment.now += 60
    tenants.acknowledge_alert(own[0].id, "mill/late")
    noted = tenants.alerts()[0]
    assert (noted.acknowledged, noted.acknowledged_by) == (moment.now - 60, "mill/boss")
    assert (tenants.new_alerts(), tenants.new_alerts("acme")) == (2, 1)
    with pytest.raises(ConfigError, match="no alert has this id"):
        tenants.acknowledge_alert("nothing", "mill/boss")
    moment.now = own[1].at + 86_400
    assert tenants.remove_alerts(1) == 0
    moment.now += 1
    assert tenants.remove_alerts(1) == 1
    assert [alert.id for alert in tenants.alerts()][1:] != [own[1].id]
    for days in (0, -1, 40_000):
        with pytest.raises(ConfigError, match="days: expected"):
            tenants.remove_alerts(days)


def test_rotated_keys_have_one_origin_and_new_ones_their_own(where, opened):
    tenants = opened(where)
    tenants.add_tenant("acme")
    first, _ = tenants.create_key("acme", "laptop")
    second, _ = tenants.rotate_key(first.prefix)
    third, _ = tenants.rotate_key(second.prefix)
    assert {key.origin for key in (first, second, third)} == {first.prefix}
    tenants.revoke_key(third.prefix)
    again, _ = tenants.create_key("acme", "laptop")
    assert again.origin == again.prefix != first.prefix


def test_a_database_of_the_first_schema_goes_forward(where):
    """There, keys of one name had nothing else in common."""
    with Tenants(where) as tenants:
        tenants.add_tenant("acme")
        tenants.add_tenant("other")
        old, _ = tenants.create_key("acme", "laptop")
        new, _ = tenants.rotate_key(old.prefix)
        others, _ = tenants.create_key("other", "laptop")
        tenants.add_alert("acme", new.prefix, SIGN, 600)
        place = tenants.database.place
    database = Database(place, OPERATIONS_SCHEMA)
    database.open()
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE keys DROP COLUMN origin"))
        connection.execute(text("ALTER TABLE leases DROP COLUMN late_since"))
        for name in ("acknowledged", "acknowledged_by"):
            connection.execute(text(f"ALTER TABLE alerts DROP COLUMN {name}"))
        connection.execute(text(f"UPDATE {OPERATIONS_SCHEMA.version_table} SET version_num = '0001'"))  # noqa: S608
    database.close()
    with Tenants(where) as tenants:
        keys = tenants.keys()
        assert {key.prefix: key.origin for key in keys} == {
            old.prefix: old.prefix,
            new.prefix: old.prefix,
            others.prefix: others.prefix,
        }
        assert [alert.acknowledged for alert in tenants.alerts()] == [None]
        with tenants.database.writing() as connection:
            connection.execute(text("UPDATE keys SET origin = NULL"))  # as an older server adds keys
        assert all(key.origin == key.prefix for key in tenants.keys("acme"))
