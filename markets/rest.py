"""Requests of an exchange's public interface: within its limits, asked again where it helps, errors in one line."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import Self

import httpx
import msgspec

from domain.errors import Unavailable, UsageError
from markets.patience import PATIENCE_S, WALL, Budget, Passing, Patience, Seldom, Tell, Timing

TIMEOUT_S = 30.0
"""Longest that a request may take, answer included: 10 MB at a slow line's 3 Mbit/s."""

_OF_REQUESTS = -1_100

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Hosts that no proxy can reach for us."""

_BANNED = 418
_WORDS = 200
_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's verify codes


class _Refusal(msgspec.Struct):
    code: int


class RestClient:
    """A client of one base URL; see ``venue.Rest``. It is opened and closed by ``async with``, on one event loop.

    Parameters
    ----------
    base
        URL without a slash at the end. A loopback address is asked directly, any other through the proxy that the
        environment names, if it does.
    weight_a_minute
        What requests may weigh together in a minute.
    patience_s
        Seconds for which a request that fails is repeated.
    timing
        Clock and randomness.
    tell
        Is told of waits, at most every few seconds.
    """

    def __init__(
        self,
        base: str,
        weight_a_minute: int,
        patience_s: float = PATIENCE_S,
        timing: Timing = WALL,
        tell: Tell = lambda _: None,
    ) -> None:
        self._base = base
        self._timing = timing
        self._patience = Patience(patience_s, timing, Seldom(tell, timing))
        self._budget = Budget(weight_a_minute, timing)
        self._client = client_for(base)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, params: Mapping[str, str | int], weight: int) -> bytes:
        """Return the body of an answer; see ``venue.Rest.get``."""
        await self._budget.take(weight)
        again = False

        async def attempt(left_s: float) -> bytes:
            nonlocal again
            self._budget.demand_open()
            if again:
                await self._budget.take(weight)
            again = True
            async with mapped(self._base, min(TIMEOUT_S, left_s)):
                response = await self._client.get(self._base + path, params=dict(params))
            return self._body(response)

        return await self._patience.until_done(attempt)

    def _body(self, response: httpx.Response) -> bytes:
        """Return an answer's body where it is data, and keep to what it tells of the budget."""
        used = response.headers.get("x-mbx-used-weight-1m", "")
        if used.isdecimal():
            self._budget.spent(int(used))
        if response.status_code in {HTTPStatus.TOO_MANY_REQUESTS, _BANNED}:
            wait = retry_after_s(response, self._timing)
            why = _limited(response, wait, self._timing)
            self._budget.close(why, wait or 0.0)
            raise Passing(why, wait)
        demand_success(response)
        if response.content.lstrip()[:1] not in {b"{", b"["}:
            raise Passing(f"{host_of(response.url)} answers a page instead of data ({words_of(response)}): "
                          "it is in maintenance, or something stands between; try again later")  # fmt: skip
        return response.content


def client_for(base: str) -> httpx.AsyncClient:
    """Return a client of a base URL, to be closed by whoever has it.

    Raises
    ------
    UsageError
        When the environment names a proxy or authorities that cannot be used.
    """
    url = httpx.URL(base)
    try:
        return httpx.AsyncClient(
            timeout=httpx.Timeout(TIMEOUT_S, connect=10.0),
            trust_env=url.host not in LOOPBACK,
            verify=url.scheme == "https",  # without TLS, reading its authorities would be 0.1 s for nothing
            headers={"User-Agent": "tidemill"},
        )
    except (ImportError, ValueError, OSError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{host_of(url)} cannot be asked: {said}; check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE, "
                         "and name an HTTP proxy")  from error  # fmt: skip


def host_of(url: httpx.URL | str) -> str:
    """Return whom a URL asks.

    >>> host_of("https://api.kraken.com/0/public"), host_of("http://127.0.0.1:80/a"), host_of("http://[::1]:81/")
    ('api.kraken.com', '127.0.0.1', '::1:81')
    """
    url = httpx.URL(url)
    return url.host if url.port is None else f"{url.host}:{url.port}"


@asynccontextmanager
async def mapped(url: str, limit_s: float | None) -> AsyncIterator[None]:
    """Run a request for no longer than the limit; without one, as long as something comes every ``TIMEOUT_S``.

    Raises
    ------
    Passing
        When it fails in a way that may pass: no connection, no answer, half of one.
    Unavailable
        When it fails in a way that will not: a proxy or a certificate.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except (TimeoutError, httpx.TimeoutException) as error:
        waited = TIMEOUT_S if limit_s is None else limit_s
        raise Passing(f"{host_of(url)} does not answer within {waited:.3g} s; check the connection") from error
    except httpx.HTTPError as error:
        raise _foreign(error, host_of(url)) from error


def _foreign(error: httpx.HTTPError, host: str) -> Exception:
    """Return our error for one of httpx."""
    if isinstance(error, httpx.ProxyError):
        return Unavailable(f"the proxy does not let through to {host} ({error}); check HTTPS_PROXY and its rules")
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in {_EXPIRED, _NOT_YET}:
                now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
                return Unavailable(f"the certificate of {host} is not valid at this time; "
                                   f"check this machine's clock, which says {now} UTC")  # fmt: skip
            return Unavailable(f"the certificate of {host} is not trusted ({cause.verify_message}); where a proxy "
                               "replaces certificates, name its authority in SSL_CERT_FILE")  # fmt: skip
        if isinstance(cause, socket.gaierror):
            return Passing(f"{host} cannot be found: no internet or no DNS here; check the connection")
    if isinstance(error, httpx.ConnectError):
        return Passing(f"{host} cannot be reached ({error or type(error).__name__}); check the connection")
    return Passing(f"{host} breaks off its answer ({error or type(error).__name__}); check the connection")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def demand_success(response: httpx.Response) -> None:
    """Return where an answer is one.

    Raises
    ------
    Passing
        When the other side has a trouble of its own, or something stands between.
    Unavailable
        When it serves nobody here.
    UsageError
        When the request itself is refused: its words, and the URL.
    """
    status, host = response.status_code, host_of(response.url)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
        raise Passing(f"{host} answers {status} ({words_of(response)}); it may be in maintenance, try again later")
    if status == HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS:
        raise Unavailable(f"{host} does not serve this country ({words_of(response)}); choose another exchange")
    if _is_meant(response):
        raise UsageError(f"{host} refuses {response.url} with {status}: {words_of(response)}")
    if status >= HTTPStatus.BAD_REQUEST:
        raise Passing(f"{host} answers {status} ({words_of(response)}): it, or something between, refuses for now; "
                      "try again later")  # fmt: skip
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        where = response.headers.get("location", "nowhere")
        raise Passing(f"{host} sends to {where} instead of answering: something stands between, such as a login page")


def _is_meant(response: httpx.Response) -> bool:
    """Return whether a request is refused for what it asks, by Binance's own words: any other refusal may pass.

    References
    ----------
    binance-spot-api-docs, errors.md: codes below -1099 are about the request, those of -10xx about the server;
    rest-api.md: 403 is its firewall's, also for a limit that was violated.
    """
    try:
        refusal = msgspec.json.decode(response.content, type=_Refusal)
    except msgspec.MsgspecError:
        return False
    return response.status_code >= HTTPStatus.BAD_REQUEST and refusal.code <= _OF_REQUESTS


def words_of(response: httpx.Response) -> str:
    """Return what an answer says went wrong, in one line."""
    text = response.text
    try:
        said = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = title[1] if title else text
    else:
        text = str(said["msg"]) if isinstance(said, dict) and "msg" in said else text
    line = " ".join(text.split())
    return line[:_WORDS] or response.reason_phrase or "no words"


def retry_after_s(response: httpx.Response, timing: Timing) -> float | None:
    """Return how long an answer says to wait, in seconds or until a date; None where it does not say."""
    said = response.headers.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - timing.wall())
    except ValueError:
        return None


def _limited(response: httpx.Response, wait: float | None, timing: Timing) -> str:
    host = host_of(response.url)
    if response.status_code != _BANNED:
        return f"{host} has had too many requests from this address ({words_of(response)})"
    until = "" if wait is None else f" until {datetime.fromtimestamp(timing.wall() + wait, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{host} has banned this address{until} for too many requests; ask nothing before"
