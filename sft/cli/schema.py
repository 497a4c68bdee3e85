"""`sft schema`: the JSON Schema of a run file, or one key in words.

An editor with a YAML language server completes and checks a run file that opens with

    # yaml-language-server: $schema=sft.schema.json

once `sft schema > sft.schema.json` lies beside it.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("key", nargs="?", metavar="KEY", help="explain this key instead, e.g. learning_rate")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Print the schema, or the explanation."""
    import json

    from sft.config.schema import explain, json_schema

    print(explain(arguments.key) if arguments.key else json.dumps(json_schema(), indent=2))
    return 0
