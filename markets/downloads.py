"""Files of an archive, brought into a directory: resumed where they broke off, kept when their digest is right."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import BinaryIO, Self

from domain.errors import Unavailable
from markets.patience import PATIENCE_S, WALL, Passing, Patience, Seldom, Tell, Timing
from markets.rest import client_for, demand_success, mapped

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIMES = 2
"""A wrong file may have been spoiled on its way, once."""


class Downloads:
    """Files below one URL, each beside its digest: ``a.zip`` and ``a.zip.CHECKSUM``; opened by ``async with``.

    Parameters
    ----------
    cache
        The directory that they are kept in, under the paths of their URLs. Several processes may share it.
    base
        URL without a slash at the end.
    timing
        Clock and randomness.
    patience_s
        Seconds without progress for which a download is repeated.
    tell
        Is told of waits, of the same trouble ever more seldom, and of wrong files.
    """

    def __init__(
        self,
        cache: Path,
        base: str,
        timing: Timing = WALL,
        patience_s: float = PATIENCE_S,
        tell: Tell = lambda _: None,
    ) -> None:
        self._cache = cache
        self._base = base
        self._tell = tell
        self._patience = Patience(patience_s, timing, Seldom(tell, timing))
        self._client = client_for(base)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def file(self, path: str) -> Path | None:
        """Return where a file lies now; None when the archive does not have it.

        Raises
        ------
        UsageError
            When the archive refuses to give it.
        Unavailable
            When the archive cannot be reached, or gives another file than its digest says, twice.
        """
        target = self._cache / path.lstrip("/")
        if target.exists():
            return target
        digest = await self._digest(path)
        if digest is None:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        with part.open("ab") as file:
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
            if target.exists():  # another process brought it meanwhile
                return target
            for _ in range(_TIMES):
                if not await self._download(path, file):
                    part.unlink()
                    return None
                file.flush()
                with part.open("rb") as whole:
                    found = (await asyncio.to_thread(hashlib.file_digest, whole, "sha256")).hexdigest()
                if found == digest:
                    return part.replace(target)
                _empty(file)
                wrong = f"{self._base}{path} has the SHA-256 {found[:12]}... instead of {digest[:12]}..."
                self._tell(f"{wrong}; it is thrown away")
        part.unlink()
        raise Unavailable(f"{wrong}, and had it {_TIMES} times; try again later, and do not use it")

    async def _digest(self, path: str) -> str | None:
        """Return the digest that the archive tells of a file; None when it has none."""

        async def attempt(left_s: float) -> str | None:
            async with mapped(self._base, left_s):
                response = await self._client.get(f"{self._base}{path}.CHECKSUM")
            if response.status_code == HTTPStatus.NOT_FOUND:
                return None
            demand_success(response)
            return response.text

        text = await self._patience.until_done(attempt)
        digest = None if text is None else _DIGEST.match(text)
        if text is not None and digest is None:
            raise Unavailable(f"{self._base}{path}.CHECKSUM holds no SHA-256 but {text[:40]!r}; try again later")
        return digest[0] if digest else None

    async def _download(self, path: str, file: BinaryIO) -> bool:
        """Append what is missing of a file; return whether the archive has it at all."""
        result: bool | None = None

        async def attempt(_: float) -> bool | None:
            begun = file.tell()
            try:
                async with mapped(self._base, None):
                    return await self._append(path, file)
            except Passing:
                if file.tell() == begun:
                    raise
                return None  # progress: patience begins anew

        while result is None:
            result = await self._patience.until_done(attempt)
        return result

    async def _append(self, path: str, file: BinaryIO) -> bool:
        headers = {"Accept-Encoding": "identity"}
        if size := file.tell():
            headers["Range"] = f"bytes={size}-"
        async with self._client.stream("GET", self._base + path, headers=headers) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                return False
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return True  # nothing is missing: its digest will tell
            if not response.is_success:
                await response.aread()
                demand_success(response)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                _empty(file)
            async for chunk in response.aiter_raw():
                file.write(chunk)
        return True


@asynccontextmanager
async def fleeting(base: str, tell: Tell = lambda _: None) -> AsyncIterator[Downloads]:
    """Open downloads of which nothing outlasts the block: those of an archive whose files may be others another time.

    Parameters
    ----------
    base, tell : as of ``Downloads``
    """
    with TemporaryDirectory(prefix="tidemill-") as cache:
        async with Downloads(Path(cache), base, tell=tell) as downloads:
            yield downloads


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
