"""The table of faults in docs/reliability.md, made by injecting each: `python -m tests.hub.table` rewrites it."""

from __future__ import annotations

import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN = "<!-- made by `python -m tests.hub.table` -->\n"
END = "<!-- end of what was made -->\n"


def on_the_page() -> dict[tuple[str, str], str]:
    """Read what the page says: (fault, request) -> what became of it."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    head, _, *rows = [_cells(line) for line in rest.partition(END)[0].splitlines()]
    return {(row[0], request): cell for row in rows for request, cell in zip(head[1:], row[1:], strict=True)}


def made() -> dict[tuple[str, str], str]:
    """Inject every fault at every request."""
    from tests.hub.faults import FAULTS, KILLS, REQUESTS, killed, once

    found = {}
    for fault in (*FAULTS, *KILLS):
        for request in REQUESTS:
            with tempfile.TemporaryDirectory() as directory:
                try_out = killed if fault in KILLS else once
                found[fault, request] = try_out(fault, request, Path(directory))
    return found


def render(cells: dict[tuple[str, str], str]) -> str:
    """Lay the cells out."""
    faults, requests = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    lines = [["", *requests], ["---"] * (len(requests) + 1)]
    lines += [[fault, *(cells[fault, request] for request in requests)] for fault in faults]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def main() -> None:
    """Rewrite the table, and leave the rest of the page as it is."""
    import tests.conftest  # noqa: F401  sets the environment that tests run in

    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}{render(made())}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
