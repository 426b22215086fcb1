"""Checks as a service: the guard for text that clients write elsewhere and send in."""

from lockgate.gateway.checks._routes import CHECK_ROUTES, Checks

__all__ = ["CHECK_ROUTES", "Checks"]
