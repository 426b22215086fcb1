"""Tenants at the door of a real server: keys, limits, and what an operator and a client see."""

import asyncio
import json

import httpx2
import openai
import pytest
from keyholders import Inline, Moment
from live import serving
from logs import decisions_in, text_of_log
from relaying import relayed
from scripted_upstream import Reply, chat_stream
from served import serving as run_server
from serving import CHAT, ask, client_for, decisions_of, eventually, path_of, scoring_for

from lockgate.decisions import LogOptions
from lockgate.gateway._attempts import MOST_ADDRESSES, MOST_ATTEMPTS, Attempts
from lockgate.gateway._clients import client_of_tenant
from lockgate.gateway._door import given_keys
from lockgate.gateway._logs import FIELDS
from lockgate.tenants import CampaignOptions, Settings, Sign, Tenants
from lockgate.tenants._campaigns import LEAST_EXCHANGES
from lockgate.tenants._pools import LEASE_SECONDS

TENANTS = ("acme", "other", "third")


class Estate:
    """Tenants in a database, each with one key, and the clock of their servers."""

    def __init__(self, where, settings):
        self.moment = Moment()
        self.tenants = Tenants(where, clock=self.moment, ticks=self.moment, background=Inline())
        self.tenants.open()
        self.prefixes, self.keys = {}, {}
        for name in TENANTS:
            self.tenants.add_tenant(name, settings.get(name, Settings()))
            info, key = self.tenants.create_key(name, "laptop")
            self.prefixes[name], self.keys[name] = info.prefix, key

    def headers(self, name):
        return {"Authorization": f"Bearer {self.keys[name]}"}


@pytest.fixture
def estate(tmp_path):
    made = []

    def make(**settings):
        made.append(Estate(tmp_path / f"operations-{len(made)}.db", settings))
        return made[-1]

    yield make
    for one in made:
        one.tenants.close()


@pytest.fixture
def make(make_gateway, backbone, head):
    return lambda estate, **options: make_gateway(
        backbone, scoring_for(backbone, head), tenants=estate.tenants, **options
    )


async def status(client, headers, **fields):
    return (await client.post(CHAT, json=ask(max_tokens=1, **fields), headers=headers)).status_code


@pytest.mark.anyio
async def test_keys_of_tenants_and_of_the_config_are_taken_side_by_side(estate, make):
    found = estate()
    gateway = make(found, keys={"team": "sesame"})
    async with client_for(gateway) as client:
        assert await status(client, found.headers("acme")) == 200
        assert await status(client, {"Authorization": "Bearer sesame"}) == 200
        assert await status(client, {"Authorization": f"Bearer {found.keys['acme'][:-1]}"}) == 401
        assert await status(client, {}) == 401
        assert (await client.get("/v1/models", headers=found.headers("other"))).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 403
    records = [(line["tenant"], line["key"]) for line in decisions_of(gateway)]
    assert records == [("acme", found.prefixes["acme"]), ("", "team")]
    held = text_of_log(path_of(gateway))
    assert held.count('"tenant":"acme"') == 2  # its begin and its decision
    assert found.keys["acme"].rpartition("_")[2] not in held
    assert "sesame" not in held


@pytest.mark.anyio
async def test_a_server_without_keys_records_none(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        assert await status(client, {}) == 200
    line = decisions_in(path_of(gateway))[0]
    assert (line["tenant"], line["key"]) == (None, None)


@pytest.mark.anyio
async def test_a_revoked_key_stops_within_the_time_of_the_memory(estate, make, tmp_path):
    found = estate()
    async with client_for(make(found)) as client:
        assert await status(client, found.headers("acme")) == 200
        with Tenants(found.tenants.database.place.path) as elsewhere:
            elsewhere.revoke_key(found.prefixes["acme"])
        found.moment.now += 1
        assert await status(client, found.headers("acme")) == 200
        found.moment.now += found.tenants.cache_seconds
        assert await status(client, found.headers("acme")) == 401
        assert await status(client, found.headers("other")) == 200


@pytest.mark.anyio
async def test_without_the_database_nobody_new_comes_in(estate, make):
    found = estate()
    async with client_for(make(found)) as client:
        assert await status(client, found.headers("acme")) == 200
        found.tenants.database.close()
        assert await status(client, found.headers("acme")) == 200
        answer = await client.post(CHAT, json=ask(), headers=found.headers("other"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "operations database" not in answer.text
        ready = (await client.get("/readyz")).json()
        assert ready["status"] == "degraded"
        assert ready["problems"] == ["the operations database can't be read"]
        found.moment.now += found.tenants.cache_seconds
        assert await status(client, found.headers("acme")) == 503
        found.tenants.database.open()
        found.moment.now += 1
        assert await status(client, found.headers("other")) == 200
        assert (await client.get("/readyz")).json()["problems"] == []


@pytest.mark.anyio
async def test_a_server_cut_off_from_its_limits_says_so_and_resumes(postgres, make_gateway, backbone, head):
    """The key is remembered all the time, so what refuses its requests is the lease that ran out."""
    moment = Moment()
    tenants = Tenants(postgres.database(), clock=moment, ticks=moment, cache_seconds=1e9)
    tenants.open()
    tenants.add_tenant("acme", Settings(concurrent=4))
    headers = {"Authorization": f"Bearer {tenants.create_key('acme', 'k')[1]}"}
    gateway = make_gateway(backbone, scoring_for(backbone, head), tenants=tenants)
    async with client_for(gateway) as client:
        assert await status(client, headers) == 200
        postgres.stop()
        try:
            moment.now += LEASE_SECONDS
            answer = await client.post(CHAT, json=ask(), headers=headers)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert ready.json()["problems"] == [
                "limits of tenants can't be renewed: tenants that have some may get 503"
            ]
        finally:
            postgres.start()
        await eventually(lambda: gateway.problems() == [])
        moment.now += 1
        assert await status(client, headers) == 200


@pytest.mark.anyio
async def test_limits_are_a_tenants_own(estate, make):
    limited = Settings(requests_per_minute=60, burst=2, longest_body=2000, longest_prompt=60)
    found = estate(acme=limited)
    async with client_for(make(found)) as client:
        acme, other = found.headers("acme"), found.headers("other")
        assert [await status(client, acme) for _ in range(3)] == [200, 200, 429]
        refused = await client.post(CHAT, json=ask(), headers=acme)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert [await status(client, other) for _ in range(4)] == [200] * 4
        found.moment.now += 60
        large, long = "a " * 1000, "lock " * 70
        assert (await client.post(CHAT, json=ask(large), headers=acme)).status_code == 413
        parts = (part for part in (b'{"messages": "', b"a" * 3000, b'"}'))

        async def pieces():
            for part in parts:
                yield part

        unsized = {**acme, "content-type": "application/json"}
        assert (await client.post(CHAT, content=pieces(), headers=unsized)).status_code == 413
        found.moment.now += 60
        answer = await client.post(CHAT, json=ask(long), headers=acme)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert await status(client, other) == 200


@pytest.mark.anyio
async def test_tokens_count_with_those_of_the_answer(estate, make):
    found = estate(acme=Settings(tokens_per_minute=60))
    async with client_for(make(found)) as client:
        body = ask(max_tokens=40)
        assert (await client.post(CHAT, json=body, headers=found.headers("acme"))).status_code == 200
        answer = await client.post(CHAT, json=body, headers=found.headers("acme"))
        assert answer.status_code == 429
        found.moment.now += int(answer.headers["retry-after"])
        assert await status(client, found.headers("acme")) == 200


@pytest.mark.anyio
async def test_a_slot_is_free_again_when_the_answer_is_over(estate, make):
    found = estate(acme=Settings(concurrent=1))
    limits = found.tenants.limits
    async with client_for(make(found)) as client:
        leave = limits.try_enter("acme", Settings(concurrent=1))
        assert await status(client, found.headers("acme")) == 429
        assert await status(client, found.headers("other")) == 200
        leave()
        assert await status(client, found.headers("acme")) == 200
        assert await status(client, found.headers("acme"), stream=True) == 200
        assert await status(client, found.headers("acme"), n=-1) == 400
    assert limits.in_use("acme") == 0


@pytest.mark.anyio
async def test_a_tenants_mode_holds_for_it_alone(estate, make_gateway, backbone, head):
    found = estate(acme=Settings(mode="shadow"))
    gateway = make_gateway(backbone, scoring_for(backbone, head, -1e9, flag_on="both"), tenants=found.tenants)
    async with client_for(gateway) as client:
        for name in ("acme", "other"):
            await client.post(CHAT, json=ask(max_tokens=2), headers=found.headers(name))
            checked = {"messages": ask()["messages"]}
            answer = await client.post("/v1/decisions", json=checked, headers=found.headers(name))
            assert answer.json()["mode"] == ("shadow" if name == "acme" else "enforce")
    lines = decisions_of(gateway)
    assert [(line["tenant"], line["mode"], line["enforced"]) for line in lines] == [
        ("acme", "shadow", False),
        ("acme", "shadow", False),
        ("other", "enforce", True),
        ("other", "enforce", True),
    ]


@pytest.mark.anyio
async def test_guessing_keys_is_stopped_and_those_at_work_go_on(estate, make):
    found = estate()
    long_key = "sesame-" + "x" * 20
    async with client_for(make(found, keys={"team": "sesame", "long": long_key})) as client:
        assert await status(client, found.headers("acme")) == 200
        for _ in range(3 * MOST_ATTEMPTS):
            assert await status(client, {}) == 401  # nobody guesses without a key
        codes = [await status(client, {"Authorization": f"Bearer {n}"}) for n in range(MOST_ATTEMPTS + 5)]
        assert codes[:MOST_ATTEMPTS] == [401] * MOST_ATTEMPTS
        assert set(codes[MOST_ATTEMPTS:]) <= {401, 429}
        assert codes[MOST_ATTEMPTS] == 429
        refused = await client.post(CHAT, json=ask(), headers={"Authorization": "Bearer wrong"})
        assert int(refused.headers["retry-after"]) >= 1
        # What is right is not told either, but for a key that is remembered and can't be guessed.
        assert await status(client, {"Authorization": "Bearer sesame"}) == 429
        assert await status(client, {"Authorization": f"Bearer {long_key}"}) == 200
        assert await status(client, found.headers("other")) == 429
        assert await status(client, found.headers("acme")) == 200


def test_attempts_come_back_with_time_and_their_memory_is_bounded():
    moment = Moment()
    attempts = Attempts(moment)
    for _ in range(MOST_ATTEMPTS):
        assert attempts.wait("a") == 0
        attempts.fail("a")
    assert attempts.wait("a") == pytest.approx(3)
    assert attempts.wait("b") == 0
    moment.now += 3
    assert attempts.wait("a") == 0
    for number in range(2 * MOST_ADDRESSES):
        attempts.fail(str(number))
    assert len(attempts) == MOST_ADDRESSES


def test_the_openai_client_sees_its_own_errors(estate, make):
    found = estate(acme=Settings(requests_per_minute=1))
    found.tenants.lock_key(found.prefixes["other"], found.moment.now + 60)
    with serving(make(found)) as url:

        def create(key):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                messages = [{"role": "user", "content": "why"}]
                return client.chat.completions.create(model="any", messages=messages, max_tokens=1)

        assert create(found.keys["acme"]).choices
        with pytest.raises(openai.RateLimitError) as caught:
            create(found.keys["acme"])
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["retry-after"] == "60"
        with pytest.raises(openai.AuthenticationError):
            create("lg_wrong")
        with pytest.raises(openai.PermissionDeniedError):
            create(found.keys["other"])


@pytest.mark.anyio
async def test_a_tenants_key_never_reaches_the_upstream(estate, make):
    found = estate()
    async with relayed(make(found), Reply([chat_stream(["well"])])) as (client, upstream):
        headers = {**found.headers("acme"), "x-api-key": found.keys["acme"]}
        assert await status(client, headers, stream=True) == 200
        assert upstream.requests
        assert found.keys["acme"] not in str((upstream.headers, upstream.requests, upstream.paths))


def test_the_command_asks_for_tenants_keys(folders, preloaded, tmp_path):
    """`lockgate serve --operations` as a process, open to other machines without any other key."""
    place = tmp_path / "operations.db"
    with Tenants(place) as tenants:
        tenants.add_tenant("acme", Settings(requests_per_minute=1))
        _, key = tenants.create_key("acme", "k")
    words = ("--operations", place, "--port", "0", "--host", "0.0.0.0", "--json")  # noqa: S104 - as a user does
    with run_server(preloaded, folders, *words) as (_, line):
        port = json.loads(line)["url"].rpartition(":")[2]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/v1/models").status_code == 401
            headers = {"Authorization": f"Bearer {key}"}
            assert client.get("/v1/models", headers=headers).status_code == 200
            assert client.get("/v1/models", headers=headers).status_code == 429


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_a_campaign_raises_an_alert_and_locks_its_key_out(
    estate, make_gateway, backbone, head, caplog, mode
):
    found = estate(acme=Settings(mode=mode))
    options = CampaignOptions(flags_per_hundred=50, lock_out_minutes=30)
    gateway = make_gateway(
        backbone, scoring_for(backbone, head, -1e9), tenants=found.tenants, campaigns=options
    )
    async with client_for(gateway) as client:
        assert await status(client, found.headers("other")) == 200
        for number in range(LEAST_EXCHANGES):
            assert await status(client, found.headers("acme")) == 200, number
        refused = await client.post(CHAT, json=ask(), headers=found.headers("acme"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_locked")
        assert int(refused.headers["retry-after"]) == 30 * 60
        assert await status(client, found.headers("other")) == 200
        [alert] = found.tenants.alerts()
        seen = (alert.tenant, alert.key, alert.signal, alert.value, alert.exchanges)
        assert seen == ("acme", found.prefixes["acme"], "flags", 100.0, LEAST_EXCHANGES)
        assert b'lockgate_campaign_alerts_total{signal="flags"} 1.0' in gateway.metrics.page()
        found.moment.now += 30 * 60
        assert await status(client, found.headers("acme")) == 200
    [record] = [one for one in caplog.records if one.name == "lockgate.campaigns"]
    told = getattr(record, FIELDS)
    assert (told["key"], told["signal"], told["locked"]) == (found.prefixes["acme"], "flags", True)
    assert "locked out" in record.getMessage()
    assert "why" not in f"{told} {record.getMessage()}"


@pytest.mark.anyio
async def test_one_prompt_from_several_tenants_raises_an_alert(estate, make_gateway, backbone, head):
    """Only the last turn counts: what all prompts have from the template makes none alike."""
    found = estate()
    gateway = make_gateway(
        backbone,
        scoring_for(backbone, head, -1e9),
        tenants=found.tenants,
        campaigns=CampaignOptions(duplicates=1),
    )
    words = "why does the lock hold the water back and let the boat through the upper gate at noon"
    async with client_for(gateway) as client:
        for name, text in (("acme", words), ("other", "how tall"), ("third", words)):
            body = ask(text, max_tokens=1)
            assert (await client.post(CHAT, json=body, headers=found.headers(name))).status_code == 200
    with Tenants(found.tenants.database.place.path) as later:
        await eventually(lambda: len(later.alerts()) == 1)
        assert [(alert.tenant, alert.signal) for alert in later.alerts()] == [("third", "duplicates")]


def test_tenants_share_the_engine_by_tenant(estate):
    found = estate()
    _, second = found.tenants.create_key("acme", "phone")
    callers = [found.tenants.identify(key) for key in (found.keys["acme"], second, found.keys["other"])]
    clients = [client_of_tenant(caller) for caller in callers if caller is not None]
    assert [client.name for client in clients] == ["tenant acme", "tenant acme", "tenant other"]
    assert len({client.key for client in clients}) == 3


@pytest.mark.anyio
async def test_an_alert_that_can_not_be_kept_is_told(estate, make_gateway, backbone, head, caplog):
    found = estate()
    options = CampaignOptions(flags_per_hundred=50, lock_out_minutes=30)
    gateway = make_gateway(
        backbone, scoring_for(backbone, head, -1e9), tenants=found.tenants, campaigns=options
    )
    async with client_for(gateway) as client:
        assert await status(client, found.headers("acme")) == 200
        found.tenants.database.close()
        for _ in range(LEAST_EXCHANGES):
            assert await status(client, found.headers("acme")) == 200
        found.tenants.database.open()
    [record] = [one for one in caplog.records if one.name == "lockgate.campaigns"]
    assert getattr(record, FIELDS)["locked"] is False
    assert "could not be kept: operations database" in record.getMessage()


@pytest.mark.anyio
async def test_old_alerts_go_with_old_records(estate, make, tmp_path):
    found = estate()
    for days in (31, 29):
        found.moment.now -= 86_400 * days
        found.tenants.add_alert("acme", found.prefixes["acme"], Sign("flags", 50.0, 10, 40))
        found.moment.now += 86_400 * days
    log = LogOptions(tmp_path / "kept.db", retention_days=30)
    async with client_for(make(found, log=log)):
        await eventually(lambda: len(found.tenants.alerts()) == 1)


@pytest.mark.anyio
async def test_a_request_for_many_answers_counts_once(estate, make_gateway, backbone, head):
    found = estate()
    scoring = scoring_for(backbone, head, -1e9)
    options = CampaignOptions(flags_per_hundred=50)
    gateway = make_gateway(backbone, scoring, tenants=found.tenants, campaigns=options)
    async with client_for(gateway) as client:
        for number in range(LEAST_EXCHANGES):
            assert found.tenants.alerts() == [], number
            response = await client.post(CHAT, json=ask(n=3, max_tokens=1), headers=found.headers("acme"))
            assert response.status_code == 200
        await eventually(lambda: [one.exchanges for one in found.tenants.alerts()] == [LEAST_EXCHANGES])


@pytest.mark.anyio
async def test_prompts_that_come_together_owe_no_more_than_one_of_them(estate, make):
    found = estate(acme=Settings(tokens_per_minute=10))
    async with client_for(make(found)) as client:
        asked = [client.post(CHAT, json=ask("why " * 40), headers=found.headers("acme")) for _ in range(4)]
        answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429]
    [code] = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429}
    assert code == "rate_limit_exceeded"


def test_keys_in_odd_headers_are_no_keys():
    for value in (b"", b"Bearer", b"bearer ", b"Basic abc", b"\xff\xfe"):
        scope = {"type": "http", "path": "/v1/models", "headers": [(b"authorization", value)]}
        assert given_keys(scope) == []
    many = [(b"x-api-key", str(number).encode()) for number in range(100)]
    assert len(given_keys({"type": "http", "path": "/v1/messages", "headers": many})) == 2
