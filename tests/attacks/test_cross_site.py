"""Other people's web pages against Dagster's: a real web server is asked what a browser can be made to ask."""

import asyncio
import contextlib
import ipaddress
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
import websockets
from structlog.testing import capture_logs
from websockets.sync.client import connect

from domain.doors import parse_origin
from orchestration.door import Door, Refused, Rules
from orchestration.instance import prepare_instance
from tests.walk.up import ROOT, free_port, wait_for

pytestmark = pytest.mark.timeout(600)

STOP = 'mutation{stopSensor(id:"x"){__typename}}'
ASK = {"query": "{version}"}
TOKEN = "a-token-of-more-than-thirty-two-characters"  # noqa: S105 - of the servers below


@contextmanager
def served(home, **settings):
    """Serve Dagster's pages from a process of their own; yield the port."""
    port = free_port()
    prepare_instance(home)
    env = {
        **os.environ, "TIDEMILL_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "TIDEMILL_MARKET": "simulated",
        "TIDEMILL_DAGSTER_PORT": str(port), **settings,
    }  # fmt: skip
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "orchestration.webserver"], cwd=ROOT, env=env, stderr=log)
    try:
        wait_for(f"an answer; its log: {home / 'log'}", 300, lambda: answered(port) or server.poll() is not None)
        assert server.poll() is None, (home / "log").read_text()
        yield port
    finally:
        server.terminate()
        try:
            server.wait(30)
        finally:
            server.kill()
            server.wait()


def answered(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).status_code
    except httpx.HTTPError:
        return None


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Return the port of a web server without a token, as `tidemill up` starts it."""
    with served(tmp_path_factory.mktemp("door")) as port:
        yield port


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Return the port of one that asks for a token, and listens on every network."""
    home = tmp_path_factory.mktemp("guarded")
    with served(home, TIDEMILL_DAGSTER_TOKEN=TOKEN, TIDEMILL_DAGSTER_HOST="0.0.0.0") as port:  # noqa: S104
        yield port


def url(port, path="/graphql"):
    return f"http://127.0.0.1:{port}{path}"


def test_what_the_page_itself_asks_is_answered(port):
    ours = {"origin": f"http://127.0.0.1:{port}"}
    assert httpx.post(url(port), json=ASK, headers=ours).json()["data"]["version"]
    local = {"host": f"localhost:{port}", "origin": f"http://localhost:{port}"}
    assert httpx.post(url(port), json=ASK, headers=local).status_code == 200
    assert "text/html" in httpx.get(url(port, "/"), headers={"accept": "text/html"}).headers["content-type"]
    assert httpx.get(url(port), headers={"accept": "text/html"}).status_code == 200, "GraphiQL"


def test_an_image_on_another_page_changes_nothing(port):
    for query in (STOP, "{version}"):
        answer = httpx.get(url(port), params={"query": query})
        assert answer.status_code == 405, answer.text
        assert "POST" in answer.json()["error"]
    encoded = httpx.get(url(port) + "?%71uery=%7Bversion%7D")
    assert encoded.status_code == 405


def test_a_form_on_another_page_changes_nothing(port):
    body = json.dumps({"query": STOP})
    for kind in ("text/plain", "text/plain; application/json", "application/graphql", "application/jsonx", ""):
        answer = httpx.post(url(port), content=body, headers={"content-type": kind} if kind else {})
        assert answer.status_code == 415, (kind, answer.text)
    for path in ("/report_asset_materialization/bars", "/report_asset_check/bars", "/report_asset_observation/bars"):
        assert httpx.post(url(port, path) + "?metadata=1").status_code == 415


def test_a_name_that_was_rebound_to_this_machine_is_not_answered(port):
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"127.0.0.1:{port + 1}", ""):
        for path in ("/server_info", "/", "/graphql"):
            answer = httpx.get(url(port, path), headers={"host": host})
            assert answer.status_code in {400, 403}, (host, path)


def test_a_page_of_another_origin_is_refused(port):
    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"):
        answer = httpx.post(url(port), json=ASK, headers={"origin": origin})
        assert answer.status_code == 403, (origin, answer.text)


def test_what_a_browser_says_another_site_asked_for_is_refused_but_a_link_may_be_followed(port):
    for site in ("cross-site", "same-site"):  # such as a page of another port of this machine
        for path in ("/logs/x/y/stdout", "/download_debug/x", "/"):
            image = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
            assert httpx.get(url(port, path), headers=image).status_code == 403, (site, path)
        frame = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
        assert httpx.get(url(port, "/"), headers=frame).status_code == 403
        link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert httpx.get(url(port, "/runs"), headers=link).status_code == 200
    ours = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
    assert httpx.post(url(port), json=ASK, headers=ours).status_code == 200


def test_a_websocket_from_another_page_is_not_opened(port):
    address = f"ws://127.0.0.1:{port}/graphql"
    with connect(address, subprotocols=["graphql-ws"], origin=f"http://127.0.0.1:{port}") as ours:
        ours.send(json.dumps({"type": "connection_init"}))
        assert json.loads(ours.recv(30))["type"] == "connection_ack"
    for origin in ("https://evil.example", "null"):
        with (
            pytest.raises(websockets.exceptions.InvalidStatus, match="403"),
            connect(address, subprotocols=["graphql-ws"], origin=origin),
        ):
            pass


def test_other_methods_huge_bodies_and_paths_that_lead_out_are_refused(port):
    assert httpx.put(url(port), json=ASK).status_code == 405
    assert httpx.delete(url(port, "/")).status_code == 405
    huge = httpx.post(url(port), content=b" " * 11_000_000, headers={"content-type": "application/json"})
    assert huge.status_code == 413
    for path in ("/logs/%2e%2e/%2e%2e/model/key", "/logs/..%2f..%2fmodel/key"):
        assert httpx.get(url(port, path)).status_code == 403


def test_with_a_token_only_who_shows_it_is_let_in(guarded):
    assert httpx.post(url(guarded), json=ASK).status_code == 401
    assert httpx.post(url(guarded), json=ASK, headers={"authorization": "Bearer " + "x" * 42}).status_code == 401
    assert httpx.post(url(guarded), json=ASK, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    address = f"ws://127.0.0.1:{guarded}/graphql"
    with (
        pytest.raises(websockets.exceptions.InvalidStatus, match="403"),
        connect(address, subprotocols=["graphql-ws"]),
    ):
        pass


def test_a_browser_logs_in_once_and_its_cookie_opens_pages_and_websocket(guarded):
    with httpx.Client(base_url=f"http://127.0.0.1:{guarded}", headers={"accept": "text/html"}) as browser:
        assert "Token of this mill" in browser.get("/runs").text
        assert browser.post("/login", data={"token": "wrong"}).status_code == 401
        entered = browser.post("/login", data={"token": TOKEN})
        assert entered.status_code == 303
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert browser.post("/graphql", json=ASK).status_code == 200
        said = f"tidemill_session={browser.cookies['tidemill_session']}"
    address = f"ws://127.0.0.1:{guarded}/graphql"
    with connect(address, subprotocols=["graphql-ws"], additional_headers={"cookie": said}) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(30))["type"] == "connection_ack"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TIDEMILL_DAGSTER_HOST": "0.0.0.0"}, "TIDEMILL_DAGSTER_TOKEN"),  # noqa: S104
        ({"TIDEMILL_DAGSTER_HOST": "::", "TIDEMILL_DAGSTER_PUBLIC": "https://mill.example"}, "TIDEMILL_DAGSTER_PROXY"),
        ({"TIDEMILL_DAGSTER_HOST": "example"}, "not an IP address"),
        ({"TIDEMILL_DAGSTER_TOKEN": "short"}, "at least 32"),
        ({"TIDEMILL_DAGSTER_PUBLIC": "mill.example/path"}, "not an origin"),
        ({"TIDEMILL_DAGSTER_PROXY": "10.0.0"}, "not an address or network"),
    ],
)
def test_beyond_this_machine_it_opens_only_with_a_token_or_behind_a_proxy(tmp_path, settings, words):
    env = {**os.environ, "TIDEMILL_HOME": str(tmp_path), **settings}
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.webserver"], cwd=ROOT, env=env, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert words in line
    assert "short" not in line.replace("shorter", "")


@pytest.mark.parametrize(
    ("origin", "enters"),
    [("https://mill.example", True), ("http://mill.example", False), ("http://localhost:3000", True)],
)
def test_a_published_name_is_an_origin_under_its_own_scheme_alone(origin, enters):
    rules = Rules(3000, public=parse_origin("https://mill.example:443/"))
    kind = (b"content-type", b"application/json")
    headers = [(b"host", b"mill.example"), (b"origin", origin.encode()), kind]
    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": headers, "server": ("127.0.0.1", 3000)}
    with contextlib.nullcontext() if enters else pytest.raises(Refused, match="may not use this server"):
        rules.check(scope)


def test_on_port_80_the_host_has_no_port_and_a_connection_without_a_peer_is_no_proxy():
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "server": ("127.0.0.1", 80)}
    scope["headers"] = [(b"host", b"localhost")]
    Rules(80).check(scope)
    with pytest.raises(Refused, match="proxies"):
        Rules(80, peers=(ipaddress.ip_network("10.0.0.0/8"),)).check({**scope, "client": None})


def test_the_log_of_a_refusal_holds_nothing_that_a_terminal_obeys():
    async def refuse():
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/\x1b]0;evil\x07",
            "query_string": b"",
            "server": ("::1", 80),
        }
        scope |= {"headers": [(b"host", b"evil.example")], "client": ("127.0.0.1", 1)}

        async def nothing(*_):
            return {}

        await Door(nothing, Rules(3000))(scope, nothing, nothing)

    with capture_logs() as logs:
        asyncio.run(refuse())
    assert [entry["path"] for entry in logs] == ["/\\x1b]0;evil\\x07"]
