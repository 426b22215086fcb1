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
    from lockgate.gateway.config import BuildConfig, Follower
    from lockgate.rollout import Builds, Rollout
    from lockgate.tenants import Tenants


_LISTS = ("benign", "data", "evaluation")
_VALUES = (
    *("preset", "model", "key_env", "device", "dtype", "budget", "benign_share", "hold_out_reviews"),
    *("epochs", "folds", "max_rows", "max_tokens", "workers"),
)


@dataclass(frozen=True, slots=True)
class GuardPlaces:
    """Where the guards are that admins may let take over.

    Attributes:
        folder: the guards.
        link: what the config file's `guard:` names.
        work: folder for builds; None if the file has no `dashboard.build`.
        arguments: what `lockgate build` gets.
    """

    folder: Path
    link: Path
    work: Path | None = None
    arguments: tuple[str, ...] = ()


def guard_places(loaded: "Loaded | None", backbone: str) -> GuardPlaces | None:
    """Return where guards are, as the config file says; None if it does not.

    Args:
        backbone: the server's model, for which new guards are built.

    Raises:
        ConfigError: the folder or a file for builds is not there, or `guard:` names no link.
    """
    found = None if loaded is None else loaded.applied.config.dashboard
    if loaded is None or found is None:
        return None
    from lockgate.guards import is_shipped
    from lockgate.rollout import GuardLink, Shelf

    path, named = loaded.path, loaded.applied.config.guard
    link, folder = path.parent / named, path.parent / found.guards
    if is_shipped(named) or not link.is_symlink():
        raise ConfigError(
            f"{path}: dashboard: lets admins change the guard, and so `guard` must name a link; make one "
            "with `lockgate promote GUARD --as LINK`"
        )
    GuardLink(link)  # its history can be read
    try:
        Shelf(folder).guards()
    except ConfigError as error:
        raise ConfigError(f"{path}: dashboard.guards: {error}") from None
    if found.build is None:
        return GuardPlaces(folder, link)
    work = (path.parent / found.build.work).absolute()
    return GuardPlaces(folder, link, work, _build_arguments(found.build, path, backbone))


def _build_arguments(found: "BuildConfig", path: Path, backbone: str) -> tuple[str, ...]:
    """Return the options of `lockgate build` that the config file says.

    Raises:
        ConfigError: a file is missing.
    """

    def place(key: str, named: str) -> str:
        file = path.parent / named
        if not file.is_file():
            raise ConfigError(f"{path}: dashboard.build.{key}: {file}: no such file")
        return str(file.absolute())

    words = [place("constitution", found.constitution)]
    for key in _LISTS:
        for named in getattr(found, key):
            words += [f"--{key}", place(key, named)]
    if found.plan is not None:
        words += ["--plan", place("plan", found.plan)]
    local = path.parent / found.generator
    words += ["--generator", str(local.absolute()) if local.is_dir() else found.generator]
    words += ["--backbone", backbone if backbone == "embedded" else str(Path(backbone).absolute())]
    for key in _VALUES:
        if (value := getattr(found, key)) is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    return tuple(words)


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
    further = {name: _Served(one) for name, one in gateway.guards.further.items()}
    options = DashboardOptions(
        log=log.where,
        log_password_env=log.password_env,
        mode=lambda: gateway.mode,
        guard=_Served(gateway),
        further=lambda: {name: found for name, tell in further.items() if (found := tell()) is not None},
        loopback=gateway.options.loopback,
        rollout=None if places is None else _rollout(gateway, places, follow),
        builds=None if places is None else _builds(places),
    )
    dashboard = Dashboard(options, tenants)
    dashboard.open()
    try:
        yield dashboard.routes
    finally:
        dashboard.close()
        if options.builds is not None:
            options.builds.close()


def _rollout(gateway: "Gateway", places: GuardPlaces, follow: "Follower | None") -> "Rollout":
    from lockgate.rollout import Rollout, Shelf

    def running() -> str | None:
        about = gateway.about_guard
        return None if about is None else str(about["sha256"])

    pause = nullcontext if follow is None else follow.pause
    return Rollout(Shelf(places.folder), places.link, running, gateway.promote, pause)


def _builds(places: GuardPlaces) -> "Builds | None":
    from lockgate.rollout import Builds

    return None if places.work is None else Builds(places.work, places.folder, places.arguments)


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
