"""`lockgate serve`: an OpenAI-compatible server for a guarded model. `_serve_run` is what it does."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import DeviceOption, DtypeOption, JsonFlag
from lockgate.cli._serve_settings import API_KEY_VARIABLE, Settings, load_file


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Config file in YAML or TOML: upstreams, keys, policies. At SIGHUP the server reads "
            "it again. `lockgate config schema` prints its schema.",
        ),
    ] = None,
    guard: Annotated[
        str, typer.Option(metavar="GUARD", help="A guard's folder, `embedded` or `stand-in`.")
    ] = "embedded",
    backbone: Annotated[
        str, typer.Option(metavar="PATH", help="The model that the guard was made for, or `embedded`.")
    ] = "embedded",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="Program that runs the model: lockgate (in this process) or vllm (needs the extra `vllm`)."
        ),
    ] = "lockgate",
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Argument for vLLM, such as tensor_parallel_size=2. The value is JSON or text. May be "
            "repeated.",
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Guard the answers of this OpenAI-compatible server, such as http://127.0.0.1:8080/v1, "
            "instead of answering.",
        ),
    ] = None,
    upstream_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model to ask the upstream for. Default: as the client says."),
    ] = None,
    upstream_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="VAR",
            help="Environment variable with the upstream's key. Default: the client's own key passes, if "
            "this server has none.",
        ),
    ] = None,
    upstream_media: Annotated[
        str | None,
        typer.Option(
            metavar="refuse|pass",
            help="Images, audio and files in requests to an upstream, which the guard can't read: refuse "
            "(default) or pass unread.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on. 0 takes a free port.")
    ] = 8000,
    mode: Annotated[
        str, typer.Option(help="enforce: halt at a flag. shadow: only score and log. off: no guard.")
    ] = "enforce",
    max_streams: Annotated[int, typer.Option(min=1, help="Answers that are written at a time.")] = 8,
    max_queue: Annotated[
        int,
        typer.Option(
            min=0,
            help="Requests that may wait. A further one gets a 429, or displaces one of the busiest client.",
        ),
    ] = 32,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Key-value memory for all requests together, in tokens. Default: two full contexts, or 2048 "
            "for each stream if that is more.",
        ),
    ] = None,
    default_max_tokens: Annotated[
        int, typer.Option(min=1, help="Largest length of an answer if the request names none.")
    ] = 1024,
    block_input_status: Annotated[
        int,
        typer.Option(
            help="HTTP status for a flagged prompt: 200 (a refusal) or 400 (an error). With 400 a stream "
            "sends nothing until the guard has read the prompt."
        ),
    ] = 200,
    decisions: Annotated[
        str | None,
        typer.Option(
            metavar="LOG",
            help="Decision log: a file of SQLite, or postgresql://USER@HOST/DATABASE with the password in "
            "LOCKGATE_LOG_PASSWORD. Default: LOCKGATE_HOME/decisions.db.",
        ),
    ] = None,
    operations: Annotated[
        str | None,
        typer.Option(
            metavar="DB",
            help="Ask clients for the keys of tenants in this database: a file of SQLite, or "
            "postgresql://USER@HOST/DATABASE with the password in LOCKGATE_OPERATIONS_PASSWORD.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Host name that requests may use, besides the local names. With an open --host the "
            "server refuses all other names. *.NAME covers all names below NAME. May be repeated.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File with the key that clients must send. {API_KEY_VARIABLE} can hold the key instead.",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines without an API key.")
    ] = False,
    playground: Annotated[
        bool | None,
        typer.Option(help="Serve the page at /, on loopback only. Default: yes, but not with an upstream."),
    ] = None,
    risk_header: Annotated[
        bool | None,
        typer.Option(
            help="Send the score of each token to requests with `x-lockgate-risk: 1`, unless a proxy shows "
            "itself. Needs a loopback --host and no key. Default: with the playground.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Processor threads for the model. Default: the fastest number, by trial."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download the embedded backbone first if it is missing.")
    ] = False,
    step_timeout: Annotated[
        float, typer.Option(help="Seconds after which a step of the model counts as failed.")
    ] = 120.0,
    verdict_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds without progress of the second stage after which a waiting answer is halted."
        ),
    ] = 30.0,
    queue_timeout: Annotated[
        float, typer.Option(help="Seconds that a request may wait. Then it gets a 503.")
    ] = 120.0,
    promotion_timeout: Annotated[
        float, typer.Option(help="Seconds that open answers have to end when another guard takes over.")
    ] = 30.0,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that open answers have to end at shutdown.")
    ] = 30.0,
    max_connections: Annotated[
        int,
        typer.Option(
            min=1, help="Connections at a time. A newcomer takes the place of the one that has idled longest."
        ),
    ] = 1024,
    metrics_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="VAR",
            help="Environment variable with the key for /metrics. Default: only this machine may read them, "
            "and only if clients need no key.",
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send traces and metrics to this collector of OpenTelemetry, such as http://127.0.0.1:4318 "
            "(needs the extra `otel`). Default: nothing is sent.",
        ),
    ] = None,
    otlp_headers_env: Annotated[
        str | None,
        typer.Option(
            metavar="VAR", help="Environment variable with headers for the collector: NAME=VALUE,NAME=VALUE."
        ),
    ] = None,
    log_format: Annotated[
        str, typer.Option(help="Form of the lines on standard error: text, or json with an object on each.")
    ] = "text",
    hold_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Read and release an upstream's answers in steps of at least so many tokens. A flag keeps "
            "back its whole step.",
        ),
    ] = 1,
    hold_ms: Annotated[
        float,
        typer.Option(help="Milliseconds that text waits at most for the further tokens of its step."),
    ] = 250.0,
    moderation_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CATEGORY=NAME",
            help="Name that /v1/moderations gives to a category of the policy, such as "
            "weapons=illicit/violent. May be repeated.",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Serve a guarded model with the OpenAI chat interface. Ctrl-C stops the server."""
    options = {name: value for name, value in locals().items() if name not in ("ctx", "config")}
    from lockgate.cli._serve_run import run

    settings, loaded = Settings(**options), None
    if config is not None:
        settings, loaded = load_file(config, settings, _given(ctx))
    run(settings, loaded)


def _given(ctx: typer.Context) -> list[str]:
    """Return the names of the options that the command line names."""
    named = ("COMMANDLINE", "ENVIRONMENT")
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return [name for name, source in sources.items() if source is not None and source.name in named]
