"""Requests against a real server that behaves as badly as real ones do."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from email.utils import formatdate

import pytest
from starlette.responses import RedirectResponse

from domain.errors import Unavailable, UsageError
from markets.rest import RestClient
from tests.markets.servers import Cut, Slept, Slow, html, json, serving

pytestmark = pytest.mark.process

LIMIT = 6_000


def asked(server, *paths, slept=None, weight=1, limit=LIMIT, **options):
    """Return the answers to some paths, asked one after the other by one client."""

    async def run():
        async with RestClient(server.url, limit, timing=(slept or Slept()).timing, **options) as rest:
            return [await rest.get(path, {"symbol": "BTCUSDT"}, weight) for path in paths]

    return asyncio.run(run())


def refused(url, kind=Unavailable, **options) -> str:
    """Return the one line that a request ends with."""

    async def run():
        async with RestClient(url, LIMIT, **{"timing": Slept().timing, **options}) as rest:
            await rest.get("/api/v3/time", {"a": 1}, 1)

    with pytest.raises(kind) as caught:
        asyncio.run(run())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_request_arrives_as_asked_and_its_answer_comes_back():
    with serving(lambda asked: json('{"serverTime":1}')) as server:
        assert asked(server, "/api/v3/time") == [b'{"serverTime":1}']
        [request] = server.asked
        assert (request.path, request.params) == ("/api/v3/time", {"symbol": "BTCUSDT"})


TROUBLES = {
    "an internal error": lambda: json('{"code":-1001,"msg":"Internal error"}', 500),
    "a firewall": lambda: html(403, "The request could not be satisfied"),
    "a refusal that is the server's": lambda: json('{"code":-1001,"msg":"Internal error"}', 400),
    "a path that a gateway has lost": lambda: json("", 404),
    "an overload": lambda: json('{"code":-1008,"msg":"Server is currently overloaded"}', 503),
    "a gateway's page": lambda: html(502, "Bad gateway"),
    "maintenance": html,
    "a login page": lambda: RedirectResponse("http://hotel.example/login"),
    "half an answer": lambda: Cut(b'{"serverTime"', 100),
    "no answer": Slow,
    "too many requests": lambda: json('{"code":-1003,"msg":"Too many requests"}', 429),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_may_pass_is_asked_again(trouble, monkeypatch):
    monkeypatch.setattr("markets.rest.TIMEOUT_S", 0.3)
    slept = Slept()
    with serving(lambda asked: json("[1]"), [TROUBLES[trouble](), TROUBLES[trouble]()]) as server:
        assert asked(server, "/", slept=slept) == [b"[1]"]
        assert len(server.asked) == 3
        assert slept.waits[:1] == [0.25]  # half of the first back-off


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (lambda: html(503), "answers 503 (Scheduled maintenance); it may be in maintenance, try again later"),
        (html, "answers a page instead of data (Scheduled maintenance): it is in maintenance"),
        (lambda: json('{"code":-1001,"msg":"Internal\\nerror"}', 500), "answers 500 (Internal error)"),
        (lambda: RedirectResponse("http://hotel.example/login"), "sends to http://hotel.example/login instead"),
        (lambda: Cut(b"{", 100), "breaks off its answer"),
    ],
)
def test_what_does_not_pass_is_one_line(trouble, words):
    slept = Slept()
    with serving(lambda asked: trouble()) as server:
        message = refused(server.url, timing=slept.timing)
        assert message.startswith(f"{server.url.removeprefix('http://')} ")
        assert words in message
        assert len(server.asked) > 3
    assert slept.now - 1_000 <= 120


def test_who_serves_nobody_here_is_not_asked_again():
    answer = json('{"code":0,"msg":"Service unavailable from a restricted location"}', 451)
    with serving(lambda asked: answer) as server:
        assert "does not serve this country (Service unavailable from a restricted" in refused(server.url)
        assert len(server.asked) == 1


def test_a_silent_server_is_not_waited_for_beyond_patience():
    with serving(lambda asked: Slow()) as server:
        message = refused(server.url, patience_s=0.2)
    assert message == f"{server.url.removeprefix('http://')} does not answer within 0.2 s; check the connection"


def limited(seconds):
    return json('{"code":-1003,"msg":"Too much request weight used"}', 429, retry_after=str(seconds))


def test_the_exchange_says_how_long_to_wait():
    slept = Slept()
    with serving(lambda asked: json("{}"), [limited(37)]) as server:
        asked(server, "/", slept=slept)
        assert len(server.asked) == 2
    assert slept.waits[0] == 37.0


def test_all_requests_wait_when_one_was_told_to():
    """An exchange bans who asks on."""
    slept = Slept()

    async def run(server):
        async with RestClient(server.url, LIMIT, timing=slept.timing) as rest:
            with pytest.raises(Unavailable, match="too many requests"):
                await rest.get("/first", {}, 1)  # 300 s are more than its patience
            slept.now = 1_250.0
            await rest.get("/second", {}, 1)

    with serving(lambda asked: json("{}"), [limited(300)]) as server:
        asyncio.run(run(server))
        assert server.paths == ["/first", "/second"]
    assert slept.waits == pytest.approx([50.0])


def test_a_wait_may_be_told_as_a_date():
    slept = Slept()
    until = json("{}", 429, retry_after=formatdate(1_700_000_021, usegmt=True))
    with serving(lambda asked: json("{}"), [until]) as server:
        asked(server, "/", slept=slept)
    assert slept.waits[0] == 21.0


def test_a_ban_says_until_when_and_is_not_asked_through():
    banned = json('{"code":-1003,"msg":"Way too much request weight used; IP banned"}', 418, retry_after="7200")
    with serving(lambda asked: banned) as server:
        slept = Slept()

        async def run():
            async with RestClient(server.url, LIMIT, timing=slept.timing) as rest:
                for _ in range(3):
                    with pytest.raises(Unavailable, match="has banned this address until 2023-11-15 00:13:20 UTC"):
                        await rest.get("/", {}, 1)

        asyncio.run(run())
        assert len(server.asked) == 1
    assert sum(slept.waits) < 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json('{"code":-1121,"msg":"Invalid symbol."}', 400), "with 400: Invalid symbol."),
        (json('{"code":-1100,"msg":"Illegal characters."}', 403), "with 403: Illegal characters."),
    ],
)
def test_a_refused_request_is_said_in_the_exchanges_words_and_not_repeated(answer, words):
    with serving(lambda asked: answer) as server:
        message = refused(server.url, UsageError)
        assert words in message
        assert f"{server.url}/api/v3/time?a=1" in message
        assert len(server.asked) == 1


def test_a_burst_is_let_through_and_the_rest_is_paced():
    slept = Slept()
    with serving(lambda asked: json("{}")) as server:
        asked(server, *["/"] * 30, slept=slept, limit=60)
    assert len(server.asked) == 30
    assert sum(slept.waits) == pytest.approx(15 / 0.75)


def test_what_others_spend_at_this_address_counts():
    slept = Slept()
    with serving(lambda asked: json("{}", x_mbx_used_weight_1m="5985")) as server:
        asked(server, "/", "/", slept=slept, weight=25)
    assert sum(slept.waits) == pytest.approx(10 / 75, abs=0.002)


def test_long_waits_are_told_but_not_all_of_them():
    slept, told = Slept(lambda: 0.99), []
    with serving(lambda asked: json("{}", 503)) as server:
        refused(server.url, timing=slept.timing, tell=told.append)
    assert 2 <= len(told) < len(server.asked) - 1
    assert all("asking again in" in line for line in told)


def test_no_internet_is_one_line():
    message = refused("https://api.nowhere.invalid", patience_s=1.0)
    assert message == "api.nowhere.invalid cannot be found: no internet or no DNS here; check the connection"


def test_nobody_there_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert refused(f"http://127.0.0.1:{port}", patience_s=1.0).startswith(f"127.0.0.1:{port} cannot be reached (")


@pytest.fixture
def refusing_proxy():
    """A proxy that lets nothing through."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def serve():
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{proxy.getsockname()[1]}"
        proxy.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_proxy_that_refuses_is_one_line_and_not_asked_again(refusing_proxy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", refusing_proxy)
    slept = Slept()
    message = refused("https://api.exchange.example", timing=slept.timing)
    assert message == (
        "the proxy does not let through to api.exchange.example (403 Forbidden); check HTTPS_PROXY and its rules"
    )
    assert slept.waits == []


def test_loopback_is_asked_without_the_proxy(refusing_proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", refusing_proxy)
    with serving(lambda asked: json("[]")) as server:
        assert asked(server, "/") == [b"[]"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "SOCKS"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:1", "ftp"),
        ("SSL_CERT_FILE", "/nowhere/authorities.pem", "No such file"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_line(name, value, words, monkeypatch):
    monkeypatch.setenv(name, value)
    message = refused("https://api.exchange.example", UsageError)
    assert message.startswith("api.exchange.example cannot be asked: ")
    assert words in message
    assert "check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE" in message


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Return the key and the certificate of one day of 2020, and of these years."""
    folder = tmp_path_factory.mktemp("certificates")
    config = folder / "openssl.cnf"
    config.write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
        "policy=any\nx509_extensions=names\nunique_subject=no\n[any]\ncommonName=supplied\n[names]\n"
        "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:TRUE\n[req]\ndistinguished_name=name\n[name]\n"
    )
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    run = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
           "-keyout", "key.pem", "-out", "r.csr", "-subj", "/CN=localhost", "-config", config]  # fmt: skip
    try:
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here")
    for name, until in (("old", "200102000000Z"), ("now", "491231235959Z")):
        run = ["openssl", "ca", "-batch", "-selfsign", "-config", config, "-keyfile", "key.pem", "-in", "r.csr",
               "-out", f"{name}.pem", "-startdate", "200101000000Z", "-enddate", until, "-notext"]  # fmt: skip
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
    return folder


def test_a_certificate_of_another_time_points_at_the_clock(certificates, monkeypatch):
    old = certificates / "old.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(old))
    monkeypatch.setattr("markets.rest.LOOPBACK", frozenset())
    with serving(lambda asked: json("[]"), ssl_certfile=old, ssl_keyfile=certificates / "key.pem") as server:
        message = refused(server.url)
    assert "is not valid at this time; check this machine's clock, which says 20" in message


def test_a_certificate_of_an_unknown_authority_says_what_to_set(certificates):
    now = certificates / "now.pem"
    with serving(lambda asked: json("[]"), ssl_certfile=now, ssl_keyfile=certificates / "key.pem") as server:
        message = refused(server.url)
    assert "is not trusted (self" in message
    assert "SSL_CERT_FILE" in message
