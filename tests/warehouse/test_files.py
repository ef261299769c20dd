import errno
import io
import os
import threading

import pytest

from domain.errors import Unavailable
from warehouse.files import exclusive, stage, write_atomic


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "state"
    write_atomic(path, b"a longer first text")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_a_staged_file_lies_beside_its_target_and_does_not_touch_it(tmp_path):
    path = tmp_path / "state"
    write_atomic(path, b"old")
    staged = stage(path, b"new")
    assert staged.parent == path.parent
    assert (path.read_bytes(), staged.read_bytes()) == (b"old", b"new")


def test_a_held_lock_is_named_with_its_holder_once_patience_ends(tmp_path):
    lock, told = tmp_path / "lock", rf"held for 0\.05 s by process {os.getpid()}"
    with exclusive(lock, 1), pytest.raises(Unavailable, match=told), exclusive(lock, 0.05):
        pass


def test_only_one_thread_at_a_time_holds_the_lock(tmp_path):
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with exclusive(tmp_path / "lock", 20):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 60


class Faulty:
    """The calls by which a file reaches the disk, of which the n-th fails."""

    def __init__(self, monkeypatch, number, code):
        self.number, self.code, self.calls = number, code, []
        for name in ("mkdir", "open", "fsync", "replace"):
            monkeypatch.setattr(os, name, self.failing(name, getattr(os, name)))
        monkeypatch.setattr(io, "open", self.opening(io.open))

    def failing(self, name, real):
        def call(*args, **kwargs):
            self.calls.append(name)
            if len(self.calls) == self.number:
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call

    def opening(self, real):
        def call(*args, **kwargs):
            file = self.failing("create", real)(*args, **kwargs)
            return FaultyFile(file.detach(), self) if "xb" in args else file

        return call


class FaultyFile(io.BufferedWriter):
    def __init__(self, raw, disk):
        super().__init__(raw)
        self.disk = disk

    def write(self, data):
        super().write(data[: len(data) // 2])  # a full disk takes a part first
        self.disk.failing("write", lambda: None)()
        return super().write(data[len(data) // 2 :])

    def flush(self):
        self.disk.failing("flush", lambda: None)()
        super().flush()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whichever_call_the_disk_refuses_the_file_is_old_or_new_and_nothing_piles_up(tmp_path, code):
    path = tmp_path / "state"
    number, refused = 0, []
    while True:
        number += 1
        write_atomic(path, b"old " * 500)
        with pytest.MonkeyPatch.context() as patch:
            disk = Faulty(patch, number, code)
            try:
                write_atomic(path, b"new " * 500)
                written = True
            except Unavailable as error:
                written = "replace" in disk.calls[: number - 1]
                refused.append((disk.calls[number - 1], str(error)))
        assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
        assert path.read_bytes() == (b"new " if written else b"old ") * 500
        if len(disk.calls) < number:
            break
    # A directory that is there need not be made: only that call may fail without harm.
    assert {"create", "write", "flush", "fsync", "replace", "open"} == {call for call, _ in refused}
    assert all(str(path) in words and os.strerror(code) in words for _, words in refused)


def test_a_lock_is_held_also_where_the_disk_takes_no_name_of_its_holder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with exclusive(tmp_path / "lock", 1), pytest.raises(Unavailable, match="held for"), exclusive(tmp_path / "lock", 0):
        pass
