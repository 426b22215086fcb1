"""The dashboard of `lockgate serve`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from lockgate.cli._serve_settings import Loaded
    from lockgate.dashboard import ServedGuard
    from lockgate.gateway import Gateway
    from lockgate.gateway.config import Follower
    from lockgate.rollout import Rollout
    from lockgate.tenants import Tenants


@dataclass(frozen=True, slots=True)
class GuardPlaces:
    """Where the guards are that admins may let take over.

    Attributes:
        folder: the guards.
        link: what the config file's `guard:` names.
    """

    folder: Path
    link: Path


def guard_places(loaded: "Loaded | None") -> GuardPlaces | None:
    """Return where guards are, as the config file says; None if it does not.

    Raises:
        ConfigError: the folder is not there, or `guard:` names no link.
    """
    found = None if loaded is None else loaded.applied.config.dashboard
    if loaded is None or found is None:
        return None
    from lockgate.rollout import GuardLink, Shelf

    path, named = loaded.path, loaded.applied.config.guard
    link, folder = path.parent / named, path.parent / found.guards
    if named == "embedded" or not link.is_symlink():
        raise ConfigError(
            f"{path}: dashboard: lets admins change the guard, and so `guard` must name a link; make one "
            "with `lockgate promote GUARD --as LINK`"
        )
    GuardLink(link)  # its history can be read
    try:
        Shelf(folder).guards()
    except ConfigError as error:
        raise ConfigError(f"{path}: dashboard.guards: {error}") from None
    return GuardPlaces(folder, link)


@contextmanager
def dashboard_routes(
    tenants: "Tenants | None", gateway: "Gateway", places: GuardPlaces | None, follow: "Follower | None"
) -> "Iterator[Sequence[BaseRoute]]":
    """Give the routes of the dashboard, or none if there is no operations database.

    Args:
        places: where guards are that may take over.
        follow: follows the config file.

    Raises:
        OperationsError, ReviewError: the operations database can't be used.
        GuardError: the bundle can't be read.
    """
    if tenants is None:
        yield []
        return
    from lockgate.dashboard import Dashboard, DashboardOptions

    log = gateway.options.log
    options = DashboardOptions(
        log=log.where,
        log_password_env=log.password_env,
        mode=lambda: gateway.mode,
        guard=_Served(gateway),
        loopback=gateway.options.loopback,
        rollout=None if places is None else _rollout(gateway, places, follow),
    )
    dashboard = Dashboard(options, tenants)
    dashboard.open()
    try:
        yield dashboard.routes
    finally:
        dashboard.close()


def _rollout(gateway: "Gateway", places: GuardPlaces, follow: "Follower | None") -> "Rollout":
    from lockgate.rollout import Rollout, Shelf

    def running() -> str | None:
        about = gateway.about_guard
        return None if about is None else str(about["sha256"])

    pause = nullcontext if follow is None else follow.pause
    return Rollout(Shelf(places.folder), places.link, running, gateway.promote, pause)


class _Served:
    """Tells the guard that a gateway serves now. A bundle is read once, at first when the server starts."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._read: tuple[str, ServedGuard] | None = None
        self()

    def __call__(self) -> "ServedGuard | None":
        from lockgate.dashboard import served_guard

        about, folder = self._gateway.about_guard, self._gateway.guard_folder
        if about is None or folder is None:
            return None
        known = self._read
        if known is None or known[0] != about["sha256"]:
            found = served_guard(
                folder,
                str(about["name"]),
                str(about["sha256"]),
                calibrated=bool(about["calibrated"]),
                uncalibrated_because=about["uncalibrated_because"],
            )
            known = self._read = (str(about["sha256"]), found)
        return known[1]
