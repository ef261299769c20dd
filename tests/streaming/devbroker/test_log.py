"""The log of a partition: what it takes, what it finds again, what it drops."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from streaming.devbroker.batches import HEADER, HEADER_SIZE, header_at, whole
from streaming.devbroker.log import DROPS_A_ROUND, PartitionLog
from streaming.devbroker.records import first_at
from streaming.devbroker.refusals import Refusal
from streaming.devbroker.settings import log_settings

NOW_MS = 1_000_000_000_000


def opened(directory: Path, **settings: object) -> PartitionLog:
    chosen = {name.replace("_", "."): str(value) for name, value in settings.items()}
    return PartitionLog(directory, log_settings(chosen), "never")


def offsets(log: PartitionLog, at: int | None = None, max_bytes: int = 1 << 20) -> Iterator[int]:
    """Yield the base offset of every batch a reader would meet."""
    at = log.start if at is None else at
    while found := log.slice(at, max_bytes):
        data = found.read()
        position = 0
        while position < len(data):
            header = whole(data, position, len(data))
            assert header is not None, "a reader met half a batch"
            yield header.base_offset
            position += header.size
            at = header.next_offset


def refusal(log: PartitionLog, data: memoryview) -> ErrorCode:
    with pytest.raises(Refusal) as caught:
        log.append(data)
    return caught.value.code


def changed(data: memoryview, at: int, layout: str, value: int) -> memoryview:
    copy = bytearray(data)
    struct.pack_into(layout, copy, at, value)
    return memoryview(bytes(copy))


def record_at(log: PartitionLog, timestamp: int) -> tuple[int, int] | None:
    found = log.at_time(timestamp)
    return None if found is None else first_at(*found, timestamp)


class TestAppending:
    def test_offsets_follow_each_other(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        assert [log.append(batch(count)).base_offset for count in (1, 5, 2)] == [0, 1, 6]
        assert (log.start, log.end) == (0, 8)
        assert list(offsets(log)) == [0, 1, 6]

    def test_an_unfit_batch_is_refused_and_leaves_no_trace(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, max_message_bytes=1000)
        fit = batch(3)
        assert refusal(log, changed(fit, len(fit) - 1, ">b", 7)) == ErrorCode.corrupt_message
        assert refusal(log, fit[:-1]) == ErrorCode.corrupt_message
        assert refusal(log, fit[:20]) == ErrorCode.corrupt_message
        assert refusal(log, changed(fit, 8, ">i", -5)) == ErrorCode.corrupt_message
        assert refusal(log, changed(fit, 16, ">b", 1)) == ErrorCode.unsupported_for_message_format
        assert refusal(log, memoryview(bytes(fit) * 2)) == ErrorCode.invalid_record
        assert refusal(log, batch(value=b"x" * 2000)) == ErrorCode.message_too_large
        assert (log.end, log.size) == (0, 0)

    @pytest.mark.parametrize(
        ("attributes", "code"),
        [
            (0x10, ErrorCode.invalid_txn_state),
            (0x20, ErrorCode.invalid_record),
            (0x08, ErrorCode.invalid_timestamp),
        ],
    )
    def test_what_only_a_broker_may_write_is_refused(self, tmp_path: Path, batch, attributes, code) -> None:
        from crc32c import crc32c

        data = changed(batch(), 21, ">h", attributes)
        assert refusal(opened(tmp_path), changed(data, 17, ">I", crc32c(bytes(data[21:])))) == code

    def test_a_full_disk_leaves_the_log_as_it_was(self, tmp_path: Path, batch, monkeypatch) -> None:
        log = opened(tmp_path)
        log.append(batch())
        real = os.writev
        monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, parts[:1]))
        assert refusal(log, batch()) == ErrorCode.kafka_storage_error
        monkeypatch.undo()
        assert log.append(batch()).base_offset == 1
        assert list(offsets(opened(tmp_path))) == [0, 1]


class TestProducers:
    def test_each_of_the_last_five_batches_may_be_repeated_even_after_a_restart(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        for sequence in range(0, 14, 2):
            log.append(batch(2, producer=9, sequence=sequence))
        for known in (log, opened(tmp_path)):
            for sequence in range(4, 14, 2):
                assert known.append(batch(2, producer=9, sequence=sequence)).base_offset == sequence
            assert refusal(known, batch(2, producer=9, sequence=2)) == ErrorCode.out_of_order_sequence_number
            assert known.end == 14

    def test_a_gap_is_refused_even_after_a_restart(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        log.append(batch(3, producer=9))
        for known in (log, opened(tmp_path)):
            assert refusal(known, batch(producer=9, sequence=4)) == ErrorCode.out_of_order_sequence_number
        assert log.append(batch(producer=9, sequence=3)).base_offset == 3

    def test_a_newer_epoch_starts_anew_and_fences_the_older(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        log.append(batch(3, producer=9))
        assert refusal(log, batch(producer=9, epoch=1, sequence=3)) == ErrorCode.out_of_order_sequence_number
        assert log.append(batch(producer=9, epoch=1)).base_offset == 3
        assert refusal(log, batch(producer=9, epoch=0, sequence=3)) == ErrorCode.invalid_producer_epoch

    def test_sequences_run_around(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        log.append(batch(2, producer=9, sequence=2**31 - 2))
        assert log.append(batch(producer=9, sequence=0)).base_offset == 2

    def test_producers_do_not_mind_each_other(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        for producer in (1, 2, 3):
            log.append(batch(producer=producer))
        assert log.append(batch(producer=2)).base_offset == 1


class TestReading:
    @pytest.mark.parametrize("max_bytes", [0, 1, 100, 5000, 1 << 20])
    def test_every_offset_leads_to_the_batch_that_holds_it(self, tmp_path: Path, batch, max_bytes) -> None:
        log = opened(tmp_path, segment_bytes=20_000)
        bases = [log.append(batch(3, value=b"x" * (number % 300))).base_offset for number in range(400)]
        for offset in range(0, log.end, 7):
            found = log.slice(offset, max_bytes)
            assert found is not None
            first = header_at(found.read())
            assert first.base_offset <= offset < first.next_offset
        assert list(offsets(log, max_bytes=max_bytes)) == bases

    def test_outside_of_the_log_there_is_nothing(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        log.append(batch(3))
        assert log.slice(3, 100) is None
        for offset in (-1, 4):
            with pytest.raises(Refusal) as caught:
                log.slice(offset, 100)
            assert caught.value.code == ErrorCode.offset_out_of_range

    def test_the_end_of_what_fits_is_never_half_a_batch(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        for _ in range(300):
            log.append(batch(value=b"x" * 50))
        found = log.slice(0, 10_000)
        assert found is not None
        assert 5_000 < found.extent.length <= 10_000
        small = log.slice(0, 10, at_least_one=False)
        assert small is not None
        assert small.extent.length == 0

    def test_a_time_is_found_across_segments_even_when_times_are_out_of_order(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, segment_bytes=1000)
        times = [100, 50, 300, 200, 250, 900, 10, 901] * 20
        for time in times:
            log.append(batch(2, timestamp=time))
        for wanted in (0, 51, 101, 102, 251, 301, 302, 900, 902, 903):
            records = [(time + more, 2 * n + more) for n, time in enumerate(times) for more in (0, 1)]
            expected = next(((time, offset) for time, offset in records if time >= wanted), None)
            assert record_at(log, wanted) == expected, wanted
        assert log.newest_time == 902
        assert record_at(log, 902) == (902, 15)
        assert opened(tmp_path / "empty").newest_time == -1
        assert record_at(opened(tmp_path / "empty"), 0) is None


class TestRestarting:
    @pytest.mark.parametrize("torn", [b"\0", b"\0" * 500, b"garbage" * 30, None])
    def test_a_torn_tail_is_cut_off(self, tmp_path: Path, batch, torn) -> None:
        log = opened(tmp_path)
        for _ in range(3):
            log.append(batch(2))
        size = log.size
        file = tmp_path / f"{0:020d}.log"
        with file.open("ab") as tail:
            tail.write(bytes(batch(2))[:-3] if torn is None else torn)
        again = opened(tmp_path)
        assert (again.size, again.end, file.stat().st_size) == (size, 6, size)
        assert again.append(batch()).base_offset == 6

    def test_everything_from_the_first_harmed_batch_on_is_cut_off(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        for _ in range(3):
            log.append(batch(value=b"x" * 100))
        file = tmp_path / f"{0:020d}.log"
        data = bytearray(file.read_bytes())
        data[len(data) // 3 + HEADER_SIZE + 20] ^= 1
        file.write_bytes(data)
        assert opened(tmp_path).end == 1

    @pytest.mark.parametrize("harm", [None, "absent", "garbage", "cut"])
    def test_a_log_of_many_segments_is_as_before_with_or_without_their_indexes(
        self, tmp_path: Path, batch, harm
    ) -> None:
        log = opened(tmp_path, segment_bytes=1500)
        for number in range(100):
            log.append(batch(2, producer=number % 3, sequence=number // 3 * 2, timestamp=1000 * number))
        before = (log.start, log.end, log.size, list(offsets(log)), record_at(log, 50_000), log.newest_time)
        sealed = sorted(tmp_path.glob("*.sealed"))
        assert len(sealed) > 2
        for path in sealed[1:]:
            if harm == "absent":
                path.unlink()
            elif harm:
                path.write_bytes(b"garbage" if harm == "garbage" else path.read_bytes()[:-5])
        log = opened(tmp_path, segment_bytes=1500)
        after = (log.start, log.end, log.size, list(offsets(log)), record_at(log, 50_000), log.newest_time)
        assert after == before
        assert log.append(batch(2, producer=1, sequence=64)).base_offset == 194
        assert refusal(log, batch(2, producer=1, sequence=68)) == ErrorCode.out_of_order_sequence_number

    def test_a_gap_where_a_sealed_segment_lost_its_tail_is_read_over(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, segment_bytes=1000)
        for _ in range(40):
            log.append(batch(2))
        first = min(tmp_path.glob("*.log"))
        os.truncate(first, first.stat().st_size - 10)
        log = opened(tmp_path, segment_bytes=1000)
        lost = int(sorted(tmp_path.glob("*.log"))[1].stem) - 2
        found = log.slice(lost, 1000)
        assert found is not None
        assert header_at(found.read()).base_offset == lost + 2


class TestRetention:
    def test_old_segments_go_and_the_start_moves_on(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, segment_bytes=1000, retention_ms=1000)
        for number in range(40):
            log.append(batch(2, timestamp=NOW_MS + 100 * number))
        files = len(list(tmp_path.glob("*.log")))
        assert log.expire(NOW_MS + 1000) == 0
        assert 0 < log.expire(NOW_MS + 3000) < files
        assert 0 < log.start < log.end == 80
        again = opened(tmp_path, segment_bytes=1000, retention_ms=1000)
        assert (again.start, again.end) == (log.start, 80)
        with pytest.raises(Refusal):
            log.slice(log.start - 1, 100)

    def test_when_all_is_old_the_offsets_still_count_on(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, retention_ms=1000)
        log.append(batch(5, timestamp=NOW_MS))
        assert log.expire(NOW_MS + 5000) == 1
        assert (log.start, log.end, log.size) == (5, 5, 0)
        again = opened(tmp_path, retention_ms=1000)
        assert (again.start, again.end) == (5, 5)
        assert again.append(batch()).base_offset == 5

    def test_a_size_is_kept_to_by_whole_segments(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, segment_bytes=1000, retention_bytes=2500, retention_ms=-1)
        for _ in range(60):
            log.append(batch(2))
        while log.expire(NOW_MS):
            pass
        assert 2500 <= log.size < 3500 + 100

    def test_a_round_is_bounded(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, segment_bytes=100, retention_ms=1)
        for _ in range(3 * DROPS_A_ROUND):
            log.append(batch())
        assert log.expire(NOW_MS) == DROPS_A_ROUND

    def test_by_default_nothing_young_goes(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path)
        log.append(batch(timestamp=NOW_MS))
        assert log.expire(NOW_MS + 6 * 86_400_000) == 0

    def test_a_new_segment_is_begun_after_its_time_span(self, tmp_path: Path, batch) -> None:
        log = opened(tmp_path, segment_ms=1000)
        for time in (0, 500, 999, 1000, 1500):
            log.append(batch(timestamp=NOW_MS + time))
        assert sorted(int(path.stem) for path in tmp_path.glob("*.log")) == [0, 3]


def test_the_brokers_time_is_stamped_with_a_valid_checksum(tmp_path: Path, batch) -> None:
    log = opened(tmp_path, message_timestamp_type="LogAppendTime")
    sent = batch(2, timestamp=5)
    appended = log.append(sent)
    found = log.slice(0, 1000)
    assert found is not None
    data = found.read()
    header = whole(data, 0, len(data))
    assert header is not None
    assert header.log_append_time
    assert header.max_timestamp == appended.append_time > 5
    assert data[HEADER.size :] == bytes(sent[HEADER.size :])
    assert record_at(log, 6) == (appended.append_time, 0)
