"""The table of docs/bad-inputs.md, made from the tests' own lists: `python -m tests.data.tables` rewrites the page."""

from __future__ import annotations

from pathlib import Path

from tests.data.bad_files import BAD_FILES
from tests.data.bad_rows import BAD_ROWS
from tests.data.bad_settings import BAD_SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "bad-inputs.md"
HEAD = """\
# Bad inputs, and what is said of them

Each of these is a test that goes through `sft data prepare`: one message with place and fix, no traceback, exit code 2
(4 where the network or a permission is the matter). `HERE` is the directory of the data. Made from the tests' lists by
`python -m tests.data.tables`.

"""


def page() -> str:
    """Return the whole page."""
    files = ["## Files and where they lie", "", "| input | message |", "|---|---|"]
    files += [f"| {case.what_it_is} | {_cell(case.message)} |" for case in BAD_FILES]
    refused = ["## Rows that refuse the run", "", "`bad_rows: drop` drops and counts them instead.", ""]
    refused += ["| input | message | fix |", "|---|---|---|"]
    refused += [_row(case) for case in BAD_ROWS if case.malformed]
    dropped = ["## Rows that are dropped and counted", "", "`--strict` refuses them.", ""]
    dropped += ["| input | message | fix |", "|---|---|---|"]
    dropped += [_row(case) for case in BAD_ROWS if not case.malformed]
    settings = ["## Data that cannot be trained as the run file says", "", "| input | message |", "|---|---|"]
    settings += [f"| {case.what_it_is} | {_cell(case.message)} |" for case in BAD_SETTINGS]
    return HEAD + "\n".join([*files, "", *refused, "", *dropped, "", *settings]) + "\n"


def _row(case: object) -> str:
    return f"| {case.phrase} | {_cell(case.what)} | {_cell(case.fix)} |"  # type: ignore[attr-defined]


def _cell(text: str) -> str:
    shown = "<br>".join(
        line.strip() for line in text.replace("{here}", "HERE").replace("{model}", "MODEL").splitlines()
    )
    return shown.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
