"""The end of the server: what is still open says that it is not whole."""

import json
import threading
import time

import httpx2
from live import Valve
from serving import CHAT, ask, decisions_of, scoring_for
from test_connections import QUICK

from lockgate.gateway import bind, create_app, url_of
from lockgate.gateway._server import make_server


def test_open_streams_end_in_their_shape_and_waiting_requests_are_503(make_gateway, backbone, head):
    valve = Valve(backbone, head)
    valve.let_through(4)
    gateway = make_gateway(backbone, scoring_for(backbone, head, tap=valve, min_tokens=1), max_streams=1)
    ready = threading.Event()
    server = make_server(
        create_app(gateway),
        ready=ready.set,
        drain_timeout=1,
        limits=QUICK,
        end_open=gateway.engine.end_open,
    )
    found = {}

    def ask_for(name, **fields):
        with httpx2.Client(base_url=url, timeout=60) as client:
            found[name] = client.post(CHAT, json=ask(max_tokens=80, **fields))

    with bind("127.0.0.1", 0) as bound:
        url = url_of(bound)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        assert ready.wait(30)
        clients = [threading.Thread(target=ask_for, args=("stream",), kwargs={"stream": True})]
        clients[0].start()
        while gateway.engine.active_streams < 1:
            time.sleep(0.02)
        clients.append(threading.Thread(target=ask_for, args=("waiting",)))
        clients[1].start()
        while gateway.engine.waiting < 1:
            time.sleep(0.02)
        server.should_exit = True
        for client in clients:
            client.join(30)
        valve.open()
        thread.join(30)
        assert not thread.is_alive()
    events = [line for line in found["stream"].text.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "unavailable"
    assert json.loads(events[0].removeprefix("data: "))["choices"]
    assert found["waiting"].status_code == 503
    assert int(found["waiting"].headers["retry-after"]) >= 1
    assert found["waiting"].json()["error"]["code"] == "unavailable"
    lines = decisions_of(gateway)
    assert [(line["decision"], line["reason"]) for line in lines] == [("cancelled", "unavailable")] * 2
