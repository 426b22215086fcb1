"""The page of a guard that is served."""

from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page


def _guard(call: Call) -> Response:
    choice = call.choice()
    guard = choice.guard
    calibration = None if guard is None else guard.calibration
    return call.page("guard.html", here="guard", guard=guard, choice=choice, calibration=calibration)


PAGES = (Page("/guard", _guard),)
