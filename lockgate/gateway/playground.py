"""The playground at `/`: a chat page that shows the guard at work. It is served only where it is enabled.

The page holds no secret and uses the same HTTP interface as any client. In addition it gets the score of each
token. The interface sends scores only on loopback, and only to requests with a header that other sites can't
set.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from lockgate._version import __version__
from lockgate.constitution import load_constitution, shipped_names
from lockgate.gateway._errors import ApiError
from lockgate.gateway._gateway import Gateway

HERE = Path(__file__).parent
# Answers are slow on a laptop. This limit lets the first one end while a newcomer still watches.
LONGEST_FIRST_ANSWER = 512
SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def describe(gateway: Gateway) -> dict[str, Any]:
    """Collect the facts about the server that the page shows, as variables of its template."""
    about, scoring = gateway.about_guard or {}, gateway.engine.scoring
    constitution = about.get("constitution") or {}
    return {
        "version": __version__,
        "model": gateway.model_id,
        "mode": gateway.mode,
        "guard": about.get("name"),
        "guard_hash": about.get("sha256"),
        "constitution": constitution,
        "titles": category_titles(constitution),
        "calibrated": bool(about.get("calibrated")),
        "budget": percentage(about.get("budget")),
        "risk": gateway.options.sends_risk,
        "two_stages": scoring is not None and scoring.stages.second is not None,
        "flag": None if scoring is None else f"{scoring.stages.decides:.2f}",
        "needs_key": bool(gateway.keyring),
        "context_length": gateway.backbone.context_length,
        "max_tokens": min(
            gateway.options.default_max_tokens, LONGEST_FIRST_ANSWER, gateway.backbone.context_length
        ),
    }


def category_titles(constitution: dict[str, Any]) -> dict[str, str]:
    """Map ids of harmful categories to titles, from the guard or the shipped constitution that it names."""
    if "categories" in constitution:
        return dict(constitution["categories"])
    if constitution.get("name") not in shipped_names():
        return {}
    shipped = load_constitution(constitution["name"])
    if shipped.version != constitution["version"]:
        return {}
    return {category.id: category.title for category in shipped.harmful}


def percentage(share: float | None) -> str | None:
    """Format a share as a percentage: 0.0005 becomes `0.05 %`."""
    return None if share is None else f"{100 * share:.4g} %"


async def _page(request: Request) -> Response:
    gateway = _gateway_with_page(request.app.state.gateway)
    body = _templates.get_template("playground.html").render(describe(gateway))
    return HTMLResponse(body, headers={**SECURITY_HEADERS, "Cache-Control": "no-store"})


class _Assets(StaticFiles):
    """The page's scripts and styles. Browsers check for a newer version at each load."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        _gateway_with_page(scope["app"].state.gateway)
        response = await super().get_response(path, scope)
        response.headers.update({**SECURITY_HEADERS, "Cache-Control": "no-cache"})
        return response


def _gateway_with_page(gateway: Gateway) -> Gateway:
    if not gateway.options.risk_events:
        raise ApiError(404, "The playground is not enabled on this server.")
    return gateway


routes: list[BaseRoute] = [
    Route("/", _page, methods=["GET"]),
    Mount("/static", _Assets(directory=HERE / "static")),
]
