"""Several guards in one server: each tenant's requests are judged by its own guard, and by no other."""

import asyncio
import json
import math
import threading
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from given import give
from hypothesis import given, settings
from hypothesis import strategies as st
from keyholders import Inline, Moment
from logs import decisions_in
from models import random_head
from relaying import relayed
from scripted_upstream import Reply, chat_stream
from serving import CHAT, NEVER, ask, client_for, decisions_of, events_of, eventually, scoring_for, text_of
from staging import staged, until
from test_conversations import MEMORY
from test_handover import (
    ANSWER,
    BACKBONE,
    BOTH,
    OTHER,
    PROBE,
    TEXTS,
    alone,
    asked,
    guard,
    same,
    seen_in,
)
from test_served_metrics import read, value

from lockgate.decisions import LogOptions
from lockgate.errors import ConfigError
from lockgate.gateway import Conversations, EngineOptions, Gateway, GatewayOptions
from lockgate.gateway._clients import Client
from lockgate.gateway._errors import ApiError
from lockgate.gateway._guards import TOLD_SECONDS, Guards
from lockgate.tenants import Settings, Tenants

pytestmark = pytest.mark.anyio
# Each tenant's guard: the name in the config, and what kind it is.
NAMES = {"acme": None, "other": "strict", "third": "kids"}
KINDS = {"acme": PROBE, "other": OTHER, "third": BOTH}
ALL = "".join(ANSWER)


def gateway_in(folder, tenants=None, kinds=KINDS, **options) -> Gateway:
    """A gateway whose default guard is the first of `kinds`."""
    engine = EngineOptions(**{name: options.pop(name) for name in ("max_streams", "mode") if name in options})
    chosen = GatewayOptions(log=LogOptions(Path(folder) / "decisions.db"), engine=engine, tenants=tenants, **options)
    first, *more = kinds.values()
    gateway = Gateway(BACKBONE, guard(first), chosen)
    for name, kind in zip([name for name in NAMES.values() if name], more, strict=False):
        gateway._add(name, guard(kind))
    return gateway


@contextmanager
def running(folder, **options):
    gateway = gateway_in(folder, **options)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.close()


def client_of(tenant: str) -> Client:
    return Client(f"tenant {tenant}", tenant, "key", Settings(guard=NAMES[tenant]))


runs_of = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), st.sampled_from(TEXTS), st.sampled_from([1, 2]), st.booleans()),
    min_size=2,
    max_size=7,
)


@settings(max_examples=8, deadline=None)
@given(wanted=runs_of, parts=st.integers(0, len(ANSWER)))
def test_answers_at_the_same_time_are_each_that_of_their_own_guard(wanted, parts) -> None:
    """Served and given answers of three guards run at once. Each equals that of its guard alone."""
    runs = [asked(number, *one[1:3], is_given=one[3]) for number, one in enumerate(wanted)]
    with TemporaryDirectory() as folder:
        with running(folder, max_streams=2) as gateway:
            engines = [gateway.of(client_of(tenant)).engine for tenant, *_ in wanted]
            for run, engine, (tenant, *_) in zip(runs, engines, wanted, strict=True):
                run.job.tenant = tenant
                engine.submit(run.job)
            for part in (slice(parts), slice(parts, None)):
                for run, engine in zip(runs, engines, strict=True):
                    for choice in range(run.job.n if run.job.intakes else 0):
                        for text in ANSWER[part]:
                            engine.give(run.job, choice, text)
            for run, engine in zip(runs, engines, strict=True):
                if run.job.intakes:
                    for choice in range(run.job.n):
                        engine.end_given(run.job, choice, "stop")
                run.finish()
        log = decisions_in(Path(folder) / "decisions.db")
    assert BACKBONE.tap is None
    assert len(log) == sum(run.job.n for run in runs)
    for record in log:
        number = int(record["id"].removeprefix("job-"))
        tenant, text, n, is_given = wanted[number]
        assert (record["tenant"], record["guard"]) == (tenant, KINDS[tenant])
        found = seen_in({**record, "tenant": None}, runs[number])
        assert same(found, alone(KINDS[tenant], text, n, is_given)[record["choice"]])
