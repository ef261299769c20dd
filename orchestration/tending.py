"""Tending: what a look at a service says is wrong with it, and whether to redeploy, wait or give up. Pure judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from domain.health import BEAT_TTL, START_GRACE, Beat, live, overdue, ready
from orchestration.homes import Status

WINDOW_S = 600.0
MOST = 3
"""Redeployments in a row, of which none led to health, after which a service is given up until a person acts; also
those within ``WINDOW_S`` of one that hangs: it looks healthy for a while each time."""

MOST_MENDED = 12
"""Redeployments within ``WINDOW_S``, though each led to health: one that lives for less than a minute is in a loop."""

STEADY_S = 120.0
"""Health that makes former redeployments forgotten."""

PAUSES_S = (0.0, 10.0, 30.0)
"""Before the n-th redeployment in a row of which none led to health: what is broken for a moment may mend itself."""


DISK_REFUSES = ("no space left", "is full", "disk full", "quota exceeded", "disk i/o error")
"""Last words of a service whose disk is full or fails: no redeployment is to blame, and none must be the last."""

_ON_ITS_WAY = frozenset({"starting", "restarting", "stopping", "backoff"})


@dataclass(frozen=True)
class Look:
    """What is known of a service at one moment.

    Attributes
    ----------
    status : by the supervisor
    meta : the fingerprint that it was deployed with
    beat : its newest heartbeat, of whatever process
    """

    status: Status
    meta: Mapping[str, str] = field(default_factory=dict)
    beat: Beat | None = None

    @property
    def own_beat(self) -> Beat | None:
        """The heartbeat, if it is of the process that runs now and not of its predecessor."""
        return self.beat if self.beat is not None and self.beat.pid == self.status.pid else None


@dataclass(frozen=True)
class Ailment:
    """What is wrong.

    Attributes
    ----------
    kind : to recognise it by
    words : for people
    cure : the fingerprint that a redeployment brings: after giving up, another one is a new start
    certain : whether one look is proof enough
    ours : whether a person's change of configuration or code is all there is: it speaks against giving up
    outside : whether the disk is full or fails: tried again for as long as it takes, but never without a pause
    """

    kind: str
    words: str
    cure: str
    certain: bool
    ours: bool = False
    outside: bool = False


@dataclass
class Memory:
    """What is remembered of a service between two looks; a cursor holds it as JSON.

    Attributes
    ----------
    suspected : kind of the uncertain ailment seen at the last look
    since : when that ailment, or another just before it, was first seen, unix seconds; None while there is none
    treated : kind of the ailment that the last redeployment was for
    redeployed : when, unix seconds, within the window
    healthy_since : unix seconds, None while it is not
    mended : whether it was healthy after the last redeployment
    vain : redeployments since it was last healthy
    hung : when it was redeployed because it ran and did not get on, unix seconds, within the window
    gave_up : why; empty while it is tended
    in_vain : the fingerprint that it was given up with
    refused : why today's code or configuration does not replace what runs; empty when it may
    told : what its check was last told, empty for well; None before it was told anything
    """

    suspected: str = ""
    since: float | None = None
    treated: str = ""
    redeployed: list[float] = field(default_factory=list)
    healthy_since: float | None = None
    mended: bool = True
    vain: int = 0
    hung: list[float] = field(default_factory=list)
    gave_up: str = ""
    in_vain: str = ""
    refused: str = ""
    told: str | None = None

    @property
    def alarm(self) -> str:
        """What a person must see to; empty when nothing."""
        return self.gave_up or self.refused

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Memory:
        """Return what ``plain`` made plain."""
        return cls(**value)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def ailment_of(look: Look, today: Mapping[str, str], now: float, *, may_end: bool, refused: bool) -> Ailment | None:
    """Return what is wrong with a service, None when it should be left alone.

    Parameters
    ----------
    today : the fingerprint of today's configuration and code
    now : unix seconds
    may_end : whether coming to an end is right for it (the source is a recording)
    refused : whether today's configuration and code failed their rehearsal: what runs is then as good as it gets
    """
    phase, cure = look.status.phase, cure_of(today)
    if phase in _ON_ITS_WAY or (phase == "done" and may_end):
        return None
    if phase not in {"running", "frozen"}:  # a frozen one is its shim's to end; should that fail, its beat says so
        words = look.status.detail.lower()
        full = any(sign in words for sign in DISK_REFUSES)
        return Ailment(phase, _end_of(look, now), cure, certain=True, outside=full)
    if not refused and (changed := changes(look.meta, today)):
        # Not certain at once: an editor may be about to save more.
        return Ailment(changed, changed, cure, certain=False, ours=True)
    # What a beat says may be of the moment, so never certain at once either.
    kind, words = _unwell(look, now)
    return Ailment(kind, words, cure, certain=False) if kind else None


def cure_of(today: Mapping[str, str]) -> str:
    """Return a fingerprint as one word, to recognise it by."""
    return " ".join(today.values())


def changes(meta: Mapping[str, str], today: Mapping[str, str]) -> str:
    """Say what of a fingerprint is no longer today's; empty when nothing."""
    return ", ".join(
        f"{name} changed ({meta.get(name, 'none')} -> {today[name]})" for name in today if meta.get(name) != today[name]
    )


def _unwell(look: Look, now: float) -> tuple[str, str]:
    """Return what is wrong with a service that runs, a kind and words; empty when nothing is."""
    beat = look.own_beat
    if beat is None:
        age = now - (look.status.started_at or 0) / 1e9
        return ("mute", f"never sent a heartbeat in {age:.0f} s") if age > START_GRACE else ("", "")
    if not live(beat, now):
        if (age := abs(now - beat.beat_at)) > BEAT_TTL:
            return "silent", f"no heartbeat for {age:.0f} s"
        still = now - max(beat.progressed_at, beat.started_at)
        return "stuck", f"its offset has not moved for {still:.0f} s with {beat.lag or 0:,} records waiting"
    late = overdue(beat, now)
    return ("overdue", f"a version is due for {late:.0f} s while examples arrive") if late else ("", "")


def judge(memory: Memory, look: Look, ailment: Ailment | None, now: float) -> bool:
    """Note a look in the memory, and return whether to redeploy the service now.

    Notes
    -----
    Giving up is sticky: the window passing changes nothing. Only a healthy look does, and someone else caused that, or
    other code or another configuration to try.
    """
    _forget_future(memory, now)
    if ailment is None:
        _note_health(memory, look, now)
        return False
    memory.healthy_since = None
    _note_former_health(memory, look)
    memory.since = memory.since or now
    confirmed = ailment.certain or memory.suspected == ailment.kind
    memory.suspected = ailment.kind
    if memory.gave_up and ailment.cure != memory.in_vain:
        memory.gave_up, memory.redeployed, memory.hung, memory.vain = "", [], [], 0  # a person changed something since
    if memory.gave_up or not confirmed:
        return False
    if ailment.outside:
        return _try_again(memory, ailment, now)
    # A new change is a person's doing, and a new start; the same change twice means that deploying it did not help.
    new_start = ailment.ours and memory.treated != ailment.kind
    if new_start:
        memory.redeployed, memory.hung, memory.vain = [], [], 0
    memory.redeployed = [at for at in memory.redeployed if now - at < WINDOW_S]
    memory.hung = [at for at in memory.hung if now - at < WINDOW_S]
    if loop := _loop_of(memory):
        memory.gave_up, memory.in_vain = f"{loop}, last: {ailment.words}", ailment.cure
        return False
    if not memory.mended and memory.redeployed and now - memory.redeployed[-1] < PAUSES_S[memory.vain]:
        return False
    if not new_start:
        memory.redeployed.append(now)
        memory.hung += [] if ailment.certain or ailment.ours else [now]
        memory.vain += 1
    memory.mended, memory.suspected, memory.treated = False, "", ailment.kind
    return True


def _forget_future(memory: Memory, now: float) -> None:
    """Forget what was noted ahead of now: the clock was set back, and nothing must wait until it is there again."""
    memory.redeployed = [at for at in memory.redeployed if at <= now]
    memory.hung = [at for at in memory.hung if at <= now]
    memory.since = None if memory.since is None else min(memory.since, now)
    memory.healthy_since = None if memory.healthy_since is None else min(memory.healthy_since, now)


def _note_health(memory: Memory, look: Look, now: float) -> None:
    memory.suspected, memory.since = "", None
    if look.status.phase == "done" or ready(look.own_beat, now):
        memory.mended, memory.vain, memory.gave_up = True, 0, ""
        memory.healthy_since = memory.healthy_since or now
        if now - memory.healthy_since >= STEADY_S:
            memory.redeployed, memory.hung = [], []


def _note_former_health(memory: Memory, look: Look) -> None:
    """Note that the last redeployment did help, where the process that has ended since said so before it ended.

    It may have died before the sensor looked again.
    """
    beat, ended = look.beat, look.status.phase != "running"
    if ended and beat is not None and memory.redeployed and beat.started_at > memory.redeployed[-1]:
        well = beat.ready and beat.phase == "running"
        memory.mended, memory.vain = memory.mended or well, 0 if well else memory.vain


def _loop_of(memory: Memory) -> str:
    """Say what has been tried often enough; empty when nothing."""
    minutes = f"within {WINDOW_S / 60:.0f} min"
    if memory.vain >= MOST:
        return f"{memory.vain} redeployments did not help"
    if len(memory.hung) >= MOST:
        return f"it hung again after {len(memory.hung)} redeployments {minutes}"
    if len(memory.redeployed) >= MOST_MENDED:
        return f"{len(memory.redeployed)} redeployments {minutes} helped for a moment each"
    return ""


def _try_again(memory: Memory, ailment: Ailment, now: float) -> bool:
    if not memory.mended and memory.redeployed and now - memory.redeployed[-1] < PAUSES_S[-1]:
        return False
    memory.redeployed = [now]  # one, however many there were: it counts for the pause, not towards giving up
    memory.mended, memory.suspected, memory.treated = False, "", ailment.kind
    return True


def _end_of(look: Look, now: float) -> str:
    status = look.status
    if status.phase == "absent":
        return "is not deployed yet"
    if status.phase == "stopped":
        return "is stopped, and should run"
    who = f"process {look.beat.pid}" if look.beat is not None else "process"
    how = status.reason or status.phase
    why = f", {status.last_words}" if status.last_words else ""
    return f"{who} ended ({how}{why}), seen at {datetime.fromtimestamp(now, UTC):%H:%M:%S} UTC".replace("; ", ", ")
