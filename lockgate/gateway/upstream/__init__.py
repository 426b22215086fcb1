"""Upstream mode: a guard in front of any OpenAI-compatible server."""

from lockgate.gateway.upstream._client import UpstreamClient
from lockgate.gateway.upstream._options import UpstreamOptions
from lockgate.gateway.upstream._passing import passing_routes
from lockgate.gateway.upstream._routes import upstream_routes

__all__ = ["UpstreamClient", "UpstreamOptions", "passing_routes", "upstream_routes"]
