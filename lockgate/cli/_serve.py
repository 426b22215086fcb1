"""`lockgate serve`: an OpenAI-compatible server for a guarded model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import DeviceOption, DtypeOption, JsonFlag
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.gateway import Gateway, GatewayOptions
    from lockgate.gateway.upstream import UpstreamOptions

API_KEY_VARIABLE = "LOCKGATE_API_KEY"
ENGINES = ("lockgate", "vllm")


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    guard: Annotated[
        str, typer.Option(metavar="GUARD", help="A guard's folder, or `embedded`.")
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
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decision log. If the file is moved away, the log continues in a new file. SIGHUP makes it "
            "do so at once. Default: LOCKGATE_HOME/decisions.jsonl.",
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
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads for the model.")] = None,
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
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that open answers have to end at shutdown.")
    ] = 30.0,
    max_connections: Annotated[
        int,
        typer.Option(
            min=1, help="Connections at a time. A newcomer takes the place of the one that has idled longest."
        ),
    ] = 1024,
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
    from lockgate.durable import home
    from lockgate.gateway import (
        CheckOptions,
        ConnectionLimits,
        EngineOptions,
        GatewayOptions,
        bind,
        check_exposure,
        create_app,
        create_passing_app,
        is_loopback,
        run_server,
        url_of,
    )
    from lockgate.gateway.upstream import UpstreamClient

    extra = _engine_arguments(engine, engine_arg or [])
    relayed = _upstream(upstream, upstream_model, upstream_key_env, upstream_media)
    if relayed is not None:
        _check_upstream_mode(engine, playground=playground, risk_header=risk_header)
    key = _read_key(api_key_file)
    check_exposure(host, has_key=key is not None, insecure=insecure)
    options = GatewayOptions(
        decisions=decisions or home() / "decisions.jsonl",
        engine=EngineOptions(
            _mode(mode),
            max_streams,
            max_queue,
            kv_tokens,
            step_timeout,
            verdict_timeout,
            queue_timeout=queue_timeout,
        ),
        default_max_tokens=default_max_tokens,
        block_input_status=block_input_status,
        api_key=key,
        loopback=is_loopback(host),
        allowed_hosts=tuple(allowed_host or ()),
        risk_events=(relayed is None if playground is None else playground) and is_loopback(host),
        risk_header=risk_header,
        # A path says where the model is on this machine; its last part is a name.
        model_names=(Path(backbone).name,),
        checks=CheckOptions(moderation_names=_moderation_names(moderation_name or [])),
    )
    # The port is bound before the model is loaded, so a port in use is an error at once.
    with bind(host, port) as bound:
        if fetch and backbone == "embedded":
            from lockgate.backbones import fetch_embedded

            fetch_embedded(report=lambda line: typer.echo(f"fetch: {line}", err=True))
        url, limits = url_of(bound), ConnectionLimits(max_connections)
        if relayed is not None and mode == "off":
            run_server(
                create_passing_app(options, UpstreamClient(relayed)),
                bound,
                ready=lambda: _announce_passing(url, relayed, as_json=json),
                drain_timeout=drain_timeout,
                limits=limits,
            )
            return
        gateway = _load(
            guard, backbone, options, threads, (device, dtype), engine, extra, reads_only=relayed is not None
        )
        try:
            run_server(
                create_app(gateway, None if relayed is None else UpstreamClient(relayed)),
                bound,
                ready=lambda: _announce(url, guard, gateway, relayed, as_json=json),
                drain_timeout=drain_timeout,
                hangup=gateway.decisions.reopen,
                limits=limits,
                end_open=gateway.engine.end_open,
            )
        finally:
            gateway.close()


def _upstream(
    url: str | None, model: str | None, key_env: str | None, media: str | None
) -> "UpstreamOptions | None":
    from lockgate.gateway.upstream import UpstreamOptions

    if url is not None:
        return UpstreamOptions(url, model, key_env, media=_media(media or "refuse"))
    for option, value in (("model", model), ("key-env", key_env), ("media", media)):
        if value is not None:
            raise ConfigError(f"--upstream-{option}: needs --upstream URL")
    return None


def _media(name: str) -> Any:  # noqa: ANN401 - a literal type, which UpstreamOptions checks
    return name


def _check_upstream_mode(engine: str, *, playground: bool | None, risk_header: bool | None) -> None:
    """Refuse options that have no meaning in front of an upstream. Raises ConfigError."""
    if engine != "lockgate":
        raise ConfigError(f"--engine {engine}: an upstream writes the answers; leave out one of both options")
    if playground or risk_header:
        option = "--playground" if playground else "--risk-header"
        raise ConfigError(f"{option}: shows the scores of this server's own model; not with --upstream")


def _mode(name: str) -> Any:  # noqa: ANN401 - a literal type, checked here
    from lockgate.gateway import MODES

    if name not in MODES:
        raise ConfigError(f"--mode {name}: expected one of {', '.join(MODES)}")
    return name


def _moderation_names(words: list[str]) -> dict[str, str]:
    """Read the names of categories. Raises ConfigError for a malformed or repeated one."""
    found: dict[str, str] = {}
    for word in words:
        category, _, name = word.partition("=")
        if not category or not name:
            raise ConfigError(
                f"--moderation-name {word}: expected CATEGORY=NAME, such as weapons=illicit/violent"
            )
        if category in found:
            raise ConfigError(f"--moderation-name {word}: {category} has a name already")
        found[category] = name
    return found


def _engine_arguments(engine: str, words: list[str]) -> dict[str, Any]:
    """Read the arguments for vLLM. Raises ConfigError for an unknown engine or a malformed argument."""
    import json

    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    if words and engine != "vllm":
        raise ConfigError("--engine-arg: only --engine vllm takes arguments")
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--engine-arg {word}: expected NAME=VALUE, such as tensor_parallel_size=2")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _load(
    guard: str,
    backbone: str,
    options: "GatewayOptions",
    threads: int | None,
    place: tuple[str, str],
    engine: str,
    extra: dict[str, Any],
    *,
    reads_only: bool = False,
) -> "Gateway":
    import torch

    from lockgate.backbones import Backbone
    from lockgate.cli._scoring import load_guard
    from lockgate.gateway import Gateway

    if threads is not None:
        torch.set_num_threads(threads)
    if engine == "vllm":
        from lockgate.gateway.vllm import check_vllm, vllm_gateway

        check_vllm(options)  # before the model is loaded, which may take minutes
        # vLLM has the device. What stays in this process is on the processor, unless the option says more.
        place = ("cpu" if place[0] == "auto" else place[0], place[1])
        made = load_guard(guard, backbone, *place)
        gateway = vllm_gateway(made, guard, options, name=Path(guard).name, extra=extra)
    elif options.engine.mode == "off":
        loaded = Backbone.load(backbone, device=place[0], dtype=place[1])
        gateway = Gateway(loaded, None, options)
    else:
        made = load_guard(guard, backbone, *place)
        gateway = Gateway.from_guard(made, options, name=Path(guard).name, reads_only=reads_only)
    try:
        gateway.warm()
    except BaseException:
        gateway.close()
        raise
    return gateway


def _read_key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {path}: not readable ({type(error).__name__})") from error
    if not key:
        raise ConfigError(f"--api-key-file {path}: the file is empty; write the key into it")
    return key


def _announce(
    url: str, guard: str, gateway: "Gateway", upstream: "UpstreamOptions | None" = None, *, as_json: bool
) -> None:
    import json

    if as_json:
        told = {
            "url": url,
            "mode": gateway.mode,
            "model": gateway.model_id,
            "guard": gateway.about_guard,
            "decisions": str(gateway.decisions.path),
        }
        line = json.dumps(told if upstream is None else {**told, "upstream": upstream.url})
    else:
        shown = "none" if gateway.mode == "off" else f"guard {guard}"
        behind = "" if upstream is None else f" in front of {upstream.url}"
        about = gateway.about_guard or {}
        # The first line must say it: nobody knows how often this guard refuses harmless requests.
        doubt = "" if about.get("calibrated", True) else ", UNCALIBRATED: no false-refusal rate is claimed"
        line = f"Lockgate is ready: {url} ({shown}{behind}, mode {gateway.mode}{doubt})"
    typer.echo(line)


def _announce_passing(url: str, upstream: "UpstreamOptions", *, as_json: bool) -> None:
    import json

    told = {"url": url, "mode": "off", "guard": None, "upstream": upstream.url}
    line = f"Lockgate is ready: {url} (NO GUARD in front of {upstream.url}, mode off)"
    typer.echo(json.dumps(told) if as_json else line)
