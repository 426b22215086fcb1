"""The page of limits: what each tenant may use, and what it uses now. Admins change it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page, PageError, go_to
from lockgate.errors import ConfigError
from lockgate.tenants import Settings, TenantInfo, Use

# How the fields of `Settings` are called here. A field that is not listed is called as it is.
_WORDS = {
    "mode": "Mode",
    "canary_percent": "Canary percent",
    "requests_per_minute": "Requests a minute",
    "burst": "Requests in one go",
    "tokens_per_minute": "Tokens a minute",
    "concurrent": "Requests at a time",
    "longest_body": "Bytes of a request",
    "longest_prompt": "Tokens of a prompt",
}
_MODES = ("enforce", "shadow", "canary")


@dataclass(frozen=True, slots=True)
class _Row:
    """A tenant in the list, with its settings as people read them."""

    name: str
    keys: int
    settings: Settings
    shown: Mapping[str, str]
    use: Use


def _list(call: Call) -> Response:
    tenants = [found for found in call.desk.tenants.tenants() if call.sees(found.name)]
    return call.page("limits.html", here="limits", rows=[_row(call, found) for found in tenants])


def _row(call: Call, found: TenantInfo) -> _Row:
    use = call.desk.tenants.limits.use(found.name, found.settings)
    return _Row(found.name, found.keys, found.settings, _shown(found.settings), use)


def _shown(settings: Settings) -> dict[str, str]:
    """Return the settings that are set, by their words."""
    found: dict[str, Any] = msgspec.to_builtins(settings)
    return {_words(name): _text(value) for name, value in found.items()}


def _words(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " ").capitalize())


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _edit(call: Call) -> Response:
    found = _one(call)
    return _form(call, found.name, msgspec.structs.asdict(found.settings))


def _form(call: Call, tenant: str, values: Mapping[str, object], problem: str | None = None) -> Response:
    fields = {
        name: (_words(name), "" if values.get(name) is None else _plain(values[name]))
        for name in Settings.__struct_fields__
    }
    return call.page(
        "limit.html",
        400 if problem else 200,
        here="limits",
        tenant=tenant,
        fields=fields,
        modes=_MODES,
        problem=problem,
    )


def _plain(value: object) -> str:
    """Write a value so that it can be read again."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _change(call: Call) -> Response:
    tenant = _one(call).name
    given = {name: call.form[name].strip() for name in Settings.__struct_fields__ if name in call.form}
    try:
        call.desk.tenants.change_tenant(
            tenant,
            lambda before: before.changed({name: text or "none" for name, text in given.items()}, _words),
        )
    except ConfigError as error:
        name, colon, words = str(error).partition(":")
        return _form(call, tenant, given, f"{_WORDS.get(name, name)}{colon}{words}.")
    return go_to("/limits")


def _one(call: Call) -> TenantInfo:
    """Return the tenant that the address names. Raises PageError."""
    found = next((one for one in call.desk.tenants.tenants() if one.name == call.path["tenant"]), None)
    if found is None:
        raise PageError(
            404, "No such tenant", "There is no tenant of this name. `lockgate tenants add` makes one."
        )
    return found


PAGES = (
    Page("/limits", _list),
    Page("/limits/{tenant}", _edit, role="admin"),
    Page("/limits/{tenant}", _change, role="admin", method="POST"),
)
