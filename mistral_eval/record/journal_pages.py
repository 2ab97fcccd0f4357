"""Replies out of a damaged journal: every page of the file is read by itself.

SQLite reaches a row from the root of its tree, so one bad page can hide all the others. Here each
page that looks like a leaf of a table is parsed alone, and a row counts when its checksum fits.
Source of the layout: sqlite.org/fileformat2.html, sections 1.5, 1.6, 2.1 and 4.1.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096  # bytes; SQLite's default, which journals have
HEADER = 100  # bytes before the first page's tree
WAL_HEADER = 32
FRAME_HEADER = 24
LEAF = 13  # the page of a table's tree that holds rows
INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
MOST_LOCAL = PAGE - 35
LEAST_LOCAL = (PAGE - 12) * 32 // 255 - 23

Row = tuple[bytes, bytes]


def checksum(key: bytes, reply: bytes) -> int:
    """What tells a row from what a disk made of it."""
    return zlib.crc32(reply, zlib.crc32(key))


def readable_rows(path: Path) -> Iterator[Row]:
    """The (key, reply) pairs whose checksum fits, of the file and of its write-ahead log.

    A pair may come more than once: pages keep what they once held.
    """
    pages = list(_pages(path))
    latest = dict(pages)  # a log's pages replace the file's
    for number, page in pages:
        start = HEADER if number == 1 else 0
        for payload in _payloads(page, start, latest):
            row = _row(payload)
            if row is not None:
                yield row


def _pages(path: Path) -> Iterator[tuple[int, bytes]]:
    """(page number, content) of the file, then of its write-ahead log if there is one."""
    with path.open("rb") as file:
        number = 0
        while page := file.read(PAGE):
            number += 1
            yield number, page.ljust(PAGE, b"\0")
    log = path.with_name(f"{path.name}-wal")
    if not log.is_file():
        return
    with log.open("rb") as file:
        file.seek(WAL_HEADER)
        while len(frame := file.read(FRAME_HEADER + PAGE)) == FRAME_HEADER + PAGE:
            yield int.from_bytes(frame[:4], "big"), frame[FRAME_HEADER:]


def _payloads(page: bytes, start: int, pages: dict[int, bytes]) -> Iterator[bytes]:
    """What each cell of a table's leaf holds; nothing for other pages."""
    if page[start] != LEAF:
        return
    cells = int.from_bytes(page[start + 3 : start + 5], "big")
    first = start + 8
    for place in range(first, min(first + 2 * cells, PAGE - 1), 2):
        cell = int.from_bytes(page[place : place + 2], "big")
        size, begin = _varint(page, cell)
        _, begin = _varint(page, begin)  # the row's number
        payload = _whole(page, begin, size, pages)
        if payload is not None:
            yield payload


def _whole(page: bytes, begin: int, size: int, pages: dict[int, bytes]) -> bytes | None:
    """A cell's payload with what overflowed to other pages; None where that is gone."""
    local = size
    if size > MOST_LOCAL:
        local = LEAST_LOCAL + (size - LEAST_LOCAL) % (PAGE - 4)
        if local > MOST_LOCAL:
            local = LEAST_LOCAL
    parts = [page[begin : begin + local]]
    have = local
    after = int.from_bytes(page[begin + local : begin + local + 4], "big")
    while have < size:
        overflow = pages.get(after)
        if overflow is None or have > PAGE * len(pages):
            return None
        parts.append(overflow[4:])
        have += PAGE - 4
        after = int.from_bytes(overflow[:4], "big")
    return b"".join(parts)[:size]


def _row(payload: bytes) -> Row | None:
    """The record (key, reply, checksum), if it is one and its checksum fits."""
    end, place = _varint(payload, 0)
    kinds: list[int] = []
    while place < min(end, len(payload)) and len(kinds) < 4:
        kind, place = _varint(payload, place)
        kinds.append(kind)
    if len(kinds) != 3 or kinds[0] < 12 or kinds[1] < 13 or kinds[2] not in INTEGER_BYTES:
        return None
    key_end = end + (kinds[0] - 12) // 2
    reply_end = key_end + (kinds[1] - 13) // 2
    key, reply = payload[end:key_end], payload[key_end:reply_end]
    found = payload[reply_end : reply_end + INTEGER_BYTES[kinds[2]]]
    number = kinds[2] - 8 if kinds[2] > 7 else int.from_bytes(found, "big", signed=True)
    return (key, reply) if number == checksum(key, reply) else None


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """SQLite's number of 1 to 9 bytes, and where it ends; past the data, zero."""
    value = 0
    for count in range(9):
        if place >= len(data):
            return 0, place
        byte = data[place]
        place += 1
        if count == 8:
            return (value << 8) | byte, place
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, place
    return value, place
