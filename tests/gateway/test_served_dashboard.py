"""`lockgate serve` with an operations database: requests of a tenant, and its reviewer's pages about them."""

import json
import re

import httpx2
from processes import Command
from served import save_strict
from serving import CHAT, ask

from lockgate.tenants import Settings, Tenants


def test_the_pages_are_about_each_guard_of_the_config_file(folders, preloaded):
    place, config = folders / "guards-operations.db", folders / "guards-pages.yaml"
    save_strict(folders, folders / "tight")
    with Tenants(place) as tenants:
        tenants.add_tenant("canal")
        tenants.add_tenant("mill", Settings(guard="strict"))
        client_key = tenants.create_key("mill", "app", "client")[1]
        admin = tenants.create_key("canal", "ada", "admin")[1]
    config.write_text(
        f"guard: {folders / 'guard'}\nguards: {{strict: tight}}\nbackbone: {folders / 'model'}\nthreads: 1\n"
        f"listen: {{port: 0}}\nlog: {{path: guards.db}}\noperations: {{path: {place.name}}}\n"
    )
    server = Command("lockgate", "serve", "--config", str(config), "--json", cwd=folders, preloaded=preloaded)
    try:
        url = json.loads(server.first_line())["url"]
        with httpx2.Client(base_url=url, timeout=30) as client:
            headers = {"authorization": f"Bearer {client_key}"}
            assert client.post(CHAT, json=ask("a boat", max_tokens=4), headers=headers).status_code == 200
            same = {"sec-fetch-site": "same-origin"}
            assert client.post("/admin/login", data={"key": admin}, headers=same).status_code == 303
            usual, strict = client.get("/admin/").text, client.get("/admin/?guard=strict").text
            assert ["Nothing under this guard" in text for text in (usual, strict)] == [True, False]
            assert "Guard tight, mode enforce" in strict
            assert "<h1>tight</h1>" in client.get("/admin/guard?guard=strict").text
            assert client.get("/admin/guard?guard=tight").status_code == 404
    finally:
        server.close()


def test_a_reviewer_judges_what_the_server_decided(folders, preloaded):
    place, config = folders / "pages-operations.db", folders / "pages.yaml"
    with Tenants(place) as tenants:
        for name in ("mill", "harbour"):
            tenants.add_tenant(name)
        clients = [tenants.create_key(name, "app", "client")[1] for name in ("mill", "harbour")]
        reviewer = tenants.create_key("mill", "ann", "reviewer")[1]
    config.write_text(
        f"guard: {folders / 'guard'}\nbackbone: {folders / 'model'}\nthreads: 1\nlisten: {{port: 0}}\n"
        f"log: {{path: pages.db, content: full}}\noperations: {{path: {place.name}}}\n"
    )
    server = Command("lockgate", "serve", "--config", str(config), "--json", cwd=folders, preloaded=preloaded)
    try:
        url = json.loads(server.first_line())["url"]
        with httpx2.Client(base_url=url, timeout=30) as client:
            for key in clients:
                headers = {"authorization": f"Bearer {key}"}
                assert client.post(CHAT, json=ask("a boat", max_tokens=8), headers=headers).status_code == 200
            page = client.get("/admin/")
            assert (page.status_code, page.headers["location"]) == (303, "/admin/login")
            same = {"sec-fetch-site": "same-origin"}
            assert client.post("/admin/login", data={"key": reviewer}, headers=same).status_code == 303
            overview = client.get("/admin/").text
            assert "Guard guard, mode enforce, tenant mill" in overview
            assert '<p class="figure">1</p>' in overview
            assert "claims no budget" in overview
            queue = client.get("/admin/review").text
            assert "a boat" in queue
            form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', queue))
            form |= {"verdict": "harmless"}
            assert client.post("/admin/review", data=form, headers=same).status_code == 303
            assert "Nothing is left to review" in client.get("/admin/review").text
            (line,) = client.get("/admin/review/export").text.splitlines()
            assert json.loads(line)["exchange"]["messages"][0]["content"] == "a boat"
            assert "Not calibrated" in client.get("/admin/guard").text
            # The playground and the API know nothing of the cookie.
            assert client.get("/v1/models").status_code == 401
    finally:
        server.close()
