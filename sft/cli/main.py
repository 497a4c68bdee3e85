"""`sft`: one command a module, imported only when it is called. The one place where a UserError ends."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from contextlib import suppress
from types import ModuleType

from sft import __version__
from sft.errors import ExitCode, UserError
from sft.terminal import show

COMMANDS = {
    "launch": "check, plan and train a run file, on this machine or as a batch job",
    "status": "say where a run stands: queue, step, loss, time left, last checkpoint",
    "table": "set runs side by side: metric before and after, time, adapter",
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
    "chat": "talk to a run, an adapter or a model in the terminal",
    "demo": "the same as a small web page, base beside each adapter",
    "eval": "measure base against tuned model on the held-out rows",
    "push": "deliver to the Hub what a run could not",
    "sync": "replay a run's events into W&B, TensorBoard or trackio",
    "job": "what a batch script asks of the kit while it runs",
    "schema": "print the JSON Schema of a run file, or explain one key",
    "completion": "print the completion script of a shell",
}
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
"""How a write fails that the machine has no room for, or no way to."""


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
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's letters cannot spell is escaped: a name in another script is no reason to fail.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(words)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can still be told that it fails
        return code
    except UserError as error:
        return _told(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _abandon_stdout()  # its reader has gone (`sft schema | head`)
        return 0
    except OSError as failure:
        refusal = _of_environment(failure)
        if refusal is None:
            raise
        return _told(refusal)


def _told(error: UserError) -> int:
    with suppress(OSError):  # nobody may be listening; the exit code says it still
        for line in str(error).splitlines():
            show([line], sys.stderr, "" if line.startswith("  ") else "bold red")
        sys.stderr.flush()
    return int(error.exit_code)


def _of_environment(failure: OSError) -> UserError | None:
    """Say what of the machine has failed, where nobody could say it better before; None where it may be a bug."""
    reason, name = failure.strerror or str(failure), failure.filename
    if isinstance(name, str | bytes) and not isinstance(failure, FileNotFoundError | FileExistsError):
        what, where = "a file or a directory cannot be used", os.fsdecode(name)
        fix = "look at its permissions, and at the room and the health of its file system"
    elif name is None and failure.errno in UNWRITTEN:
        # Only opening a file tells its name; what is written most is what is printed.
        _abandon_stdout()
        what, where = "nothing more can be written", "standard output, or a file"
        fix = "make room there, or send the output elsewhere"
    else:
        return None
    return UserError(f"{what}: {reason}", where, fix, exit_code=ExitCode.ENVIRONMENT)


def _abandon_stdout() -> None:
    """Drop what is left to write: closing stdout at the end would complain again."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
