"""The fields of a web application's door: where it listens, and who may speak to it."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

TOKEN_LENGTH = 32
"""Characters at least of a token: too many to guess."""

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?", re.ASCII)


def parse_address(value: str) -> str:
    """Return an IP address to listen on.

    Raises
    ------
    ValueError
        When it is not one.
    """
    address = "127.0.0.1" if value == "localhost" else value
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address; write 127.0.0.1, or 0.0.0.0 for every network") from None


def parse_networks(value: str) -> tuple[Network, ...]:
    """Return the networks of a list of addresses and networks.

    >>> parse_networks("10.0.0.5, 10.1.0.0/16")
    (IPv4Network('10.0.0.5/32'), IPv4Network('10.1.0.0/16'))

    Raises
    ------
    ValueError
        When a part is neither.
    """
    networks = []
    for part in filter(None, (one.strip() for one in value.split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueError(f"{part!r} is not an address or network; write such as 10.0.0.5 or 10.1.0.0/16") from None
    return tuple(networks)


def parse_origin(value: str) -> str:
    """Return an origin as browsers send it, or nothing for none.

    Raises
    ------
    ValueError
        When it is not scheme and host.
    """
    origin = value.lower().removesuffix("/")
    if origin and not _ORIGIN.fullmatch(origin):
        raise ValueError(f"{value!r} is not an origin; write scheme and host, such as https://mill.example")
    scheme, _, host = origin.partition("://")
    return origin.removesuffix({"http": ":80", "https": ":443"}.get(scheme, "")) if host else origin


def parse_token(value: str) -> str:
    """Return a token that cannot be guessed, or nothing for none; the message does not repeat it.

    Raises
    ------
    ValueError
        When it is too short or holds blanks.
    """
    if value and (len(value) < TOKEN_LENGTH or not value.isascii() or any(map(str.isspace, value))):
        raise ValueError(
            f"a token has at least {TOKEN_LENGTH} ASCII characters and no blanks; make one with openssl rand -hex 32"
        )
    return value


def _networks(value: str) -> str:
    parse_networks(value)
    return value


Address = Annotated[str, AfterValidator(parse_address)]
Networks = Annotated[str, AfterValidator(_networks)]
Origin = Annotated[str, AfterValidator(parse_origin)]
AccessToken = Annotated[str, AfterValidator(parse_token)]
