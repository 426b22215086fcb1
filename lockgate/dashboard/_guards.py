"""The page of the served guard."""

from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page


def _guard(call: Call) -> Response:
    guard = call.desk.guard
    return call.page("guard.html", here="guard", calibration=None if guard is None else guard.calibration)


PAGES = (Page("/guard", _guard),)
