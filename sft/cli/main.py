"""`sft`: one command a module, imported only when it is called. The one place where a UserError ends."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from types import ModuleType

from sft import __version__
from sft.errors import ExitCode, UserError

COMMANDS = {
    "launch": "check, plan and train a run file, on this machine or as a batch job",
    "status": "say where a run stands: queue, step, loss, time left, last checkpoint",
    "watch": "follow a run live",
    "logs": "show what a run has printed",
    "cancel": "stop a run: checkpoint first, or --now",
    "plan": "say what a run will need: memory, line by line, and whether it fits",
    "check": "read a run file and tell every problem, without torch",
    "data": "show, count and prepare what a run file trains on",
    "fetch": "bring model, data and prepared data to shared storage, for nodes without internet",
    "certify": "show that a kill costs a run nothing: train, kill, resume, compare",
    "configure": "write an accelerate configuration, by questions or by flags",
    "eject": "write a run as stock files, which train without the kit",
    "merge": "merge an adapter into its base model",
    "push": "deliver to the Hub what a run could not",
    "sync": "replay a run's events into W&B, TensorBoard or trackio",
    "job": "what a batch script asks of the kit while it runs",
    "schema": "print the JSON Schema of a run file, or explain one key",
    "completion": "print the completion script of a shell",
}


def command_parser(name: str) -> tuple[argparse.ArgumentParser, ModuleType]:
    """Return the parser of one command and the module that runs it."""
    module = importlib.import_module(f"sft.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"sft {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser, module


def overview() -> str:
    """Return what `sft --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sft COMMAND ...",
            "",
            "The launch kit for multi-GPU supervised fine-tuning.",
            "",
            *lines,
            "",
            "`sft COMMAND --help` tells more. Exit codes: 0 done, 1 a bug, 2 usage, config or data, 3 does not fit,",
            "4 environment, 5 training failed, 6 a worker was lost, 75 stopped on request, resumable.",
        ]
    )


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _dispatch(words)
    except UserError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone (`sft schema | head`); closing it again would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return int(ExitCode.DONE)
    if words[0] in ("-V", "--version"):
        print(f"sft {__version__}")
        return int(ExitCode.DONE)
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}", fix=f"one of: {', '.join(COMMANDS)}")
    parser, module = command_parser(name)
    arguments, extra = parser.parse_known_args(words[1:])
    if extra and not getattr(module, "TAKES_OVERRIDES", False):
        raise UserError(f"sft {name} does not know {extra[0]}", fix=f"sft {name} --help")
    return int(module.run(arguments, extra))


if __name__ == "__main__":
    sys.exit(main())
