"""A refusal: the protocol's error code for a request the broker will not serve."""

from __future__ import annotations

from kio.schema.errors import ErrorCode

_LONGEST = 1_000
"""Characters of a message: it may name what the client sent, and that may be a megabyte."""


class Refusal(Exception):  # noqa: N818 - the protocol's answer, not the broker's failure
    """The request is answered with an error code; the connection and the broker go on.

    Parameters
    ----------
    code
        The protocol's error code.
    message
        For protocols that carry one, and for the reader of a traceback.
    """

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(message or code.name)
        self.code = code
        self.message = message[:_LONGEST] or code.name.replace("_", " ")
