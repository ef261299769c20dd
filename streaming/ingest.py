"""Ingest: a market source in, topic ``trades`` or ``bars`` out, each event once and in order.

It keeps no state of its own: on start it reads the newest record of each partition and asks the source for what is
newer, so a crash neither loses an event nor sends one twice. Candles are gap-filled on the way, by the domain's step.
"""

from __future__ import annotations

import numpy as np
import structlog

from domain.bars import BAR_COLUMNS, CLOSE, TAKEN, BarState, add_candles
from domain.errors import BadRecord, BadState
from domain.events import Bar, Trade
from domain.tables import BarTable
from domain.topics import BARS, TRADES
from markets.source import Feed, Resume, Source
from streaming import codec
from streaming.app import Context, Pulse
from streaming.dead_letters import DeadLetters
from streaming.gate import newest_in_order, newest_trade
from streaming.seam import safe_point
from streaming.transport import Records
from warehouse.features import read_table

POLL = 2_000

TROUBLED_S = 120.0
"""Seconds without a connection, or of an instrument waiting, after which a feed counts as down: most pass sooner."""


class Ingest:
    """Produces ``trades`` or ``bars`` from a source's live half."""

    name = "ingest"

    def __init__(self, context: Context, source: Source) -> None:
        self._context, self._project, self._source = context, context.project, source
        self._topic = TRADES if source.kind == "trades" else BARS
        self._partition = {name: p for p, name in enumerate(context.project.instruments)}
        self._fill: dict[str, BarState] = {}
        self._newest = 0
        self._sent = 0
        self._feed: Feed | None = None
        self._well_at = context.clock.monotonic()
        self._log = structlog.get_logger().bind(service=self.name)

    def open(self) -> None:
        """Find where each partition ends and open the source just behind it."""
        self._writer = self._context.transport.writer()
        self._dead = DeadLetters(self.name, self._context.control, self._writer)
        resume = {name: self._resume(name, partition) for name, partition in self._partition.items()}
        self._feed = self._source.open(resume, self._project.market.speed)

    def work(self, wait_s: float) -> int:
        """Send what is due."""
        if self._feed is None:
            raise BadState("ingest: work before open")
        events = self._feed.poll(POLL, wait_s)
        for refused in self._feed.refused():
            self._dead.refuse(Records(self._topic, -1, [-1], [refused.frame]), 0, refused.error)
        by_instrument: dict[str, list[Trade | Bar]] = {}
        for event in events:
            by_instrument.setdefault(event.instrument, []).append(event)
        for instrument, some in by_instrument.items():
            values = self._bars(instrument, some) if self._topic == BARS else [codec.encode(event) for event in some]
            self._writer.send(self._topic, self._partition[instrument], instrument, values)
            self._sent += len(values)
        if events:
            # A live exchange's events are in order for each instrument only.
            self._newest = max(self._newest, *(event.ts_event for event in events))
        return len(events)

    def save(self) -> None:
        """Flush; the topic itself is the checkpoint."""
        self._dead.save()
        self._writer.flush()

    def pulse(self) -> Pulse:
        """Say how far the market has come, and how its feed is."""
        health = dict(self._feed.health) if self._feed is not None else {}
        now = self._context.clock.monotonic()
        if not health.get("problem") and not health.get("waiting"):
            self._well_at = now
        return Pulse(
            position={},
            progress=self._sent,
            lag=0,
            ready=now - self._well_at < TROUBLED_S,
            detail={
                "sent": self._sent,
                "watermark": self._newest,
                "simulated": self._source.simulated,
                "dead_letters": self._dead.totals,
                **({"feed": health} if health else {}),
            },
        )

    def close(self, *, clean: bool) -> None:  # noqa: ARG002 - nothing is kept back here
        """Let go of the source."""
        if self._feed is not None:
            self._feed.close()

    @property
    def finished(self) -> bool:
        """Whether a recorded source has come to its end."""
        return self._feed is not None and self._feed.done

    def _resume(self, instrument: str, partition: int) -> Resume:
        transport, clock = self._context.transport, self._context.clock
        if self._topic == TRADES:
            trade = newest_trade(transport, clock, (TRADES, partition), self._project.interval)
            if trade is not None:
                return Resume(trade.ts_event, trade.trade_id)
            # A trade at the very nanosecond of a bar's end belongs to the bar after it.
            with self._context.open_lake(read_only=True) as lake:
                return Resume(
                    safe_point(self._context.registry, lake, self._context.roles.of(instrument), partition) - 1
                )
        bar = newest_in_order(transport, clock, (BARS, partition), codec.bar, self._project.interval)
        ts, close = (bar.ts_event, bar.close) if bar else self._last_bar(instrument, partition)
        interval = self._project.interval
        self._fill[instrument] = BarState.after(ts, close, interval, 0) if close else BarState.empty(interval, 0)
        return Resume(ts)

    def _last_bar(self, instrument: str, partition: int) -> tuple[int, float]:
        with self._context.open_lake(read_only=True) as lake:
            watermark = safe_point(self._context.registry, lake, self._context.roles.of(instrument), partition)
            bars = read_table(lake, "bars", instrument, watermark - self._project.interval, watermark)
        return (int(bars.ts[-1]), float(bars.values[-1, CLOSE])) if len(bars) else (watermark, 0.0)

    def _bars(self, instrument: str, events: list[Trade | Bar]) -> list[bytes]:
        ts = np.array([bar.ts_event for bar in events], np.int64)
        values = np.array([[getattr(bar, name) for name in BAR_COLUMNS] for bar in events], np.float64)
        filled, fates = add_candles(self._fill[instrument], BarTable(ts, values), self._project.interval)
        for i in np.flatnonzero(fates != TAKEN):
            record = Records(self._topic, self._partition[instrument], [-1], [codec.encode(events[i])])
            self._dead.refuse(record, 0, BadRecord(*codec.FATES[int(fates[i])]))
        return codec.encode_bars(instrument, filled)
