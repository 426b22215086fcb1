"""The gateway on Ray Serve: gateways and scorers are deployments, each with replicas of its own.

A replica of the deployment `Scorer` holds no model. It hands out leases, and owns an actor (`Core`) with the
model, whom gateways call without a detour. A lease is one call of the deployment that lasts as long as the
client's request does. So Ray Serve's own means hold for streams: it spreads them, bounds them, scales by
their number, and lets them end before a replica goes.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lockgate._extras import need
from lockgate.errors import ConfigError
from lockgate.fleet._actors import Made, MadeApp, Proxy, Scorer

APP = "lockgate"
HEALTH_PERIOD, HEALTH_TIMEOUT = 2.0, 30.0
# Seconds that a replica has to end after its open answers.
LAST_WORDS = 10.0
# Share of a scorer's streams that is in use when another scorer is started.
FULL = 0.75
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Its HTTP servers must not believe a header about where a request comes from.
    "FORWARDED_ALLOW_IPS": "",
}
_ENVIRONMENT_LOCALLY = {
    # Ray's own switch for machines outside a cluster. Ray then listens on the loopback address alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Half a minute is too short on a busy machine.
    "RAY_gcs_server_port_wait_time_s": "120",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """How many replicas there are, and what each takes.

    Attributes:
        host, port: where the HTTP servers of Ray Serve listen.
        proxies: gateways.
        scorers: scorers; the least, if `most_scorers` is more.
        most_scorers: scorers under load.
        streams: answers that one scorer reads at a time. As many again may be open.
        scorer_cpus, scorer_gpus: what one scorer takes.
        requests: requests that one gateway takes at a time.
        drain_timeout: seconds that open answers have to end when a replica goes.
        address: a running cluster's address. None starts Ray on this machine.

    Raises:
        ConfigError: a number is out of its range.
    """

    host: str
    port: int
    proxies: int = 1
    scorers: int = 2
    most_scorers: int = 2
    streams: int
    scorer_cpus: int = 1
    scorer_gpus: float = 0.0
    requests: int = 1024
    drain_timeout: float = 30.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.proxies < 1 or self.scorers < 1:
            raise ConfigError("--proxies and --scorers: expected at least 1")
        if self.most_scorers < self.scorers:
            raise ConfigError(
                f"--most-scorers {self.most_scorers}: expected at least as many as --scorers {self.scorers}"
            )
        if self.scorer_cpus < 1 or self.scorer_gpus < 0:
            raise ConfigError("expected --scorer-cpus of at least 1 and --scorer-gpus of at least 0")


def run_on_ray(
    options: RayOptions,
    make_core: Callable[[], Made],
    make_app: Callable[[Any], MadeApp],
    *,
    ready: Callable[[str], None],
) -> None:
    """Run the app until the process is told to stop (SystemExit or KeyboardInterrupt).

    Args:
        make_core: loads a scorer's model, in its process. It must be importable there.
        make_app: makes a gateway, in its process, around Ray Serve's handle of the scorers.
        ready: called with the address once requests are taken.

    Raises:
        MissingExtra: Ray Serve is not installed.
        ConfigError: Ray or the app does not start, or Ray's authentication is turned off.
    """
    ray, serve = _load(local=options.address is None)
    with _own_end():
        _start_ray(ray, options)
    try:
        place = "HeadOnly" if options.address is None else "EveryNode"
        serve.start(proxy_location=place, http_options={"host": options.host, "port": options.port})
        try:
            serve.run(_app(serve, options, make_core, make_app), name=APP, route_prefix="/")
        except RuntimeError as error:
            raise ConfigError(f"the app did not start: {error}; Ray's logs of the replicas say why") from None
        host = f"[{options.host}]" if ":" in options.host else options.host
        ready(f"http://{host}:{options.port}")
        threading.Event().wait()
    finally:
        serve.delete(APP)
        ray.shutdown()


def _app(
    serve: Any,  # noqa: ANN401 - the module
    options: RayOptions,
    make_core: Callable[[], Made],
    make_app: Callable[[Any], MadeApp],
) -> Any:  # noqa: ANN401 - an application of Ray Serve
    leaves = {
        "graceful_shutdown_timeout_s": options.drain_timeout + LAST_WORDS,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": HEALTH_PERIOD,
        "health_check_timeout_s": HEALTH_TIMEOUT,
        "logging_config": {"enable_access_log": False},
    }
    takes = {"num_cpus": options.scorer_cpus, "num_gpus": options.scorer_gpus}
    bundle = {"CPU": float(options.scorer_cpus), "GPU": options.scorer_gpus}
    scaled: dict[str, Any] = {"num_replicas": options.scorers}
    if options.most_scorers > options.scorers:
        scaled = {
            "autoscaling_config": {
                "min_replicas": options.scorers,
                "max_replicas": options.most_scorers,
                "target_ongoing_requests": max(1.0, FULL * options.streams),
            }
        }
    scorer = serve.deployment(
        Scorer,
        name="Scorer",
        max_ongoing_requests=2 * options.streams,
        ray_actor_options={"num_cpus": 0},
        placement_group_bundles=[{name: share for name, share in bundle.items() if share}],
        placement_group_strategy="STRICT_PACK",
        **scaled,
        **leaves,
    )
    proxy = serve.deployment(
        serve.ingress()(Proxy),
        name="Proxy",
        num_replicas=options.proxies,
        max_ongoing_requests=options.requests,
        ray_actor_options={"num_cpus": 1},
        **leaves,
    )
    return proxy.bind(make_app, scorer.bind(make_core, takes))


@contextmanager
def _own_end() -> Iterator[None]:
    """Keep what SIGTERM does. Ray would print the stack, and end the process as if it had crashed."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _load(*, local: bool) -> tuple[Any, Any]:
    # Ray reads these when it is imported.
    for name, value in {**_ENVIRONMENT, **(_ENVIRONMENT_LOCALLY if local else {})}.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise ConfigError(
            "RAY_AUTH_MODE: replicas of Ray Serve listen on all addresses of a machine and run what they are "
            "sent; leave the variable out, or set it to token"
        )
    feature = "the app on Ray Serve"
    ray = need("ray", extra="ray", feature=feature)
    serve = need("ray.serve", extra="ray", feature=feature)
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray, serve


def _start_ray(ray: Any, options: RayOptions) -> None:  # noqa: ANN401 - the module
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if options.address is not None:
            ray.init(options.address, **quiet)
            return
        needed = options.proxies + options.most_scorers * options.scorer_cpus
        # Without "local" Ray would follow RAY_ADDRESS in the environment.
        ray.init("local", num_cpus=max(os.cpu_count() or 1, needed), include_dashboard=False, **quiet)
    except Exception as error:  # if its raylet starts late, Ray raises a plain Exception
        where = "on this machine" if options.address is None else f"at {options.address}"
        raise ConfigError(f"no Ray {where} ({type(error).__name__}: {error})") from error
