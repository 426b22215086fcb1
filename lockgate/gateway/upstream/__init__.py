"""Upstream mode: a guard in front of any OpenAI-compatible server."""

from lockgate.gateway.upstream._client import UpstreamClient
from lockgate.gateway.upstream._options import UpstreamOptions
from lockgate.gateway.upstream._passing import passing_routes
from lockgate.gateway.upstream._routes import GUARDED_ROUTES, upstream_routes
from lockgate.gateway.upstream._upstreams import Upstreams, UpstreamTable

__all__ = [
    "GUARDED_ROUTES",
    "UpstreamClient",
    "UpstreamOptions",
    "UpstreamTable",
    "Upstreams",
    "passing_routes",
    "upstream_routes",
]
