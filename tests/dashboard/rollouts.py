"""A real gateway with its dashboard, guards to choose from, and the link that names one."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from desks import SAME_SITE
from logs import opened_log
from models import tiny_backbone
from parts import make_guard
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lockgate.calibration import choose_threshold
from lockgate.cli._serve_dashboard import GuardPlaces, dashboard_routes
from lockgate.decisions import GuardChange, LogOptions, open_log
from lockgate.gateway import Gateway, GatewayOptions, create_app
from lockgate.guards import Guard
from lockgate.rollout import GuardLink
from lockgate.tenants import Role, Tenants


def calibrated(seed: int) -> Guard:
    found = choose_threshold([i / 1000 for i in range(400)], [str(i) for i in range(400)], 0.05, 1e-3)
    return make_guard(tiny_backbone(), seed=seed).with_calibration(found)


def save_guards(folder: Path) -> Path:
    """Guards: two calibrated ones, one that is not, one for another model, and a damaged one."""
    for seed, name in enumerate(["first", "second"]):
        calibrated(seed).save(folder / name)
    make_guard(tiny_backbone(), seed=2).save(folder / "plain")
    make_guard(tiny_backbone(seed=1)).save(folder / "foreign")
    make_guard(tiny_backbone(), seed=3).save(folder / "damaged")
    (folder / "damaged" / "probe.safetensors").write_bytes(b"")
    return folder


@dataclass
class Site:
    """A gateway that runs the guard that a link names."""

    app: Starlette
    gateway: Gateway
    link: Path
    tenants: Tenants
    log: Path

    def key(self, name: str, role: Role) -> str:
        if not self.tenants.tenants():
            self.tenants.add_tenant("mill")
        return self.tenants.create_key("mill", name, role)[1]

    def signed_in(self, name: str, role: Role) -> TestClient:
        client = TestClient(self.app, base_url="http://127.0.0.1", headers=SAME_SITE, follow_redirects=False)
        assert client.post("/admin/login", data={"key": self.key(name, role)}).status_code == 303
        return client

    def runs(self) -> str:
        assert self.gateway.about_guard is not None
        return str(self.gateway.about_guard["sha256"])

    def changes(self) -> list[GuardChange]:
        import msgspec

        with open_log(self.log) as log:
            return [msgspec.convert(one.record, GuardChange) for one in log.records(kinds=["guard"])]


@contextmanager
def rollout_site(
    folder: Path,
    guards: Path | None = None,
    builds: tuple[str, ...] | None = None,
    *,
    begins: bool = True,
    content: str = "full",
) -> Iterator[Site]:
    """A site in a new folder. Without `guards` and `builds` the operator has allowed neither.

    Args:
        builds: what `lockgate build` gets.
        begins: whether the gateway runs. Otherwise whoever serves the application starts and ends it.
    """
    link, log = folder / "current", folder / "decisions.db"
    opened_log(log).close()
    first = (guards or save_guards(folder / "own")) / "first"
    GuardLink(link).promote(first)
    with Tenants(folder / "operations.db") as tenants:
        options = GatewayOptions(log=LogOptions(log, content=content), tenants=tenants)
        guard = Guard.load(link.resolve(), backbone=tiny_backbone())
        gateway = Gateway.from_guard(guard, options, name="first")
        work = None if builds is None else folder / "builds"
        places = None if guards is None else GuardPlaces(guards, link, work, builds or ())
        with dashboard_routes(tenants, gateway, places, None) as pages:
            app = create_app(gateway, None, pages)
            # A client as a context starts the gateway, and ends it.
            with TestClient(app) if begins else nullcontext():
                yield Site(app, gateway, link, tenants, log)
