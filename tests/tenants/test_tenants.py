"""Keys: who they find, until when, and what servers remember of them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text, update

from lockgate.cli import main
from lockgate.databases import Database
from lockgate.errors import ConfigError, OperationsError
from lockgate.tenants import Book, Principal, Settings, Tenants
from lockgate.tenants._schema import METADATA, OPERATIONS_SCHEMA, TENANTS, place_of

HOUR = 3600.0


def test_migrations_make_the_tables_that_the_code_uses(where):
    made = Database(place_of(where), OPERATIONS_SCHEMA)
    made.open()
    with made.writing() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": OPERATIONS_SCHEMA.version_table}
        )
        # A database may hold tables of others.
        own = [found for found in compare_metadata(context, METADATA) if found[0] != "remove_table"]
    made.close()
    assert own == []
    assert set(OPERATIONS_SCHEMA.tables) == set(METADATA.tables)


def test_a_backup_is_a_database_of_tenants(tmp_path, capsys):
    with Book(tmp_path / "operations.db") as book:
        book.add_tenant("acme")
        _, key = book.create_key("acme", "laptop")
    copy = tmp_path / "copy.db"
    with pytest.raises(SystemExit) as ended:
        main(["backup", str(tmp_path / "operations.db"), "--output", str(copy)])
    assert ended.value.code == 0, capsys.readouterr()
    with Tenants(copy) as tenants:
        assert tenants.find(key) is not None


def test_a_key_finds_its_tenant_and_role(where, opened):
    tenants = opened(where)
    tenants.add_tenant("acme", Settings(requests_per_minute=60, burst=5))
    tenants.add_tenant("other")
    info, key = tenants.create_key("acme", "laptop", "reviewer")
    assert key.startswith(f"lg_{info.prefix}_")
    assert tenants.find(key) == Principal("acme", info.prefix, "reviewer")
    caller = tenants.identify(key)
    assert caller is not None
    assert (caller.settings.burst, caller.locked_for) == (5, 0.0)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    for text_of_key in (wrong, key + "A", "", "lg__", "sk-123", f"lg_{'a' * 12}_{'a' * 43}", "ü" * 60):
        assert tenants.find(text_of_key) is None
    assert [found.name for found in tenants.tenants()] == ["acme", "other"]
    assert [found.keys for found in tenants.tenants()] == [1, 0]


def test_roles_are_ordered():
    reviewer = Principal("a", "k", "reviewer")
    assert (reviewer.may("client"), reviewer.may("reviewer"), reviewer.may("admin")) == (True, True, False)


def test_the_secret_is_in_no_file(tmp_path, opened):
    tenants = opened(tmp_path / "operations.db")
    tenants.add_tenant("acme")
    info, key = tenants.create_key("acme", "laptop")
    tenants.close()
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert info.prefix.encode() in held
    assert key.rpartition("_")[2].encode() not in held
    assert key.encode() not in held
    assert (tmp_path / "operations.db").stat().st_mode & 0o077 == 0
    assert key not in repr(info)


def test_an_expired_key_ends_at_its_time(where, opened, moment):
    tenants = opened(where)
    tenants.add_tenant("acme")
    _, key = tenants.create_key("acme", "short", days=1)
    moment.now += 24 * HOUR - 1
    assert tenants.find(key) is not None
    moment.now += 1
    assert tenants.find(key) is None
    assert tenants.keys("acme")[0].state == "expired"


def test_a_revoked_key_ends_on_other_servers_within_the_time_of_the_memory(where, opened, moment):
    here, there = opened(where, cache_seconds=5), opened(where, cache_seconds=5)
    here.add_tenant("acme")
    info, key = here.create_key("acme", "laptop")
    assert here.find(key) == there.find(key) is not None
    here.revoke_key(info.prefix)
    assert here.find(key) is None
    moment.now += 1
    assert there.find(key) is not None  # remembered
    moment.now += 4
    assert there.find(key) is None
    assert here.revoke_key(info.prefix).state == "revoked"


def test_settings_that_can_not_be_read_stop_their_own_tenant_alone(where, opened):
    tenants = opened(where)
    keys = {}
    for name in ("acme", "other"):
        tenants.add_tenant(name)
        keys[name] = tenants.create_key(name, "bot")[1]
    with tenants.database.writing() as connection:
        newer = update(TENANTS).where(TENANTS.c.name == "acme").values(settings='{"no_such_limit": 1}')
        connection.execute(newer)
    for _ in range(2):
        with pytest.raises(OperationsError):
            tenants.find(keys["acme"])
        assert tenants.find(keys["other"]) is not None
        tenants.forget()
    assert tenants.fault is None


def test_a_key_in_use_is_read_again_before_anybody_waits(where, opened, moment):
    here, there = opened(where), opened(where)
    here.add_tenant("acme")
    info, key = here.create_key("acme", "laptop")
    there.find(key)
    here.revoke_key(info.prefix)
    moment.now += 3
    there.find(key)  # has it read in the background
    assert there.remembers(key)
    assert there.find(key) is None


@pytest.mark.parametrize("change", [{"grace": 1e30}, {"grace": -1.0}, {"grace": float("nan")}, {"days": 0.0}])
def test_a_rotation_has_bounds(where, opened, change):
    tenants = opened(where)
    tenants.add_tenant("acme")
    old, _ = tenants.create_key("acme", "bot")
    with pytest.raises(ConfigError, match="expected"):
        tenants.rotate_key(old.prefix, **change)
    assert [key.state for key in tenants.keys("acme")] == ["valid"]


def test_rotation_keeps_the_old_key_for_its_grace(where, opened, moment):
    tenants = opened(where)
    tenants.add_tenant("acme")
    old, first = tenants.create_key("acme", "laptop", "admin")
    new, second = tenants.rotate_key(old.prefix, grace=HOUR)
    assert (new.name, new.role, new.prefix == old.prefix) == ("laptop", "admin", False)
    assert tenants.find(first) is not None
    assert tenants.find(second) is not None
    moment.now += HOUR
    assert tenants.find(first) is None
    assert tenants.find(second) is not None
    with pytest.raises(ConfigError, match="is expired"):
        tenants.rotate_key(old.prefix)


def test_a_rotation_neither_prolongs_a_key_nor_frees_a_locked_one(where, opened, moment):
    tenants = opened(where)
    tenants.add_tenant("acme")
    old, first = tenants.create_key("acme", "laptop", days=1)
    tenants.lock_key(old.prefix, moment.now + 7 * HOUR)
    new, second = tenants.rotate_key(old.prefix, grace=48 * HOUR)
    assert new.expires == old.expires
    assert tenants.keys()[0].expires == old.expires
    found = [tenants.identify(key) for key in (first, second)]
    assert [caller and round(caller.locked_for) for caller in found] == [7 * HOUR, 7 * HOUR]
    moment.now += 7 * HOUR
    caller = tenants.identify(second)
    assert caller is not None
    assert caller.locked_for == 0


def test_last_use_is_noted_once_a_minute(where, opened, moment):
    tenants = opened(where)
    tenants.add_tenant("acme")
    _, key = tenants.create_key("acme", "laptop")
    begun = moment.now
    for _ in range(30):
        assert tenants.find(key) is not None
        moment.now += 3
    assert tenants.keys()[0].last_used in (begun + 60, begun + 63)


def test_without_the_database_keys_hold_for_the_time_of_the_memory(tmp_path, opened, moment):
    path = tmp_path / "operations.db"
    tenants = opened(path)
    tenants.add_tenant("acme")
    _, key = tenants.create_key("acme", "laptop")
    _, unread = tenants.create_key("acme", "phone")
    assert tenants.find(key) is not None
    tenants.database.close()
    with pytest.raises(OperationsError):
        tenants.find(unread)
    moment.now += 4.9
    assert tenants.find(key) is not None
    moment.now += 0.1
    with pytest.raises(OperationsError):
        tenants.find(key)
    tenants.database.open()
    with pytest.raises(OperationsError, match="could not be read just now"):
        tenants.find(key)  # so that not every request waits for what is down
    moment.now += 1
    assert tenants.find(key) is not None


def test_settings_of_a_newer_version_are_not_ignored(where, opened):
    tenants = opened(where)
    tenants.add_tenant("acme")
    _, key = tenants.create_key("acme", "laptop")
    with tenants.database.writing() as connection:
        connection.execute(text("""UPDATE tenants SET settings = '{"new_limit": 3}'"""))
    with pytest.raises(OperationsError, match="settings of tenant acme"):
        tenants.find(key)


def test_changed_settings_hold(where, opened, moment):
    here, there = opened(where), opened(where)
    here.add_tenant("acme")
    _, key = here.create_key("acme", "laptop")
    assert there.identify(key).settings == Settings()
    changed = here.change_tenant("acme", lambda _: Settings(concurrent=2))
    assert here.identify(key).settings == changed
    moment.now += 5
    assert there.identify(key).settings == changed


def test_removing_a_tenant_ends_its_keys_alone(where, opened):
    tenants = opened(where)
    keys = []
    for name in ("acme", "other"):
        tenants.add_tenant(name)
        keys.append(tenants.create_key(name, "laptop")[1])
    tenants.remove_tenant("acme")
    assert tenants.find(keys[0]) is None
    assert tenants.find(keys[1]) is not None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda book: book.add_tenant("acme"), "is there already"),
        (lambda book: book.add_tenant("a b"), "expected a name"),
        (lambda book: book.add_tenant("x", Settings(burst=3)), "burst: needs requests_per_minute"),
        (lambda book: book.add_tenant("x", Settings(mode="canary")), "need each other"),
        (lambda book: book.add_tenant("x", Settings(concurrent=0)), "concurrent: expected at least 1"),
        (lambda book: book.create_key("nobody", "k"), "there is none of this name"),
        (lambda book: book.create_key("acme", "laptop"), "rotate it"),
        (lambda book: book.create_key("acme", "k", "root"), "role: expected one of client, reviewer, admin"),
        (lambda book: book.create_key("acme", "k", days=0), "days: expected more than 0"),
        (lambda book: book.revoke_key("nothing"), "no key has this prefix"),
        (lambda book: book.keys("nobody"), "there is none of this name"),
        (lambda book: book.remove_tenant("nobody"), "there is none of this name"),
    ],
)
def test_what_can_not_be_done_is_said(tmp_path, act, message):
    with Book(tmp_path / "operations.db") as book:
        book.add_tenant("acme")
        book.create_key("acme", "laptop")
        before = (book.tenants(), book.keys())
        with pytest.raises(ConfigError, match=message):
            act(book)
        assert (book.tenants(), book.keys()) == before


def test_lookups_from_many_threads_agree(where):
    """With the real thread in the background and real clocks."""
    with Tenants(where, cache_seconds=0.02) as tenants:
        keys = {}
        for name in ("a", "b", "c"):
            tenants.add_tenant(name)
            keys[tenants.create_key(name, "k")[1]] = name
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(tenants.find, list(keys) * 40))
        assert [principal and principal.tenant for principal in found] == list(keys.values()) * 40
