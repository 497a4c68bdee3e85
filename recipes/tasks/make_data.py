"""Write data for the tasks beside this file: generated, so that they run where there is no network. Imports only the standard library.

    python recipes/tasks/make_data.py DIRECTORY        # rewrite/ and sql/ in it, each with train.jsonl and test.jsonl

The columns are those of real sets on the Hub, which the tasks take in the same way: s-nlp/paradetox and
b-mc2/sql-create-context. Generated sentences are few in kind: they show that a task learns, not how well it would on real ones.
No sentence, and no table, is in both splits.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

TRAIN, TEST = 1920, 48  # so few that a CPU answers them all in minutes

# --- rewriting: a complaint as it should not be said, and as it should

THINGS = (
    "report", "invoice", "parcel", "printer", "meeting room", "website", "order", "contract", "laptop", "schedule",
    "translation", "backup", "password", "ticket", "delivery", "budget", "test server", "newsletter", "door code", "manual",
)  # fmt: skip
STATES = {
    "is late again": "send it today",
    "does not work": "have a look at it",
    "is full of mistakes": "correct it",
    "has been lost": "find out where it is",
    "was sent to the wrong person": "send it to me",
    "is still not finished": "tell me when it will be",
    "costs twice as much as agreed": "explain the difference",
    "cannot be opened": "send it in another form",
}
OPENINGS = ("", "Hello, ", "By the way, ", "As I said last week, ", "For the third time, ")
RUDE = ("idiot", "moron", "fool", "clown", "loser")
RUDER = ("damn", "stupid", "bloody", "useless", "pathetic")


def rewrites(choose: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each complaint, by which the splits are told apart, and its row."""
    for thing in THINGS:
        for state, request in STATES.items():
            for opening in OPENINGS:
                said = f"the {thing} {state}"
                rude = f"the {choose.choice(RUDER)} {thing} {state}"
                calm = f"{opening}{said}. Please {request}."
                angry = choose.choice(
                    (
                        f"{opening}{rude}, you {choose.choice(RUDE)}. {request}!",
                        f"{opening}{rude}. {request}, {choose.choice(RUDE)}!",
                        f"Are you {choose.choice(('mad', 'asleep', 'stupid'))}? {opening}{rude}. {request} and shut up.",
                    )
                )
                for more in ("", " It is for a customer.", " We wait for it."):
                    row = {
                        "en_toxic_comment": _sentences(angry + more),
                        "en_neutral_comment": _sentences(calm + more),
                    }
                    yield said, row


def _sentences(text: str) -> str:
    """Begin every sentence with a capital letter."""
    parts = text.split(". ")
    return ". ".join(part[:1].upper() + part[1:] for part in parts)


# --- SQL: a question about one table

Columns = dict[str, tuple[str, ...] | tuple[int, int]]
"""The values of each column: texts to choose from, or the bounds of a number. The first names a row."""
NAMES = ("Ada", "Ben", "Chen", "Dora", "Emil", "Fatma", "Goran", "Hana", "Ivan", "Jale")
CITIES = ("Berlin", "Lagos", "Lima", "Osaka", "Oslo", "Quito", "Riga", "Tunis")
TABLES: dict[str, Columns] = {
    "employees": {"name": NAMES, "department": ("sales", "legal", "research"), "salary": (2000, 9000), "age": (18, 65)},
    "books": {"title": ("Dune", "Emma", "Ulysses", "Beloved"), "genre": ("crime", "poetry", "history"), "pages": (80, 900), "year": (1900, 2024)},
    "flights": {"number": ("LH10", "BA7", "TK42", "AF3"), "destination": CITIES, "seats": (50, 400), "delay": (0, 240)},
    "patients": {"name": NAMES, "ward": ("surgery", "children", "heart"), "age": (1, 99), "nights": (1, 60)},
    "products": {"label": ("lamp", "chair", "desk", "shelf"), "brand": ("Orba", "Lumo", "Kest"), "price": (5, 800), "stock": (0, 500)},
    "students": {"name": NAMES, "course": ("physics", "law", "music"), "semester": (1, 12), "credits": (0, 180)},
    "houses": {"street": ("Elm", "Oak", "Hill", "Lake"), "city": CITIES, "rooms": (1, 12), "rent": (300, 4000)},
    "matches": {"opponent": ("Lions", "Bears", "Hawks"), "stadium": CITIES, "goals": (0, 7), "visitors": (100, 60000)},
    "songs": {"title": ("Rain", "Gold", "Home", "Sand"), "artist": NAMES, "seconds": (90, 420), "plays": (0, 90000)},
    "cars": {"model": ("Tico", "Rally", "Vento"), "colour": ("red", "blue", "grey"), "power": (50, 400), "doors": (2, 5)},
    "trees": {"species": ("oak", "birch", "pine"), "park": ("north", "south", "river"), "height": (2, 40), "planted": (1850, 2020)},
    "courses": {"title": ("Ethics", "Optics", "Logic"), "teacher": NAMES, "hours": (2, 8), "places": (10, 300)},
    "orders": {"customer": NAMES, "city": CITIES, "amount": (10, 5000), "items": (1, 40)},
    "films": {"title": ("Alien", "Ran", "Fargo", "Heat"), "director": NAMES, "minutes": (70, 210), "rating": (1, 10)},
}  # fmt: skip
HELD_OUT = ("courses", "orders", "films")
AGGREGATES = {"average": "AVG", "highest": "MAX", "lowest": "MIN", "total": "SUM"}


def queries(choose: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield questions without end, each with the name of its table and its row; SQLite has read every query."""
    while True:
        table = choose.choice(list(TABLES))
        columns = TABLES[table]
        question, query = _question(choose, table, columns)
        typed = ", ".join(
            f"{name} {'INTEGER' if _is_number(values) else 'TEXT'}" for name, values in columns.items()
        )
        schema = f"CREATE TABLE {table} ({typed})"
        with sqlite3.connect(":memory:") as database:
            database.execute(schema)
            database.execute(f"EXPLAIN {query}")
        yield table, {"question": question, "context": schema, "answer": query}


def _is_number(values: tuple[str, ...] | tuple[int, int]) -> bool:
    return isinstance(values[0], int)


def _question(choose: random.Random, table: str, columns: Columns) -> tuple[str, str]:
    key, group = (name for name, values in columns.items() if not _is_number(values))
    number = choose.choice([name for name, values in columns.items() if _is_number(values)])
    value = choose.choice([str(value) for value in columns[group]])
    low, high = (int(bound) for bound in columns[number])
    limit = choose.randint(low, high)
    word, function = choose.choice(list(AGGREGATES.items()))
    more, sign = choose.choice((("above", ">"), ("below", "<")))
    return choose.choice(
        (
            (f"How many {table} have the {group} {value}?", f"SELECT COUNT(*) FROM {table} WHERE {group} = '{value}'"),
            (f"How many {table} have a {number} {more} {limit}?", f"SELECT COUNT(*) FROM {table} WHERE {number} {sign} {limit}"),
            (f"What is the {word} {number} of all {table}?", f"SELECT {function}({number}) FROM {table}"),
            (
                f"What is the {word} {number} of {table} with {group} {value}?",
                f"SELECT {function}({number}) FROM {table} WHERE {group} = '{value}'",
            ),
            (
                f"List the {key} of {table} whose {number} is {more} {limit}.",
                f"SELECT {key} FROM {table} WHERE {number} {sign} {limit}",
            ),
            (
                f"List the {key} of {table} with {group} {value} and {number} {more} {limit}.",
                f"SELECT {key} FROM {table} WHERE {group} = '{value}' AND {number} {sign} {limit}",
            ),
            (f"What is the {word} {number} for each {group}?", f"SELECT {group}, {function}({number}) FROM {table} GROUP BY {group}"),
            (f"Sort the {key} of {table} by {number}.", f"SELECT {key} FROM {table} ORDER BY {number}"),
        )
    )  # fmt: skip


# --- both


def write(directory: Path, rows: dict[str, list[dict[str, str]]]) -> None:
    """Write one file a split."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, held in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in held)
        (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")
        print(f"{len(held):,} rows  {directory / split}.jsonl", file=sys.stderr)


def split_rewrites() -> dict[str, list[dict[str, str]]]:
    """Return both splits; every fifteenth complaint is for testing, in all its forms."""
    choose = random.Random(0)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    said = [f"the {thing} {state}" for thing in THINGS for state in STATES]
    held_out = set(said[::15])
    for name, row in rewrites(choose):
        rows["test" if name in held_out else "train"].append(row)
    for held in rows.values():
        choose.shuffle(held)
    return {"train": rows["train"][:TRAIN], "test": rows["test"][:TEST]}


def split_queries() -> dict[str, list[dict[str, str]]]:
    """Return both splits; whole tables are for testing."""
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    wanted = {"train": TRAIN, "test": TEST}
    seen = set()
    for table, row in queries(random.Random(0)):
        split = "test" if table in HELD_OUT else "train"
        if row["answer"] not in seen and len(rows[split]) < wanted[split]:
            seen.add(row["answer"])
            rows[split].append(row)
        if all(len(rows[name]) == count for name, count in wanted.items()):
            return rows
    raise AssertionError("queries never end")


def main() -> None:
    """Write both sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    directory = parser.parse_args().directory
    write(directory / "rewrite", split_rewrites())
    write(directory / "sql", split_queries())


if __name__ == "__main__":
    main()
