"""Errors of the HTTP interface, in the shape that OpenAI clients parse."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lockgate.errors import LockgateError


class ApiError(LockgateError):
    """An HTTP error that answers a request.

    `message` never repeats text of the request, because messages are logged and shown.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(param: str, message: str, code: str | None = None) -> ApiError:
    """Return a 400 error that names the field at fault."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def no_such_model() -> ApiError:
    """Return the error for the name of a model that is not there."""
    return ApiError(404, "There is no such model; see /v1/models.", param="model", code="model_not_found")


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(content), status_code=status, headers=headers, media_type="application/json"
    )


def error_response(error: ApiError) -> Response:
    return json_response(error.body(), error.status, error.headers)


async def handle_api_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):  # Starlette's handler table is typed for any exception
        raise error
    return error_response(error)
