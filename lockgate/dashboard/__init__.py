"""The dashboard: what a server decided, the review queue, the guard and the keys, for people."""

from lockgate.dashboard._app import Dashboard
from lockgate.dashboard._desk import DashboardOptions
from lockgate.dashboard._guard import ServedGuard, served_guard
from lockgate.dashboard._schema import DASHBOARD_SCHEMA

__all__ = ["DASHBOARD_SCHEMA", "Dashboard", "DashboardOptions", "ServedGuard", "served_guard"]
