"""The dashboard of `lockgate serve`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from lockgate.dashboard import ServedGuard
    from lockgate.gateway import Gateway
    from lockgate.tenants import Tenants


@contextmanager
def dashboard_routes(
    tenants: "Tenants | None", gateway: "Gateway", guard: str
) -> "Iterator[Sequence[BaseRoute]]":
    """Give the routes of the dashboard, or none if there is no operations database.

    Args:
        guard: what `--guard` names.

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
        mode=gateway.mode,
        guard=_served(gateway, guard),
        loopback=gateway.options.loopback,
    )
    dashboard = Dashboard(options, tenants)
    dashboard.open()
    try:
        yield [dashboard.route]
    finally:
        dashboard.close()


def _served(gateway: "Gateway", guard: str) -> "ServedGuard | None":
    from lockgate.dashboard import served_guard
    from lockgate.guards import EMBEDDED

    about = gateway.about_guard
    if about is None:
        return None
    return served_guard(
        EMBEDDED if guard == "embedded" else Path(guard),
        str(about["name"]),
        str(about["sha256"]),
        calibrated=bool(about["calibrated"]),
        uncalibrated_because=about["uncalibrated_because"],
    )
