"""The routes of the checks, and what they share."""

from starlette.routing import Route

from lockgate.gateway._gateway import Gateway
from lockgate.gateway.checks._decisions import decisions
from lockgate.gateway.checks._litellm import litellm_guardrail
from lockgate.gateway.checks._moderations import check_names, moderations
from lockgate.gateway.checks._rounds import Rounds
from lockgate.gateway.checks._streams import OpenChecks

CHECK_ROUTES = (
    Route("/v1/moderations", moderations, methods=["POST"]),
    Route("/v1/decisions", decisions, methods=["POST"]),
    Route("/beta/litellm_basic_guardrail_api", litellm_guardrail, methods=["POST"]),
)


class Checks:
    """What outlasts a call: the open checks of `/v1/decisions`, and the answers that LiteLLM shows.

    Raises:
        ConfigError: the options name a category that the guard does not have.
    """

    def __init__(self, gateway: Gateway) -> None:
        check_names(gateway)
        self.open = OpenChecks(gateway.options.checks)
        self.rounds = Rounds(gateway)
