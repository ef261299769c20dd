"""One connection: read in batches, alive while anything comes, and every way to fail has its own words."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess

import pytest
from websockets.asyncio.server import serve

from domain.errors import UsageError
from markets.connection import Backoff, Lost, open_connection

pytestmark = pytest.mark.process


def against(handler, act, **options):
    """Run ``act(connection)`` against a server whose connections ``handler`` gets."""

    async def run():
        silence_s = options.pop("silence_s", 5.0)
        async with serve(handler, "127.0.0.1", 0, ping_interval=None, close_timeout=0.1, **options) as server:
            port = server.sockets[0].getsockname()[1]
            scheme = "wss" if "ssl" in options else "ws"
            connection = await open_connection(f"{scheme}://localhost:{port}", ["hello"], silence_s)
            try:
                return await act(connection)
            finally:
                await connection.leave()

    return asyncio.run(asyncio.wait_for(run(), 20))


async def to_its_end(connection):
    """All that a connection gives, and why it ends."""
    got = []
    try:
        while True:
            got += await connection.batch()
    except Lost as lost:
        return got, str(lost)


def test_messages_come_whole_and_in_order_even_in_fragments():
    async def server(client):
        await client.send(await client.recv())
        await client.send(["one ", "message ", "in four ", "parts"])
        await client.send(b"\x00binary")

    got, reason = against(server, to_its_end)
    assert got == [b"hello", b"one message in four parts", b"\x00binary"]
    assert "code 1000" in reason


def test_everything_that_came_is_read_before_the_end_is_told():
    async def server(client):
        await client.recv()
        for _ in range(3_000):
            await client.send("x" * 50)
        await client.close(1012, "restart")

    got, reason = against(server, to_its_end)
    assert len(got) == 3_000
    assert "code 1012 (restart)" in reason


def test_a_connection_over_which_nothing_comes_is_dead():
    async def server(client):
        client.transport.pause_reading()  # half-open: no farewell is answered either
        await client.wait_closed()

    _, reason = against(server, to_its_end, silence_s=0.1)
    assert "nothing came for 0.1 s" in reason


def test_pings_count_as_life():
    async def server(client):
        for _ in range(12):
            await client.ping()
            await asyncio.sleep(0.05)
        await client.send("late")
        await client.close()

    got, reason = against(server, to_its_end, silence_s=0.3)
    assert got == [b"late"]
    assert "code 1000" in reason


def test_who_does_not_read_does_not_call_the_exchange_dead_and_keeps_little():
    sent = []

    async def server(client):
        while len(sent) < 200_000:
            sent.append(await client.send("x" * 200))

    async def rests(connection):
        await connection.batch()
        before = -1
        while before != len(sent):  # until the exchange can send no more
            before = len(sent)
            await asyncio.sleep(0.1)
        stuck = len(sent)
        await asyncio.sleep(0.3)
        return stuck, [await connection.batch() for _ in range(3)]

    stuck, batches = against(server, rests, silence_s=0.2)
    assert stuck < 100_000
    assert all(0 < len(batch) < 20_000 for batch in batches), "it goes on where it stopped"


def test_a_connection_that_breaks_off_says_so():
    async def server(client):
        await client.recv()
        client.transport.abort()

    _, reason = against(server, to_its_end)
    assert "broke off" in reason


def refusal(url):
    with pytest.raises(Lost) as caught:
        asyncio.run(open_connection(url, [], 1.0))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(url)
    return text


def test_an_exchange_that_cannot_be_reached_is_told_with_what_to_check():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "check the network" in refusal(f"ws://127.0.0.1:{taken.getsockname()[1]}")
    assert "check the network" in refusal("ws://exchange.invalid")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "firewall, or a proxy in between"),
        (404, "a proxy in between"),
        (429, "too many connections"),
        (451, "does not serve this country"),
        (503, "maintenance"),
    ],
)
def test_a_status_instead_of_a_websocket_is_told(status, words):
    async def run():
        def refuse(connection, request):
            return connection.respond(status, "no")

        async with serve(lambda client: None, "127.0.0.1", 0, process_request=refuse) as server:
            with pytest.raises(Lost, match=f"HTTP {status}.*{words}"):
                await open_connection(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", [], 1.0)

    asyncio.run(run())


def test_who_sends_elsewhere_is_told_apart_from_a_wrong_address():
    async def run():
        def redirect(connection, request):
            response = connection.respond(302, "")
            response.headers["Location"] = "https://hotel.example/login"
            return response

        async with serve(lambda client: None, "127.0.0.1", 0, process_request=redirect) as server:
            with pytest.raises(Lost, match=r"sends to https://hotel.example/login instead: something stands between"):
                await open_connection(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", [], 1.0)

    asyncio.run(run())


def test_no_proxy_stands_before_this_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    async def greet(client):
        await client.send("hello")
        await client.wait_closed()

    async def first(connection):
        return await connection.batch()

    assert against(greet, first) == [b"hello"]


def test_a_proxy_that_is_written_wrongly_is_the_user_s_mistake(monkeypatch):
    monkeypatch.setenv("https_proxy", "127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(UsageError, match="write HTTPS_PROXY as http://host:port"):
        asyncio.run(open_connection("wss://exchange.invalid", [], 1.0))


def test_a_proxy_that_refuses_is_told(monkeypatch):
    async def run():
        async def proxy(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            monkeypatch.delenv("no_proxy", raising=False)
            with pytest.raises(Lost, match="the proxy answers HTTP 407; correct HTTPS_PROXY"):
                await open_connection("wss://exchange.invalid", [], 1.0)

    asyncio.run(run())


def certificate(folder, *dates):
    """A certificate of localhost that signs itself, valid between two dates."""
    key, cert, conf = folder / "key.pem", folder / "cert.pem", folder / "ca.conf"
    (folder / "index").touch()
    conf.write_text(
        f"[ca]\ndefault_ca=me\n[me]\ndatabase={folder}/index\nnew_certs_dir={folder}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=any\nx509_extensions=san\n[any]\ncommonName=supplied\n"
        "[req]\ndistinguished_name=dn\n[dn]\n[san]\nsubjectAltName=DNS:localhost\nbasicConstraints=critical,CA:true\n"
    )
    request = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-config", conf,
               "-keyout", key, "-out", folder / "csr.pem"]  # fmt: skip
    sign = ["openssl", "ca", "-batch", "-selfsign", "-config", conf, "-keyfile", key, "-in", folder / "csr.pem",
            "-out", cert, "-notext", "-startdate", dates[0], "-enddate", dates[1]]  # fmt: skip
    for command in (request, sign):
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


async def _greet(client):
    await client.send("hi")
    await client.wait_closed()


@pytest.mark.parametrize(
    ("dates", "trusted", "words"),
    [
        (("20200101000000Z", "20210101000000Z"), True, "not valid now.*set this machine's clock right"),
        (("20900101000000Z", "20910101000000Z"), True, "not valid now.*set this machine's clock right"),
        (("20200101000000Z", "20900101000000Z"), False, "not trusted"),
    ],
)
def test_a_wrong_clock_is_told_apart_from_a_strange_certificate(tmp_path, monkeypatch, dates, trusted, words):
    cert, context = certificate(tmp_path, *dates)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with pytest.raises(Lost, match=words):
        against(_greet, to_its_end, ssl=context)


def test_a_sound_certificate_is_accepted(tmp_path, monkeypatch):
    cert, context = certificate(tmp_path, "20200101000000Z", "20900101000000Z")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))

    async def first(connection):
        return await connection.batch()

    assert against(_greet, first, ssl=context) == [b"hi"]


def test_an_address_of_no_websocket_is_the_user_s_mistake():
    with pytest.raises(UsageError, match="no WebSocket address"):
        asyncio.run(open_connection("http://localhost", [], 1.0))


def test_waits_double_up_to_a_bound_and_start_over():
    backoff = Backoff(1.0, 30.0)
    rounds = []
    for _ in range(400):
        rounds.append([backoff.next() for _ in range(8)])
        assert not backoff.lasted(119.0)
        assert backoff.lasted(120.0), "four times the bound"
    longest = [max(waits) for waits in zip(*rounds, strict=True)]
    for most, bound in zip(longest, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert 0.9 * bound < most <= bound
    assert min(waits[-1] for waits in rounds) < 3  # full jitter: from nothing on
