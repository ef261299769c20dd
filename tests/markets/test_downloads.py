"""Files from a real server that breaks off, lies and lacks some."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response

from domain.errors import Unavailable
from markets.downloads import Downloads
from tests.markets.samples import START
from tests.markets.servers import Cut, Slept, json

pytestmark = pytest.mark.process


def file_of(server, tmp_path, path, told=None):
    async def run():
        tell = (told if told is not None else []).append
        async with Downloads(tmp_path, server.url, Slept().timing, tell=tell) as downloads:
            return await downloads.file(path)

    return asyncio.run(run())


def test_a_file_is_downloaded_once(server, archive, tmp_path):
    path = archive.candles(START, b"content")
    got = file_of(server, tmp_path, path)
    assert got.read_bytes() == b"content"
    assert got == tmp_path / path.lstrip("/")
    assert file_of(server, tmp_path, path) == got
    assert server.paths == [f"{path}.CHECKSUM", path]
    assert [p.name for p in got.parent.iterdir()] == [got.name]


def test_a_download_goes_on_where_it_broke_off(server, archive, tmp_path):
    """In the same run and in the next, after the process was killed in between."""
    body = bytes(range(256)) * 1_000
    path = archive.candles(START, body)
    digest = archive.digest(path)
    resumed = {"content-range": f"bytes 150000-{len(body) - 1}/{len(body)}"}
    server.script = [
        digest,
        Cut(body[100_000:150_000], len(body) - 100_000, 206, {"content-range": "bytes 100000-255999/256000"}),
        json("{}", 503),
        Cut(body[150_000:200_000], len(body) - 150_000, 206, resumed),
    ]
    part = tmp_path / f"{path.lstrip('/')}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(body[:100_000])
    assert file_of(server, tmp_path, path).read_bytes() == body
    assert [asked.headers.get("range") for asked in server.asked] == [
        None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=200000-",
    ]  # fmt: skip


def test_a_server_without_ranges_is_read_from_the_start(server, archive, tmp_path):
    body = b"0123456789" * 100
    path = archive.candles(START, body)
    digest = archive.digest(path)
    server.script = [digest, Cut(body[:500], len(body)), Response(body)]
    assert file_of(server, tmp_path, path).read_bytes() == body
    assert server.script == []
    assert len(server.asked) == 3


def test_patience_is_for_downloads_that_do_not_get_on(server, archive, tmp_path):
    """However often it is cut, as long as each part brings something."""
    body = bytes(range(200))
    path = archive.candles(START, body)
    cuts = [Cut(body[k : k + 4], 200 - k, 206 if k else 200) for k in range(0, 200, 4)]
    server.script = [archive.digest(path), *cuts]
    slept = Slept()

    async def run():
        async with Downloads(tmp_path, server.url, slept.timing, patience_s=1.0) as downloads:
            return await downloads.file(path)

    assert asyncio.run(run()).read_bytes() == body
    assert slept.waits == []
    server.script = [archive.digest(path := archive.candles(START, b"other")), *[json("{}", 503)] * 100]
    (tmp_path / path.lstrip("/")).unlink()
    with pytest.raises(Unavailable, match="answers 503"):
        asyncio.run(run())


def test_a_part_that_was_complete_is_kept(server, archive, tmp_path):
    path = archive.candles(START, b"content")
    part = tmp_path / f"{path.lstrip('/')}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"content")
    assert file_of(server, tmp_path, path).read_bytes() == b"content"


@pytest.mark.parametrize("spoiled", [b"spoiled", b"content and more", b""])
def test_a_file_with_a_wrong_digest_is_told_and_downloaded_again(server, archive, tmp_path, spoiled):
    path = archive.candles(START, b"content")
    part = tmp_path / f"{path.lstrip('/')}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(spoiled)
    told = []
    assert file_of(server, tmp_path, path, told).read_bytes() == b"content"
    assert len(told) == (1 if spoiled else 0)
    assert all(line.startswith(f"{server.url}{path} has the SHA-256 ") and "\n" not in line for line in told)


def test_a_digest_that_stays_wrong_is_refused_and_nothing_is_kept(server, archive, tmp_path):
    path = archive.candles(START, b"content")
    archive.digests[path] = "0" * 64
    with pytest.raises(Unavailable, match=r"has the SHA-256 .* instead of 000000000000\.\.\., and had it 2 times"):
        file_of(server, tmp_path, path)
    assert server.paths.count(path) == 2
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_no_digest_is_refused(server, archive, tmp_path):
    path = archive.candles(START, b"content")
    archive.digests[path] = "nonsense"
    with pytest.raises(Unavailable, match="holds no SHA-256 but 'nonsense"):
        file_of(server, tmp_path, path)


def test_two_at_once_bring_a_file_once(server, archive, tmp_path):
    path = archive.candles(START, b"content" * 10_000)

    async def run():
        async with (
            Downloads(tmp_path, server.url, Slept().timing) as one,
            Downloads(tmp_path, server.url, Slept().timing) as other,
        ):
            return await asyncio.gather(*(downloads.file(path) for downloads in (one, other, one)))

    got = asyncio.run(run())
    assert len(set(got)) == 1
    assert got[0].read_bytes() == b"content" * 10_000
    assert server.paths.count(path) == 1
