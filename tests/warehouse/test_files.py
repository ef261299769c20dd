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
