"""The description of the server's routes as an OpenAPI document."""

from lockgate.gateway.openapi._document import openapi_route

__all__ = ["openapi_route"]
