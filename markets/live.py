"""A real exchange as a source: candles for history, and a feed of its trades without a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from domain.errors import Unavailable
from domain.events import NANOS_PER_MINUTE
from domain.tables import BarTable
from markets.contiguous import MOST_HELD, Contiguous
from markets.feed import LiveFeed
from markets.findings import utc
from markets.outbox import Outbox
from markets.pages import Candled, until_told
from markets.repairs import Tape
from markets.session import RestFactory, Session
from markets.source import Resume
from markets.tempo import Tempo
from markets.venue import Address, Rest, Venue


class Live(Candled):
    """An exchange; see ``source.Source``.

    Parameters
    ----------
    venue, rest : how the exchange reads, and what makes clients of its REST interface
    instruments, opens_ns, history_ns, interval : as of ``Candled``
    address : where it answers; None means the real one
    simulated : whether the prices are made up, as in a box that serves the simulated market
    tempo : how quickly a feed acts
    record : where each feed is recorded, if anywhere
    """

    def __init__(  # noqa: PLR0913 - everything it depends on is an argument
        self,
        venue: Venue,
        rest: RestFactory,
        instruments: Sequence[str],
        opens_ns: int,
        history_ns: int,
        *,
        interval: int = NANOS_PER_MINUTE,
        address: Address | None = None,
        simulated: bool = False,
        tempo: Tempo | None = None,
        record: Path | None = None,
    ) -> None:
        super().__init__(instruments, opens_ns, history_ns, interval)
        self.simulated = simulated
        self._venue, self._rest, self._address = venue, rest, address or venue.address
        self._tempo, self._record = tempo or Tempo(), record

    def open(self, resume: Mapping[str, Resume], speed: float) -> LiveFeed:
        """Open the feed: without a resume, at the opening. An exchange knows one speed."""
        del speed
        share = MOST_HELD // len(self.instruments)
        orders = {name: Contiguous(start, share) for name, start in self._resumed(resume).items()}
        outbox = Outbox()
        tape = self._tape()
        session = Session(self._venue, self._rest, self._address, orders, outbox, self._tempo, tape)
        return LiveFeed(session, outbox, tape)

    def _tape(self) -> Tape | None:
        if self._record is None:
            return None
        from markets.recorder import Recorder  # Arrow costs a third of a second, and few record

        return Recorder(self._record, self._venue.name, self._address, self.instruments, simulated=self.simulated)

    def now(self) -> int:
        """Return the exchange's time, ns since epoch UTC, when it trades all instruments.

        Raises
        ------
        UsageError
            When one is unknown there.
        Unavailable
            When it cannot be reached for longer than patience lasts, or trading is halted.
        """
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(self._asked())
        finally:
            loop.close()  # and not a Runner, which would wait for a resolver that hangs

    async def _asked(self) -> int:
        async with self._rest() as rest:
            await self._venue.check(rest, self.instruments)
            return await self._venue.now(rest)

    async def _demand_told(self, rest: Rest, start: int, end: int) -> None:
        """Wait until the exchange tells all of a window: a candle that it does not tell would pass for no trades."""
        now, kept = await self._venue.now(rest), self._venue.candles_kept
        if kept is not None and start < (oldest := (now // self.interval - kept) * self.interval):
            raise Unavailable(
                f"{self._venue.name}: candles are asked for from {utc(start)}, but the exchange tells none before "
                f"{utc(oldest)}; choose later days: what streamed in stays as it is"
            )
        await until_told(self._venue.name, now, end)

    async def _candles(self, instrument: str, start: int, end: int) -> AsyncGenerator[BarTable, None]:
        async with self._rest() as rest:
            await self._demand_told(rest, start, end)
            async for page in self._venue.candles(rest, instrument, self.interval, start, end):
                if len(page):
                    yield page
