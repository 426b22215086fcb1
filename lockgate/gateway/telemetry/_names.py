"""Names of what traces carry: those of OpenTelemetry's conventions, and our own below `lockgate.`."""

# Conventions for HTTP and for errors. Both are stable.
METHOD = "http.request.method"
ROUTE = "http.route"
STATUS = "http.response.status_code"
SCHEME = "url.scheme"
PATH = "url.path"
URL = "url.full"
VERSION = "network.protocol.version"
HOST = "server.address"
PORT = "server.port"
ERROR = "error.type"
# What the conventions have for a value outside of a known set.
OTHER = "_OTHER"

# Conventions for generative AI. They are not stable yet.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"

# Our own.
REQUEST_ID = "lockgate.request.id"
EXCHANGE_ID = "lockgate.exchange.id"
EXCHANGE_IDS = "lockgate.exchange.ids"
CHOICE = "lockgate.exchange.choice"
MODE = "lockgate.mode"
DECISION = "lockgate.decision"
ENFORCED = "lockgate.enforced"
UNGUARDED = "lockgate.unguarded"
GUARD = "lockgate.guard"
STAGE = "lockgate.stage"
CATEGORY = "lockgate.category"
TOKEN_INDEX = "lockgate.token_index"  # noqa: S105 - the name of a number
VERDICTS = "lockgate.verdicts"
VERDICT_GIVEN = "lockgate.verdict.given"
TENANT = "lockgate.tenant"

EXCHANGE_SPAN = "lockgate.exchange"
QUEUE_SPAN = "lockgate.queue"
PROMPT_SPAN = "lockgate.prompt"
VERDICT_SPAN = "lockgate.verdict"
RECORD_SPAN = "lockgate.record"
FIRST_TEXT = "lockgate.first_text"

# The operation that each route stands for. Checks are none of the conventions' operations.
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}


def operation_of(url: str) -> str | None:
    """Return the operation that an upstream is asked for at an address; None if it writes no answer."""
    paths = (name.removeprefix("/v1") for name in OPERATIONS)
    return next((OPERATIONS[f"/v1{path}"] for path in paths if url.endswith(path)), None)
