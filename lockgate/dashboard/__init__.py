"""The dashboard: what a server decided, the review queue, the guard and the keys, for people."""

from lockgate.dashboard._app import Dashboard
from lockgate.dashboard._desk import DashboardOptions
from lockgate.dashboard._guard import ServedGuard, served_guard

__all__ = ["Dashboard", "DashboardOptions", "ServedGuard", "served_guard"]
