"""One WebSocket connection to an exchange: opened, read in batches, noticed when it dies."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

from httpx import create_ssl_context
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from websockets.frames import DATA_OPCODES, Frame
from websockets.http11 import Response

from domain.errors import UsageError
from markets.rest import LOOPBACK

OPEN_S = 10.0
"""Seconds for a connection to open."""

PAID = 4
"""Who was connected for so many times the longest wait before the next attempt does not ask too much."""

_CLOSE_S = 0.5
"""Seconds for a farewell: whoever waits for ours closes the socket anyhow."""

_UNREAD = 1 << 20
"""Bytes that may wait to be read before the socket is left alone: a few reads of 256 kB."""

_NOT_NOW = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


class Lost(Exception):  # noqa: N818 - it names what happened
    """There is no connection, or no longer one; the message says why, in one line."""


class Backoff:
    """How long to wait before the next attempt: full jitter over a bound that doubles.

    Parameters
    ----------
    first_s, most_s : the bound of the first wait, and of all

    References
    ----------
    M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._bound_s = first_s

    def next(self) -> float:
        """Return the seconds to wait now."""
        bound, self._bound_s = self._bound_s, min(self._most_s, 2 * self._bound_s)
        return random.uniform(0.0, bound)

    def lasted(self, seconds: float) -> bool:
        """Start over, and return True, where what was attempted worked for long enough to pay for the next wait."""
        if good := seconds >= PAID * self._bound_s:
            self._bound_s = self._first_s
        return good


class Connection(ClientConnection):
    """A connection whose frames are read in the batches that the socket gives them in.

    ``recv`` wakes its reader for each frame; this wakes it once a read, and so keeps up with several times the trades.
    Anything that arrives counts as life, pings included, but only while somebody reads.
    """

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as the library calls it
        super().__init__(*args, **options)
        self.opened = self.heard = self.loop.time()
        self.parting = asyncio.Event()  # set by the reader when the exchange announces the end
        self._silence_s = float("inf")
        self._silent = False
        self._watch: asyncio.TimerHandle | None = None
        self._frames: list[bytes] = []
        self._fragments: list[bytes] = []
        self._news = asyncio.Event()
        self._unread = 0
        self._resting = False

    @property
    def age_s(self) -> float:
        """Seconds since it was opened."""
        return self.loop.time() - self.opened

    async def batch(self) -> list[bytes]:
        """Return the messages that have arrived, once there is one.

        Raises
        ------
        Lost
            When all that arrived was returned and the connection has ended.
        """
        while not self._frames:
            if self.connection_lost_waiter.done():
                raise Lost(self._reason())
            self._news.clear()
            await self._news.wait()
        batch, self._frames, self._unread = self._frames, [], 0
        if self._resting:
            self._resting = False
            self.heard = self.loop.time()
            self.transport.resume_reading()
        return batch

    async def begin(self, messages: Sequence[str], silence_s: float) -> None:
        """Send messages; from now on end the connection once nothing has arrived for so many seconds.

        Raises
        ------
        Lost
            When it has ended already.
        """
        self._silence_s = silence_s
        self._look()
        try:
            for message in messages:
                await self.send(message)
        except ConnectionClosed as error:
            raise Lost(self._reason()) from error

    async def leave(self) -> None:
        """Close it, politely if that is quick."""
        try:
            await self.close()
        finally:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Note the time, and wake the reader once for all that came."""
        self.heard = self.loop.time()
        self._unread += len(data)
        super().data_received(data)
        if self._frames:
            self._news.set()
            if self._unread > _UNREAD and not self._resting:
                self._resting = True
                self.transport.pause_reading()

    def process_event(self, event: Any) -> None:  # noqa: ANN401 - as the library calls it
        """Keep messages; the library answers pings and farewells."""
        if not (isinstance(event, Frame) and event.opcode in DATA_OPCODES):
            super().process_event(event)
        elif event.fin and not self._fragments:
            self._frames.append(bytes(event.data))
        else:
            self._fragments.append(bytes(event.data))
            if event.fin:
                self._frames.append(b"".join(self._fragments))
                self._fragments = []

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the reader: there will be nothing more."""
        super().connection_lost(exc)
        if self._watch is not None:
            self._watch.cancel()
        self._news.set()

    def _look(self) -> None:
        left = self._silence_s if self._resting else self.heard + self._silence_s - self.loop.time()
        if left > 0:
            self._watch = self.loop.call_later(left, self._look)
        else:
            self._silent = True
            self.transport.abort()

    def _reason(self) -> str:
        if self._silent:
            return f"nothing came for {self._silence_s:g} s, not even a ping; the connection counts as dead"
        closed = self.close_exc
        if closed.rcvd is not None:
            said = f" ({closed.rcvd.reason})" if closed.rcvd.reason else ""
            return f"the exchange closed the connection with code {closed.rcvd.code}{said}"
        return f"the connection broke off ({_words(closed.__cause__ or closed)})"


async def open_connection(url: str, messages: Sequence[str], silence_s: float) -> Connection:
    """Return an open connection over which these messages were sent.

    Raises
    ------
    UsageError
        When the URL is none of a WebSocket, or the environment's proxy none.
    Lost
        When it cannot be opened; what is refused now may be accepted later.
    """
    try:
        connection = await connect(
            url,
            create_connection=Connection,
            proxy=None if urlsplit(url).hostname in LOOPBACK else True,
            ssl=create_ssl_context() if url.startswith("wss:") else None,  # the authorities that REST trusts
            compression=None,  # inflating would cost more than the network saves
            ping_interval=None,  # pongs would make an exchange look alive that sends nothing of its own
            open_timeout=OPEN_S,
            close_timeout=_CLOSE_S,
        )
    except InvalidURI as error:
        if error.uri != url:
            said = f"{url}: sends to {error.uri} instead: something stands between, such as a login page"
            raise Lost(said) from error
        raise UsageError(f"{url}: is no WebSocket address; write ws://host or wss://host") from error
    except InvalidProxy as error:
        raise UsageError(f"{url}: {_words(error)}; write HTTPS_PROXY as http://host:port") from error
    except (OSError, InvalidHandshake, ProxyError, EOFError) as error:
        raise Lost(f"{url}: {_refusal(error)}") from error
    mine = cast("Connection", connection)
    await mine.begin(messages, silence_s)
    return mine


def _refusal(error: Exception) -> str:
    """Return why there is no connection, and what a person may do about it."""
    match error:
        case ssl.SSLCertVerificationError() if error.verify_code in _NOT_NOW:
            return f"its certificate is not valid now ({error.verify_message}); set this machine's clock right"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message}); a proxy in between may use its own"
        case InvalidProxyStatus():
            said = f"the proxy answers HTTP {error.response.status_code}; correct HTTPS_PROXY or allow this host"
        case InvalidStatus():
            said = _status(error.response)
        case TimeoutError():
            said = f"no answer within {OPEN_S:g} s; check the network"
        case OSError():
            said = f"cannot be reached ({_words(error)}); check the network"
        case _:
            said = f"no WebSocket opens there ({_words(error)}); a proxy in between may refuse them"
    return said


def _status(response: Response) -> str:
    code = response.status_code
    if code in {418, 429}:
        return f"HTTP {code}: too many connections from this address; others of ours may run"
    if code == HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS:
        return f"HTTP {code}: the exchange does not serve this country; choose another"
    if code == HTTPStatus.FORBIDDEN:
        return f"HTTP {code}: the exchange's firewall, or a proxy in between, refuses this address for now"
    if code >= 500:  # noqa: PLR2004 - HTTP's classes
        return f"HTTP {code}: the exchange is in maintenance or overloaded"
    return f"HTTP {code} instead of a WebSocket; a proxy in between may refuse them"


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
