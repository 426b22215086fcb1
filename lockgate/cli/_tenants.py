"""`lockgate tenants` and `lockgate keys`: who may call the server. `_serve` asks for the keys."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import JsonFlag, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockgate.tenants import Book, KeyInfo, Settings

tenants = typer.Typer(help="Add, change and remove tenants.", no_args_is_help=True)
keys = typer.Typer(help="Create, rotate and revoke the keys of tenants.", no_args_is_help=True)

OperationsOption = Annotated[
    str | None,
    typer.Option(
        "--operations",
        metavar="DB",
        help="Operations database: a file of SQLite, or postgresql://USER@HOST/DATABASE with the password in "
        "LOCKGATE_OPERATIONS_PASSWORD. Default: LOCKGATE_HOME/operations.db.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Config file whose `operations` says where it is."),
]
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.")]
PrefixArgument = Annotated[
    str, typer.Argument(metavar="PREFIX", help="Public id of the key, as `lockgate keys list` shows it.")
]
# Options of `add` and `set`. "none" takes a limit away.
GuardOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|none",
        help="Guard for its requests: one of the server's `guards`. none: the default one. With --config, "
        "the file must have it.",
    ),
]
ModeOption = Annotated[
    str | None, typer.Option(metavar="MODE", help="enforce, shadow or canary; none: as the server has it.")
]
CanaryOption = Annotated[
    str | None, typer.Option(metavar="PERCENT|none", help="Share of the requests that canary enforces.")
]
RateOption = Annotated[str | None, typer.Option(metavar="N|none", help="Requests per minute.")]
BurstOption = Annotated[
    str | None, typer.Option(metavar="N|none", help="Requests in one go. Default: those of a minute.")
]
TokensOption = Annotated[
    str | None, typer.Option(metavar="N|none", help="Tokens read per minute, in the guard's tokens.")
]
ConcurrentOption = Annotated[str | None, typer.Option(metavar="N|none", help="Requests at a time.")]
BodyOption = Annotated[str | None, typer.Option(metavar="BYTES|none", help="Longest body of a request.")]
PromptOption = Annotated[str | None, typer.Option(metavar="TOKENS|none", help="Longest prompt.")]


def register(app: typer.Typer) -> None:
    app.add_typer(tenants, name="tenants")
    app.add_typer(keys, name="keys")


@tenants.command("add")
def add_tenant(
    name: TenantArgument,
    guard: GuardOption = None,
    mode: ModeOption = None,
    canary_percent: CanaryOption = None,
    requests_per_minute: RateOption = None,
    burst: BurstOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent: ConcurrentOption = None,
    longest_body: BodyOption = None,
    longest_prompt: PromptOption = None,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Add a tenant. What no option says has no limit."""
    given = _given(locals())
    _check_guard(guard, config)
    from lockgate.tenants import Settings

    settings = _changed(Settings(), given)
    with _book(operations, config, create=True) as book:
        book.add_tenant(name, settings)
    _tell({"tenant": name, "settings": _plain(settings)}, f"tenant {name} added", as_json=json)


@tenants.command("set")
def set_tenant(
    name: TenantArgument,
    guard: GuardOption = None,
    mode: ModeOption = None,
    canary_percent: CanaryOption = None,
    requests_per_minute: RateOption = None,
    burst: BurstOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent: ConcurrentOption = None,
    longest_body: BodyOption = None,
    longest_prompt: PromptOption = None,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Change a tenant. What no option says stays; `none` takes a limit away."""
    given = _given(locals())
    _check_guard(guard, config)
    with _book(operations, config) as book:
        settings = book.change_tenant(name, lambda before: _changed(before, given))
    shown = ", ".join(f"{key} {value}" for key, value in _plain(settings).items()) or "no limits"
    _tell({"tenant": name, "settings": _plain(settings)}, f"tenant {name}: {shown}", as_json=json)


@tenants.command("list")
def list_tenants(
    operations: OperationsOption = None, config: ConfigOption = None, json: JsonFlag = False
) -> None:
    """List all tenants, their settings and how many valid keys they have."""
    with _book(operations, config) as book:
        found = book.tenants()
    if json:
        rows = [{"tenant": one.name, "keys": one.keys, "settings": _plain(one.settings)} for one in found]
        print_json({"tenants": rows})
        return
    shown = [
        [one.name, one.keys, ", ".join(f"{key} {value}" for key, value in _plain(one.settings).items())]
        for one in found
    ]
    print_table(["tenant", "keys", "settings"], shown)


@tenants.command("remove")
def remove_tenant(
    name: TenantArgument,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Remove a tenant together with its keys. The decision log keeps its records."""
    with _book(operations, config) as book:
        book.remove_tenant(name)
    _tell({"tenant": name, "removed": True}, f"tenant {name} and its keys removed", as_json=json)


@tenants.command("alerts")
def list_alerts(
    most: Annotated[int, typer.Option("--lines", "-n", min=1, help="The newest ones that are shown.")] = 20,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """List alerts about campaigns, newest first."""
    with _book(operations, config) as book:
        found = book.alerts(most)
    columns = ["at", "tenant", "key", "signal", "value", "bound", "exchanges", "locked until"]
    rows = [
        [
            *(_time(one.at), one.tenant, one.key, one.signal),
            *(round(one.value, 1), one.bound, one.exchanges, _time(one.locked_until)),
        ]
        for one in found
    ]
    if json:
        names = [name.replace(" ", "_") for name in columns]
        print_json({"alerts": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    print_table(columns, rows)


@keys.command("create")
def create_key(
    tenant: TenantArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")],
    role: Annotated[
        str,
        typer.Option(help="client: may call the server. reviewer: and review. admin: and manage keys."),
    ] = "client",
    days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Days until it expires. Default: never.")
    ] = None,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Make a key, and print it. Nobody can read it again."""
    with _book(operations, config) as book:
        info, key = book.create_key(tenant, name, _role(role), days=days)
    _tell_key(info, key, as_json=json)


@keys.command("list")
def list_keys(
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Only the keys of this tenant.")
    ] = None,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """List keys by their public ids."""
    with _book(operations, config) as book:
        found = book.keys(tenant)
    if json:
        print_json({"keys": [_shown(one) for one in found]})
        return
    columns = ["prefix", "tenant", "name", "role", "state", "created", "expires", "last used"]
    rows = [
        [
            *(one.prefix, one.tenant, one.name, one.role, one.state),
            *(_time(one.created), _time(one.expires), _time(one.last_used)),
        ]
        for one in found
    ]
    print_table(columns, rows)


@keys.command("rotate")
def rotate_key(
    prefix: PrefixArgument,
    grace: Annotated[
        float, typer.Option(metavar="HOURS", min=0, help="Hours for which the old key stays valid.")
    ] = 24.0,
    days: Annotated[
        float | None,
        typer.Option(metavar="DAYS", help="Days until the new key expires. Default: when the old one would."),
    ] = None,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Give a key's name a new key, and print it. The old one stays valid for a while."""
    with _book(operations, config) as book:
        info, key = book.rotate_key(prefix, grace=3600 * grace, days=days)
    _tell_key(info, key, as_json=json)


@keys.command("revoke")
def revoke_key(
    prefix: PrefixArgument,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """End a key. Servers that run follow within seconds."""
    from lockgate.tenants import CACHE_SECONDS

    with _book(operations, config) as book:
        info = book.revoke_key(prefix)
    words = f"key {prefix} revoked; servers follow within {CACHE_SECONDS:g} s"
    _tell(_shown(info), words, as_json=json)


@keys.command("unlock")
def unlock_key(
    prefix: PrefixArgument,
    operations: OperationsOption = None,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Let a key in again that an alert has locked out."""
    with _book(operations, config) as book:
        book.lock_key(prefix, 0.0)
    _tell({"prefix": prefix, "locked": False}, f"key {prefix} unlocked", as_json=json)


@contextmanager
def _book(operations: str | None, config: Path | None, *, create: bool = False) -> "Iterator[Book]":
    """Open the book that the options name.

    Args:
        create: whether to make the database if there is none.

    Raises:
        ConfigError: the options name none.
        OperationsError: it can't be opened.
    """
    from lockgate.tenants import Book

    book = Book(*_place(operations, config))
    book.open(create=create)
    try:
        yield book
    finally:
        book.close()


def _place(operations: str | None, config: Path | None) -> "tuple[str | Path, str]":
    from lockgate.durable import home
    from lockgate.errors import ConfigError
    from lockgate.tenants import PASSWORD_VARIABLE

    if config is None:
        return operations or home() / "operations.db", PASSWORD_VARIABLE
    if operations is not None:
        raise ConfigError("--operations: with --config, `operations` in the file says this; leave one out")
    from lockgate.gateway.config import operations_of, read_config

    found = operations_of(read_config(config), config)
    if found is None:
        raise ConfigError(f"{config}: operations: is missing; add it, or give --operations DB")
    return found


def _check_guard(name: str | None, config: Path | None) -> None:
    """Refuse a guard that the server's config does not have. Raises ConfigError."""
    from lockgate.errors import ConfigError

    if name in (None, "none") or config is None:
        return
    from lockgate.gateway.config import read_config

    known = ("default", *read_config(config).guards)
    if name not in known:
        raise ConfigError(f"--guard {name}: {config} has {', '.join(known)}")


def _given(options: dict[str, Any]) -> dict[str, str]:
    """Return the settings that the command line names."""
    from lockgate.tenants import Settings

    return {name: options[name] for name in Settings.__struct_fields__ if options[name] is not None}


def _changed(settings: "Settings", given: dict[str, str]) -> "Settings":
    """Return settings with what the command line names. Raises ConfigError."""
    import msgspec

    from lockgate.errors import ConfigError

    found: dict[str, Any] = msgspec.structs.asdict(settings)
    for name, text in given.items():
        found[name] = None if text == "none" else text
    if "mode" in given and given["mode"] != "canary" and "canary_percent" not in given:
        found["canary_percent"] = None
    try:
        return msgspec.convert(found, type(settings), strict=False)
    except msgspec.ValidationError as error:
        # The library names the field last: "Expected `int`, got `str` - at `$.burst`".
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(f"--{where.rstrip('`').replace('_', '-')}: {what}; `none` takes it away") from None


def _plain(settings: "Settings") -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(settings)
    return found


def _role(name: str) -> Any:  # noqa: ANN401 - a literal type, which the book checks
    return name


def _tell(found: dict[str, Any], words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        typer.echo(words)


def _tell_key(info: "KeyInfo", key: str, *, as_json: bool) -> None:
    """Print a new key alone on standard output, so that it can be piped."""
    if as_json:
        print_json({**_shown(info), "key": key})
        return
    typer.echo(key)
    typer.echo(
        f"key {info.prefix} of tenant {info.tenant} ({info.name}, {info.role}); it is shown only now",
        err=True,
    )


def _shown(info: "KeyInfo") -> dict[str, Any]:
    return {
        "prefix": info.prefix,
        "tenant": info.tenant,
        "name": info.name,
        "role": info.role,
        "state": info.state,
        **{
            name: _time(getattr(info, name)) or None
            for name in ("created", "expires", "revoked", "last_used", "locked_until")
        },
    }


def _time(seconds: float | None) -> str:
    """Return a time in UTC, such as 2026-01-31T12:00:00Z; "" without one."""
    from datetime import UTC, datetime

    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
