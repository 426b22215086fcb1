"""Three tenants in any order of calls: none reaches what is another's."""

import asyncio
import itertools
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from keyholders import Inline, Moment
from logs import decisions_in
from serving import client_for, scoring_for
from test_conversations import ANSWER, BACKBONE, HEAD, HEADER, MEMORY, PROMPT
from test_given import smoothed

from lockgate.decisions import LogOptions
from lockgate.gateway import Conversations, Gateway, GatewayOptions
from lockgate.tenants import Settings, Tenants

PATH = "/v1/decisions"
# The exchange that conversations repeat stays this far below the threshold.
MARGIN = 0.45
FLAG = max(smoothed(PROMPT, ANSWER)) + MARGIN
BURSTS = {"acme": 3, "other": 6, "third": 100}
MODES = {"acme": "shadow", "other": None, "third": "enforce"}
CALLS = st.lists(
    st.tuples(
        st.sampled_from(sorted(BURSTS)),
        st.sampled_from(["judge", "open", "go on", "steal"]),
        st.integers(0, 3),
    ),
    max_size=14,
)


class World:
    """A server with three tenants, and a plain account of what each of them must meet."""

    def __init__(self, client, tenants: Tenants) -> None:
        self.client = client
        self.keys, self.prefixes = {}, {}
        for name, burst in BURSTS.items():
            limits = Settings(mode=MODES[name], requests_per_minute=0.001, burst=burst)
            tenants.add_tenant(name, limits)
            info, self.keys[name] = tenants.create_key(name, "k")
            self.prefixes[name] = info.prefix
        self.left = dict(BURSTS)
        self.evidence = dict.fromkeys(BURSTS, 0.0)
        self.open: dict[str, list[str]] = {name: [] for name in BURSTS}
        self.lowered: dict[str, list[float]] = {name: [] for name in BURSTS}
        self.records: Counter[str] = Counter()

    async def call(self, name: str, **fields):
        """Make a call as a tenant. None: its own limit must have refused it, and did."""
        headers = {"Authorization": f"Bearer {self.keys[name]}"}
        if "id" not in fields:
            headers[HEADER] = "the same id"
        answer = await self.client.post(PATH, json=fields, headers=headers)
        if not self.left[name]:
            assert answer.status_code == 429
            return None
        self.left[name] -= 1
        return answer

    async def judge(self, name: str) -> None:
        """Judge an exchange in a conversation that all tenants give the same id."""
        messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWER}]
        answer = await self.call(name, messages=messages)
        if answer is not None:
            found = answer.json()
            assert found["mode"] == (MODES[name] or "enforce")
            lowered = MEMORY.lowered(self.evidence[name])
            assert (found["decision"] == "halt") == (lowered > MARGIN)
            self.evidence[name] = MEMORY.add(self.evidence[name], -MARGIN)
            self.lowered[name].append(round(lowered, 6))
            self.records[name] += 1

    async def begin(self, name: str) -> None:
        answer = await self.call(name, messages=[{"role": "user", "content": PROMPT}], open=True)
        if answer is not None:
            assert answer.status_code == 200
            assert answer.json()["mode"] == (MODES[name] or "enforce")
            self.open[name].append(answer.json()["id"])
            self.lowered[name].append(round(MEMORY.lowered(self.evidence[name]), 6))
            self.records[name] += 1

    async def go_on(self, name: str, owner: str, number: int) -> None:
        """Go on with a check. One of another tenant must look as if it were not there."""
        if not self.open[owner]:
            return
        known = self.open[owner][number % len(self.open[owner])]
        answer = await self.call(name, id=known, text="The lock")
        if answer is not None:
            assert answer.status_code == (200 if name == owner else 404)
            if name != owner:
                assert answer.json()["error"]["code"] == "unknown_check"

    async def step(self, name: str, what: str, number: int) -> None:
        others = itertools.cycle(other for other in sorted(BURSTS) if other != name)
        if what == "judge":
            await self.judge(name)
        elif what == "open":
            await self.begin(name)
        elif what == "go on":
            await self.go_on(name, name, number)
        else:
            await self.go_on(name, next(itertools.islice(others, number % 2, None)), number)


@given(calls=CALLS)
@settings(max_examples=12)
def test_no_tenant_meets_what_is_anothers(calls) -> None:
    with TemporaryDirectory() as folder:
        moment, log = Moment(), Path(folder) / "decisions.db"
        tenants = Tenants(Path(folder) / "operations.db", clock=moment, ticks=moment, background=Inline())
        options = GatewayOptions(
            log=LogOptions(log), tenants=tenants, conversations=Conversations(MEMORY), loopback=True
        )
        gateway = Gateway(BACKBONE, scoring_for(BACKBONE, HEAD, FLAG), options)

        async def run() -> World:
            async with client_for(gateway) as client:
                world = World(client, tenants)
                for call in calls:
                    await world.step(*call)
                return world

        world = asyncio.run(run())
        records = decisions_in(log) if world.records else []
    assert Counter(record["tenant"] for record in records) == +world.records
    for record in records:
        assert record["key"] == world.prefixes[record["tenant"]]
        assert record["mode"] == (MODES[record["tenant"]] or "enforce")
    for name, lowered in world.lowered.items():
        told = sorted(round(record["lowered"], 6) for record in records if record["tenant"] == name)
        assert told == sorted(lowered)
