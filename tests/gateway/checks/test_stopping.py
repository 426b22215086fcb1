"""A server that stops gives no check a pass."""

import asyncio

import pytest
from checking import ANSWER, BACKBONE, HEAD, PROMPT
from serving import client_for, decisions_of, scoring_for
from taps import StuckTap

pytestmark = pytest.mark.anyio

BODIES = {
    "/v1/moderations": {"input": ANSWER},
    "/v1/decisions": {"messages": [*PROMPT, {"role": "assistant", "content": ANSWER}]},
    "/beta/litellm_basic_guardrail_api": {
        "input_type": "response",
        "litellm_call_id": "one",
        "texts": [ANSWER],
    },
}


@pytest.mark.parametrize("path", BODIES)
async def test_a_check_that_the_server_ends_is_a_503(make_gateway, path):
    tap = StuckTap([HEAD], BACKBONE.hidden_size)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap))
    async with client_for(gateway) as client:
        tap.stuck.set()
        call = asyncio.create_task(client.post(path, json=BODIES[path]))
        async with asyncio.timeout(20):
            while not gateway.engine.active_streams:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(gateway.engine.end_open)
        tap.go.set()
        response = await call
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert decisions_of(gateway)[0]["decision"] == "cancelled"
