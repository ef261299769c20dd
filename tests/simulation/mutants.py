"""Planted bugs: small changes to the real code, such as a person might make, that the simulation must catch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from unittest import mock

import numpy as np

from domain import checkpoint, pipeline, tape
from streaming import featurizer, lander, predictor, station, trainer, transport
from streaming.gate import Gate
from streaming.joint import Joint
from tests.simulation import invariants as law
from warehouse import landing, leases, registry

patch = mock.patch.object


@dataclass(frozen=True)
class Mutant:
    """A bug, and the invariants one of which must be found violated."""

    name: str
    plant: Callable[[], contextlib.AbstractContextManager[object]]
    caught_by: tuple[str, ...]


def _wrapped(owner: object, name: str, change: Callable) -> contextlib.AbstractContextManager[object]:
    """Replace a function by ``change(the real one)``."""
    return patch(owner, name, change(getattr(owner, name)))


def offset_one_record_late() -> contextlib.AbstractContextManager[object]:
    """The featurizer notes the offset after the next record."""

    def change(real):
        def work(self, wait_s):
            handled = real(self, wait_s)
            for works in self._works.values() if handled else ():
                works.offset += 1
            return handled

        return work

    return _wrapped(featurizer.Featurizer, "work", change)


def state_without_its_outputs() -> contextlib.AbstractContextManager[object]:
    """The featurizer saves its state and leaves what it sent to the client's thread."""

    def change(real):
        def save(self):
            self._writer.flush = lambda: None
            real(self)
            del self._writer.flush

        return save

    return _wrapped(featurizer.Featurizer, "save", change)


class OpenGate(Gate):
    """Lets everything through."""

    def admit(self, table, offsets, records):
        """Return what came."""
        return table, offsets


def repetitions_are_learned() -> contextlib.AbstractContextManager[object]:
    """The trainer's gate drops nothing of what was seen."""
    return patch(trainer, "Gate", OpenGate)


def label_one_bar_early() -> contextlib.AbstractContextManager[object]:
    """The stream's labels look ahead one bar less than they say."""

    def change(real):
        return lambda bars, asked, after, horizon, interval: real(bars, asked, after, horizon + interval, interval)

    return _wrapped(pipeline, "examples", change)


def epoch_used_again() -> contextlib.AbstractContextManager[object]:
    """A lease is taken without a new epoch."""

    def change(real):
        def acquire(self, line, owner, ttl_s):
            lease = real(self, line, owner, ttl_s)
            first = replace(lease, owner="mill", epoch=2)
            self._update(lease, epoch=2, owner="mill")
            return first

        return acquire

    return _wrapped(leases.Leases, "acquire", change)


def no_guard() -> contextlib.AbstractContextManager[object]:
    """Whoever had a lease once may publish."""
    return patch(registry, "guard", return_value=None)


def realign_forgets_the_time() -> contextlib.AbstractContextManager[object]:
    """A topic made anew lands from its start, whatever has landed."""

    def realign(lake, starts):
        def work(connection):
            stored = landing._stored(connection)
            landing._move(connection, {k: landing.Landed(o, 0, log) for k, (o, log) in starts.items() if k in stored})

        lake.write(work)

    return patch(lander, "realign", realign)


@contextlib.contextmanager
def repetitions_land() -> Iterator[None]:
    """Neither the lander's gate nor the time in the lake keeps out what has landed."""
    with patch(lander, "Gate", OpenGate), patch(landing, "_is_new", lambda p, before: p.offsets >= before.next_offset):
        yield


def rows_and_offsets_apart() -> contextlib.AbstractContextManager[object]:
    """Rows in one transaction, offsets in the next."""

    def land(lake, batches):
        later = {}
        with patch(landing, "_move", lambda connection, moved: later.update(moved)):
            inserted = _LAND(lake, batches)
        lake.write(lambda connection: landing._move(connection, later) if later else None)
        return inserted

    return patch(lander, "land", land)


_LAND = landing.land


def number_without_its_model() -> contextlib.AbstractContextManager[object]:
    """The predictor names the new version and answers with the old one."""

    def change(real):
        def swap(self, served, cast):
            line = served.line
            real(self, served, cast)
            served.line = line

        return swap

    return _wrapped(predictor.Predictor, "_swap", change)


def repetitions_are_answered() -> contextlib.AbstractContextManager[object]:
    """The predictor answers a vector as often as it comes."""
    return patch(predictor, "Gate", OpenGate)


def predictor_starts_at_the_end() -> contextlib.AbstractContextManager[object]:
    """A restarted predictor answers only what comes from now on."""

    def resume(self, partition, answered, low):
        key = "features", partition
        return self._context.transport.ends([key])[key][1]

    return patch(predictor.Predictor, "_resume", resume)


@contextlib.contextmanager
def no_log_identity() -> Iterator[None]:
    """An offset is used in whichever log there is."""

    def resume(self, key, offset, log, is_old):
        low, high = self._ends[key]
        return (low if offset is None else min(max(low, offset), high)), ""

    with patch(transport.Logs, "resume", resume), patch(transport.Logs, "check", lambda self, surely=False: None):
        yield


def question_before_answer() -> contextlib.AbstractContextManager[object]:
    """At equal times the stream asks before it learns."""

    def merge(asked, answered):
        done = tape.merge(asked, answered)
        when = done.ts + np.where(done.asks, 0, (answered.available - answered.ts)[:1].sum())
        order = np.lexsort((~done.asks, when))
        return tape.Tape(done.asks[order], done.ts[order], done.x[order], done.y[order])

    return patch(trainer, "merge", merge)


def watermark_ahead_of_the_labels() -> contextlib.AbstractContextManager[object]:
    """The tape is taken for complete as far as the newer of the two topics."""

    def ready(asked, answered):
        if not len(asked) or not len(answered):
            return None
        return int(max(asked.ts[-1], answered.available[-1]))

    return patch(station, "ready_until", ready)


def row_before_its_file() -> contextlib.AbstractContextManager[object]:
    """A version's artifact gets its name after the row is committed."""

    def change(real):
        def publish(self, line, payload, info, lease):
            late = []
            with patch(registry, "settle", lambda staged, path: late.append((payload, path))):
                version = real(self, line, payload, info, lease)
            for data, path in late:
                for _ in range(5):  # a death is as likely in it as in a slow disk
                    self._control._fuses.point()
                path.write_bytes(data)
            return version

        return publish

    return _wrapped(registry.Registry, "publish", change)


@contextlib.contextmanager
def damaged_versions_load() -> Iterator[None]:
    """No digest and no signature is looked at."""
    trusting = SimpleNamespace(compare_digest=lambda a, b: True, digest=checkpoint.hmac.digest)
    load = patch(registry.Registry, "load", lambda self, version: version.path.read_bytes())
    with load, patch(checkpoint, "hmac", trusting):
        yield


def retention_takes_the_newest() -> contextlib.AbstractContextManager[object]:
    """Old versions are pruned, and the newest with them."""

    def change(real):
        def publish(self, partition, station):
            before = station.version
            real(self, partition, station)
            if station.version != before:
                path = self._context.registry.newest(station.line.instrument).path
                path.unlink(missing_ok=True)

        return publish

    return _wrapped(trainer.Trainer, "_publish", change)


def restart_from_the_first_version() -> contextlib.AbstractContextManager[object]:
    """A restarted trainer begins at the first model, with the newest one's offsets."""

    def newest_good(store, line, by):
        version, newest = _NEWEST(store, line, by)
        return version, replace(newest, line=store.open(store.get(line, 1)).line)

    return patch(trainer, "newest_good", newest_good)


_NEWEST = trainer.newest_good


def vector_of_the_future() -> contextlib.AbstractContextManager[object]:
    """The stream's vectors are computed with the bar after their own."""

    def change(real):
        def vectors(bars, after, interval):
            table = real(bars, after, interval)
            return type(table)(table.ts, np.roll(table.values, -1, axis=0))

        return vectors

    return _wrapped(pipeline, "vectors", change)


def a_hole_is_followed() -> contextlib.AbstractContextManager[object]:
    """Where a topic was deleted, its readers go on with whatever comes first."""
    return patch(Joint, "skip", lambda self, when: 0)


def outputs_unwatched() -> contextlib.AbstractContextManager[object]:
    """The featurizer does not look whether what it sent is still there."""
    return patch(featurizer.Featurizer, "_whole", lambda self, *_: True)


MUTANTS = (
    Mutant("offset one record late", offset_one_record_late, (law.WHOLE, law.EXACT, law.MATURED)),
    Mutant("state without its outputs", state_without_its_outputs, (law.WHOLE,)),
    Mutant("repetitions are learned", repetitions_are_learned, (law.LEARNED, law.DIGEST, law.FORWARD)),
    Mutant("label one bar early", label_one_bar_early, (law.MATURED, law.EXACT, law.WHOLE)),
    Mutant("epoch used again", epoch_used_again, (law.EPOCH,)),
    Mutant("no guard", no_guard, (law.EPOCH,)),
    Mutant("realign forgets the time", realign_forgets_the_time, (law.ROWS, law.OFFSETS)),
    Mutant("repetitions land", repetitions_land, (law.ROWS, law.OFFSETS)),
    Mutant("rows and offsets apart", rows_and_offsets_apart, (law.ROWS, law.OFFSETS)),
    Mutant("number without its model", number_without_its_model, (law.ANSWER,)),
    Mutant("repetitions are answered", repetitions_are_answered, (law.ANSWER,)),
    Mutant("predictor starts at the end", predictor_starts_at_the_end, (law.ROWS, law.DRAINED)),
    Mutant(
        "no log identity",
        no_log_identity,
        (law.DIGEST, law.LEARNED, law.ROWS, law.OFFSETS, law.WHOLE, law.ONCE, law.DRAINED),
    ),
    Mutant("question before answer", question_before_answer, (law.DIGEST,)),
    Mutant("watermark ahead of the labels", watermark_ahead_of_the_labels, (law.LEARNED, law.DIGEST)),
    Mutant("row before its file", row_before_its_file, (law.LOADS,)),
    Mutant("damaged versions load", damaged_versions_load, (law.SERVED, law.DIGEST, law.ANSWER)),
    Mutant("retention takes the newest", retention_takes_the_newest, (law.LOADS,)),
    Mutant(
        "restart from the first version",
        restart_from_the_first_version,
        (law.LEARNED, law.DIGEST, law.FORWARD, law.DRAINED),
    ),
    Mutant("a hole is followed", a_hole_is_followed, (law.LEARNED, law.DIGEST, law.ROWS, law.ANSWER)),
    Mutant("outputs unwatched", outputs_unwatched, (law.EXACT, law.WHOLE, law.DRAINED, law.LEARNED, law.ROWS)),
    Mutant("vector of the future", vector_of_the_future, (law.EXACT,)),
)
