"""Gateways and scorers on Ray Serve, each with replicas of their own. Callers bring what runs in them."""

from lockgate.fleet._actors import Made, MadeApp
from lockgate.fleet._app import RayOptions, run_on_ray

__all__ = ["Made", "MadeApp", "RayOptions", "run_on_ray"]
