"""`sft completion`: print a shell's completion script, of the commands, their flags and the run file's keys.

bash  sft completion bash > ~/.local/share/bash-completion/completions/sft
zsh   sft completion zsh > ~/.zfunc/_sft        # a directory in $fpath
fish  sft completion fish > ~/.config/fish/completions/sft.fish
"""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Print the script."""
    import shtab

    print(shtab.complete(whole_parser(), arguments.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all commands; those that take overrides have a flag for each key of a run file."""
    from sft.cli.main import COMMANDS, command_parser

    parser = argparse.ArgumentParser(prog="sft")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, text in COMMANDS.items():
        command, module = command_parser(name)
        if getattr(module, "TAKES_OVERRIDES", False):
            for parser_of_keys in _inner_parsers(command) or [command]:
                _add_keys(parser_of_keys)
        commands.add_parser(name, help=text, parents=[command], add_help=False)
    return parser


def _inner_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return the parsers of a command's own commands."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [inner for group in groups for inner in group.choices.values()]


def _add_keys(parser: argparse.ArgumentParser) -> None:
    from sft.config.describe import description_of
    from sft.config.fields import choices, every_key
    from sft.config.retired import STILL_FIELDS

    taken = {flag for action in parser._actions for flag in action.option_strings}
    for key in every_key():
        if f"--{key}" in taken or key in STILL_FIELDS:
            continue
        sentence = description_of(key).split(". ")[0].replace("%", "%%")
        parser.add_argument(f"--{key}", choices=choices(key) or None, help=sentence[:100], dest=f"key {key}")
