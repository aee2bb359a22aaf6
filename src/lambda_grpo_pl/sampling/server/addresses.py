"""Addresses of this machine, as servers reach it."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from lambda_grpo_pl.errors import UserError


def local_address(url: str) -> str:
    """Return the IPv4 address from which this machine reaches `url`; nothing is sent. Raises `UserError`."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((parts.hostname, parts.port or 80))
        except OSError as error:
            raise UserError(
                f"No IPv4 address of this machine reaches {url} ({error}): set rollout.server.trainer_address to the "
                "address under which that server reaches the trainer."
            ) from error
        return str(probe.getsockname()[0])


def free_port(address: str) -> int:
    """Return a port that is free at an address of this machine. Raises `UserError` if it is not one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UserError(
                f"rollout.server.trainer_address is {address}, which is not an IPv4 address of this machine ({error})."
            ) from error
        return int(probe.getsockname()[1])
