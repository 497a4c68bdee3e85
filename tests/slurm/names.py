"""Answer that no name exists, and note which names each host asked for.

    python names.py DIRECTORY ADDRESS

The hosts of the cluster are in /etc/hosts and are not asked for here, except for addresses of a kind that they lack. A
program that wants the internet asks for a name first, so this tells what it wanted. Notes lines of "ADDRESS NAME" in
DIRECTORY/log/names. Imports nothing but the standard library, to start at once.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

NO_ERROR, NO_SUCH_NAME = 0, 3
HEADER_BYTES = 12


def main(directory: Path, address: str) -> None:
    known = {name for line in (directory / "hosts").read_text().splitlines() for name in line.split()[1:]}
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    with (directory / "log/names").open("a", buffering=1) as log:
        while True:
            query, asker = server.recvfrom(4096)
            name = name_asked(query)
            # Whatever is no query is not answered.
            if name is None:
                continue
            if name not in known:
                log.write(f"{asker[0]} {name}\n")
            server.sendto(answer(query, NO_ERROR if name in known else NO_SUCH_NAME), asker)


def name_asked(query: bytes) -> str | None:
    """Return the first name of a DNS query, or None for anything else.

    Source:
        RFC 1035, sections 4.1.1 and 4.1.2.
    """
    if len(query) <= HEADER_BYTES or query[2] & 0x80:
        return None
    labels, at = [], HEADER_BYTES
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
        at += 1 + query[at]
    return ".".join(labels).lower()


def answer(query: bytes, code: int) -> bytes:
    """Return the query as an answer without records."""
    end = query.index(0, HEADER_BYTES) + 5  # the name's end, its type and class
    flags = bytes([0x80 | (query[2] & 0x79), 0x80 | code])
    return query[:2] + flags + b"\0\1\0\0\0\0\0\0" + query[HEADER_BYTES:end]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
