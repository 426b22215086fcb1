"""The dashboard of `lockgate serve`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from lockgate.dashboard import ServedGuard
    from lockgate.gateway import Gateway
    from lockgate.tenants import Tenants


@contextmanager
def dashboard_routes(tenants: "Tenants | None", gateway: "Gateway") -> "Iterator[Sequence[BaseRoute]]":
    """Give the routes of the dashboard, or none if there is no operations database.

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
    )
    dashboard = Dashboard(options, tenants)
    dashboard.open()
    try:
        yield dashboard.routes
    finally:
        dashboard.close()


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
