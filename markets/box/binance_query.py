"""A request to Binance's REST interface: its parameters, read and refused as the exchange does.

References
----------
https://github.com/binance/binance-spot-api-docs (rest-api.md, errors.md)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from markets.box.listing import Listing

PAGE = 1_000
"""Most rows of an answer."""

MS, US = 1_000_000, 1_000

_DEFAULT_PAGE = 500
_MICROSECONDS_FROM = 10**14
"""Times at least this large are microseconds: as milliseconds they would be past the year 5000."""

_LATEST = 1 << 62
"""What later times count as, ns: the year 2116."""


class Refused(Exception):  # noqa: N818 - it names what happens
    """A request is answered with an error of the exchange."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Query:
    """The parameters of a request.

    Attributes
    ----------
    given : by name, as they were sent
    unit : ns in the unit of times in the answer
    listings : by their symbol
    """

    given: Mapping[str, str]
    unit: int
    listings: Mapping[str, Listing]

    def only(self, known: tuple[str, ...]) -> None:
        """Refuse parameters that the route does not have."""
        read, sent = sum(name in known for name in self.given), len(self.given)
        if read < sent:
            raise Refused(
                -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{sent}'."
            )

    def text(self, name: str) -> str:
        """Return a parameter that must be there."""
        value = self.given.get(name, "")
        if not value:
            raise Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return value

    def listing(self) -> Listing:
        """Return what ``symbol`` names."""
        return self.listed(self.text("symbol"))

    def listed(self, symbol: str) -> Listing:
        """Return what a symbol names."""
        if not re.fullmatch(r"[A-Z0-9\-_.]{1,50}", symbol):
            raise Refused(
                -1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,50}$'."
            )
        if symbol not in self.listings:
            raise Refused(-1121, "Invalid symbol.")
        return self.listings[symbol]

    def number(self, name: str) -> int | None:
        """Return a whole number, None where it was not sent."""
        value = self.given.get(name)
        if value is None:
            return None
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,18}}$'.")
        return int(value)

    def time(self, name: str) -> int | None:
        """Return a time in ns; it may be given in milliseconds or microseconds."""
        value = self.number(name)
        return None if value is None else min(value * (US if value >= _MICROSECONDS_FROM else MS), _LATEST)

    def limit(self) -> int:
        """Return how many rows were asked for, at most a page."""
        limit = self.number("limit")
        if limit == 0:
            raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit or _DEFAULT_PAGE, PAGE)
