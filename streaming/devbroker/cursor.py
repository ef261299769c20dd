"""Reading and writing the protocol's plain types; every length is checked against what is there."""

from __future__ import annotations

import struct
from typing import Any

_SHORT = struct.Struct(">h")

MAX_ELEMENTS = 5_000
"""Elements of all arrays of a request together: twice what a client may ask of all partitions there can be."""

_VARINT_BYTES = 5
"""Of a varint of 32 bits, the only ones a request has."""


class MalformedFrame(Exception):  # noqa: N818 - it names the frame
    """The bytes are not a request; the connection is closed."""


class Cursor:
    """A place in a frame that moves on with everything taken.

    Raises
    ------
    MalformedFrame
        From every method, when the frame does not hold what is to be taken.
    """

    def __init__(self, frame: bytes | bytearray, at: int = 0) -> None:
        self._view = memoryview(frame)
        self._elements = MAX_ELEMENTS
        self.at = at

    def take(self, layout: str) -> tuple[Any, ...]:
        """Take numbers in a layout of `struct`."""
        try:
            values = struct.unpack_from(layout, self._view, self.at)
        except struct.error as error:
            raise MalformedFrame(str(error)) from error
        self.at += struct.calcsize(layout)
        return values

    def unsigned(self) -> int:
        """Take an unsigned varint of 32 bits."""
        value = 0
        for shift, byte in enumerate(self._view[self.at : self.at + _VARINT_BYTES]):
            value |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                self.at += shift + 1
                return value
        raise MalformedFrame(f"a number of more than {_VARINT_BYTES} bytes, or cut off")

    def length(self, *, compact: bool) -> int:
        """Take the length of a string or of bytes before them: -1 is null, and none is longer than the frame."""
        length = self.unsigned() - 1 if compact else int(self.take(">i")[0])
        if not -1 <= length <= len(self._view) - self.at:
            raise MalformedFrame(f"a length of {length}, {len(self._view) - self.at} bytes left")
        return length

    def count(self, *, compact: bool) -> int:
        """Take the length of an array before its elements: -1 is null."""
        # No element takes less than a byte, so a longer array cannot be there either.
        return self._counted(self.length(compact=compact))

    def _counted(self, elements: int) -> int:
        """Count elements among those of the request, for each is work whatever its size."""
        self._elements -= max(elements, 0)
        if self._elements < 0:
            raise MalformedFrame(f"more than {MAX_ELEMENTS} elements")
        return elements

    def nullable_string(self) -> str | None:
        """Take a string of the older versions, or null."""
        (length,) = self.take(">h")
        return None if length < 0 else self.text(length)

    def string(self) -> str:
        """Take a string of the older versions."""
        return self.nullable_string() or ""

    def text(self, length: int) -> str:
        """Take so many bytes of UTF-8."""
        try:
            return str(self.bytes(length), "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedFrame(str(error)) from error

    def bytes(self, length: int) -> memoryview:
        """Take so many bytes, without a copy."""
        end = self.at + length
        if not self.at <= end <= len(self._view):
            raise MalformedFrame(f"{length} bytes wanted, {len(self._view) - self.at} left")
        found = self._view[self.at : end]
        self.at = end
        return found

    def skip_tags(self) -> None:
        """Take the tagged fields of the newer versions, and leave them."""
        for _ in range(self._counted(self.unsigned())):
            self.unsigned()
            self.bytes(self.unsigned())


def string(value: str | None) -> bytes:
    """Return a string, or null, as the older versions write it."""
    if value is None:
        return _SHORT.pack(-1)
    encoded = value.encode()
    return _SHORT.pack(len(encoded)) + encoded
