"""The page of keys. Only admins see it."""

from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page, PageError, go_to
from lockgate.errors import ConfigError
from lockgate.tenants import ROLES, Role

HOUR = 3600.0


def _keys(call: Call) -> Response:
    return _shown(call)


def _shown(call: Call, *, made: tuple[str, str] | None = None, problem: str | None = None) -> Response:
    tenants = call.desk.tenants
    return call.page(
        "keys.html",
        400 if problem else 200,
        here="keys",
        keys=tenants.keys(),
        tenants=[found.name for found in tenants.tenants()],
        roles=ROLES,
        made=made,
        problem=problem,
    )


def _create(call: Call) -> Response:
    form = call.form
    days = form.get("days", "").strip()
    try:
        info, secret = call.desk.tenants.create_key(
            form.get("tenant", ""),
            form.get("name", "").strip(),
            _role(form.get("role", "")),
            days=float(days) if days else None,
        )
    except ConfigError as error:
        return _shown(call, problem=f"{error}.")
    except ValueError:
        return _shown(call, problem="Days: expected a number, or nothing for a key that does not expire.")
    return _shown(call, made=(f"{info.tenant}/{info.name}", secret))


def _role(name: str) -> Role:
    found = next((role for role in ROLES if role == name), None)
    if found is None:
        raise PageError(400, "No such role", f"Expected one of {', '.join(ROLES)}.")
    return found


def _rotate(call: Call) -> Response:
    try:
        grace = HOUR * float(call.form.get("grace") or 0)
        info, secret = call.desk.tenants.rotate_key(call.form.get("key", ""), grace=grace)
    except ConfigError as error:
        return _shown(call, problem=f"{error}.")
    except ValueError:
        return _shown(call, problem="Hours: expected a number.")
    return _shown(call, made=(f"{info.tenant}/{info.name}", secret))


def _revoke(call: Call) -> Response:
    key = call.form.get("key", "")
    if key == call.who.key:
        raise PageError(400, "Your own key", "You are signed in with this key. Revoke it with another one.")
    try:
        call.desk.tenants.revoke_key(key)
    except ConfigError as error:
        return _shown(call, problem=f"{error}.")
    call.desk.sessions.end_key(key)
    return go_to("/keys")


PAGES = (
    Page("/keys", _keys, role="admin"),
    Page("/keys/create", _create, role="admin", method="POST"),
    Page("/keys/rotate", _rotate, role="admin", method="POST"),
    Page("/keys/revoke", _revoke, role="admin", method="POST"),
)
