"""The door of a web application: which requests may reach it, decided before the application sees them.

A browser sends requests for any page that is open in it, so listening on loopback keeps no one out. What a page of
another site can make a browser send carries that site's name: as Host after DNS rebinding, as Origin otherwise. The
rules here refuse it, and refuse the requests that carry no Origin and still change something.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import structlog

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

HTTP_PORT = 80
"""Browsers leave it out."""

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

MOST_BYTES = 10_000_000
"""Of a request's body: the largest form of the launchpad is some kilobytes."""

COOKIE, LOGIN = "tidemill_session", "/login"
QUIET_S = 10.0
"""Seconds between two logged refusals: a page that asks in a loop must not fill the log."""

LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Tidemill</title>
<body style="font: 16px system-ui; margin: 20vh auto; max-width: 24em">
<form method="post" action="/login"><p><label>Token of this mill<br>
<input name="token" type="password" autocomplete="current-password" autofocus style="width: 100%"></label></p>
<p><button>Enter</button> __WHY__</p></form></body></html>"""


class Refused(Exception):  # noqa: N818 - it names what happened to the request
    """A request may not enter.

    Parameters
    ----------
    status : int
        Of the HTTP answer.
    why : str
        One sentence for the person who sent it.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True)
class Rules:
    """Who may enter.

    Attributes
    ----------
    port : int
        Where the application listens.
    public : str
        Origin under which people reach it, such as ``https://mill.example``; empty when it is not published.
    peers : tuple of networks
        Addresses of the proxies that may speak for others; with none, every peer may connect.
    token : str
        What a visitor must show; empty when loopback and the checks below are enough.
    """

    port: int
    public: str = ""
    peers: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    token: str = field(default="", repr=False)

    def check(self, scope: Message) -> None:
        """Return when a request may enter, before its token is looked at.

        Raises
        ------
        Refused
            When its peer, host or origin is not one of ours, or when it could change something unasked.
        """
        headers = _headers(scope)
        self._check_peer(scope)
        if headers.get("host", "").lower() not in self._hosts(scope):
            raise Refused(403, f"this server does not answer for host {headers.get('host', '')!r:.100}")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._origins(scope):
            raise Refused(403, f"pages of {origin!r:.100} may not use this server")
        _check_fetch(headers)
        if scope["type"] == "http":
            self._check_method(scope, headers)

    def admits(self, headers: dict[str, str]) -> bool:
        """Return whether a request shows the token, or no token is asked for."""
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        bearer = shown.strip() if scheme.lower() == "bearer" else ""
        return not self.token or same(bearer, self.token) or same(_cookie(headers), self.session)

    @property
    def session(self) -> str:
        """What the cookie holds after a login: proof of the token, not the token."""
        return hmac.new(self.token.encode(), b"tidemill session", "sha256").hexdigest()

    def _check_peer(self, scope: Message) -> None:
        if self.peers:
            if not scope.get("client"):
                raise Refused(403, "only the proxies of this server may connect")
            peer = ipaddress.ip_address(scope["client"][0])
            if not peer.is_loopback and not any(peer in network for network in self.peers):
                raise Refused(403, f"{peer} is not a proxy of this server")

    def _check_method(self, scope: Message, headers: dict[str, str]) -> None:
        method, path = scope["method"], scope["path"]
        if method in {"GET", "HEAD", "OPTIONS"}:
            # Dagster executes a mutation that stands in the address.
            if path.rstrip("/") == "/graphql" and "query" in parse_qs(scope["query_string"].decode("latin-1")):
                raise Refused(405, "queries are sent by POST with content type application/json")
            if ".." in path.split("/"):
                raise Refused(403, "the path leads out of this server")
        elif method != "POST":
            raise Refused(405, f"method {method} is not used here")
        elif not (self.token and path == LOGIN):
            # Exactly this type: a page of another site cannot send it without asking first.
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refused(415, "content type must be application/json")

    def _hosts(self, scope: Message) -> set[str]:
        return self._own(scope) | ({urlsplit(self.public).netloc.lower()} if self.public else set())

    def _own(self, scope: Message) -> set[str]:
        names = {*LOOPBACK, _literal(scope)}  # no name can be rebound to an address that is written out
        ports = {f":{self.port}", *({""} if self.port == HTTP_PORT else ())}
        return {f"{name}{port}" for name in names if name for port in ports}

    def _origins(self, scope: Message) -> set[str]:
        ours = {f"http://{host}" for host in self._own(scope)}
        return {*ours, self.public.lower()} if self.public else ours


class Door:
    """ASGI middleware: an application behind rules.

    Parameters
    ----------
    app : ASGI application
        Sees only what the rules let through.
    rules : Rules
        Who may enter.
    """

    def __init__(self, app: App, rules: Rules) -> None:
        self._app, self._rules = app, rules
        self._logged, self._unlogged = 0.0, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let one connection in, or answer why not."""
        if scope["type"] not in {"http", "websocket"}:  # lifespan
            await self._app(scope, receive, send)
            return
        try:
            self._rules.check(scope)
            await self._admitted(scope, receive, send)
        except Refused as refused:
            self._log(scope, refused)
            await _refuse(scope, receive, send, refused)

    async def _admitted(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        if self._rules.token and scope["type"] == "http" and scope["path"] == LOGIN:
            await self._login(scope, receive, send)
        elif self._rules.admits(headers):
            await self._enter(scope, receive, send)
        elif scope["type"] == "http" and "text/html" in headers.get("accept", ""):
            await _answer(send, 401, LOGIN_PAGE.replace("__WHY__", ""), "text/html")
        else:
            raise Refused(401, "show the token: Authorization: Bearer TOKEN")

    async def _enter(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand a request over; a body is read first, so that its size is known before the application begins."""
        if scope["type"] == "http" and scope["method"] == "POST":
            receive = _replayed(await _body(receive, MOST_BYTES), receive)
        await self._app(scope, receive, send)

    async def _login(self, scope: Message, receive: Receive, send: Send) -> None:
        why = ""
        if scope["method"] == "POST":
            form = parse_qs((await _body(receive, 10_000)).decode("latin-1"))
            if same(form.get("token", [""])[0].strip(), self._rules.token):
                secure = "; Secure" if self._rules.public.startswith("https:") else ""
                cookie = f"{COOKIE}={self._rules.session}; Path=/; HttpOnly; SameSite=Strict{secure}"
                await _answer(send, 303, "", "text/plain", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
                return
            why = "This is not the token."
        await _answer(send, 401, LOGIN_PAGE.replace("__WHY__", why), "text/html")

    def _log(self, scope: Message, refused: Refused) -> None:
        now = time.monotonic()
        self._unlogged += 1
        if now - self._logged < QUIET_S and self._logged:
            return
        peer = scope["client"][0] if scope.get("client") else ""
        structlog.get_logger().warning(
            "request refused", path=ascii(scope["path"][:200])[1:-1], peer=peer, status=refused.status, why=refused.why,
            refused=self._unlogged,
        )  # fmt: skip
        self._logged, self._unlogged = now, 0


def _check_fetch(headers: dict[str, str]) -> None:
    """Refuse what another site's page asked for, where the browser says so; a person may follow a link here."""
    site = headers.get("sec-fetch-site", "none")
    follows = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site not in {"none", "same-origin"} and not follows:
        raise Refused(403, "pages of another site may not use this server")


def same(shown: str, wanted: str) -> bool:
    """Return whether two secrets are equal, in a time that does not depend on where they differ."""
    return bool(wanted) and hmac.compare_digest(shown.encode(), wanted.encode())


def _headers(scope: Message) -> dict[str, str]:
    """Return the headers by name; one that comes twice is joined, and so matches none of ours."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _cookie(headers: dict[str, str]) -> str:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _literal(scope: Message) -> str:
    """Return the address that the connection came in by, as it is written in a Host header."""
    address = (scope.get("server") or ("",))[0]
    return f"[{address}]" if ":" in address else address


async def _body(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        if sum(map(len, parts)) > most:
            raise Refused(413, f"a request has at most {most:,} bytes")
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the whole body at once, then what the connection says next."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


async def _refuse(scope: Message, receive: Receive, send: Send, refused: Refused) -> None:
    if scope["type"] == "http":
        await _answer(send, refused.status, json.dumps({"error": refused.why}), "application/json")
        return
    await receive()  # the handshake; closed before it is accepted, the browser sees 403
    await send({"type": "websocket.close", "code": 1008, "reason": refused.why})


async def _answer(send: Send, status: int, text: str, kind: str, more: list[tuple[bytes, bytes]] | None = None) -> None:
    body = text.encode()
    headers = [
        (b"content-type", f"{kind}; charset=utf-8".encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        *(more or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
