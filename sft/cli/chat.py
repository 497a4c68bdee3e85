"""Talk to a run, an adapter or a model, by the chat template that was trained.

  sft chat runs/mine
  sft chat runs/mine --adapter runs/other --adapter old=runs/mine/checkpoint-100
  echo "What is a list?" | sft chat runs/mine

RUN_OR_MODEL is a run directory, a run file, a checkpoint, an adapter's directory, or a model. In the terminal /help lists
the commands: another adapter or the base answers without loading anything again. From a pipe, what comes in is one
question, and the answer alone goes to stdout.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft.export.conversation import Conversation
    from sft.export.generate import Engine
    from sft.export.generation import GenerationSettings

SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `sft demo` takes as well: which model, how it is held, how answers are sampled."""
    parser.add_argument("source", metavar="RUN_OR_MODEL", help="a run, a checkpoint, an adapter or a model")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="another adapter on the same base; as often as wanted",
    )
    parser.add_argument("--base", metavar="PATH", help="the adapters' base model, where it has moved")
    parser.add_argument("--revision", help="the base's revision on the Hub")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base")
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cuda, cuda:1, cpu; auto: a GPU where there is one [auto]",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="of the weights; auto: the run's precision on a GPU, float32 on the CPU [auto]",
    )
    bits = parser.add_mutually_exclusive_group()
    bits.add_argument(
        "--load_in_4bit", action="store_true", help="hold the base in 4 bits, as a QLoRA run does unasked"
    )
    bits.add_argument("--load_in_8bit", action="store_true", help="hold the base in 8 bits")
    sampling = parser.add_argument_group("how answers are sampled")
    sampling.add_argument("--max-new-tokens", metavar="N", help="the longest answer [512]")
    sampling.add_argument(
        "--temperature", metavar="X", help="0 takes the likeliest token, always the same [0]"
    )
    sampling.add_argument("--top-p", metavar="X", help="[1]")
    sampling.add_argument("--top-k", metavar="N", help="0 is off [0]")
    sampling.add_argument("--repetition-penalty", metavar="X", help="[1]")
    sampling.add_argument("--seed", metavar="N", help="for the same answer again above temperature 0")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Answer what is said until there is no more."""
    from sft.errors import UserError
    from sft.export.conversation import Conversation

    settings = read_settings(arguments)
    is_terminal = sys.stdin.isatty()
    asked = "" if is_terminal else sys.stdin.read().strip()
    if not is_terminal and not asked:
        raise UserError("nothing was asked: standard input is empty", fix='echo "..." | sft chat RUN')
    engine = load(arguments)
    talk = Conversation(
        engine,
        write=lambda piece: print(piece, end="", flush=True),
        say=_say,
        settings=settings,
        speaker=next(iter(engine.names), None),
        system=arguments.system,
    )
    if not is_terminal:
        talk.ask(asked)
        return 0
    return _in_terminal(talk)


def _say(line: str) -> None:
    from sft.terminal import show

    show(line.splitlines() or [""], sys.stderr, "dim")


def _in_terminal(talk: Conversation) -> int:
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # what input() edits lines with

    names = ", ".join(talk.engine.names) or "no adapter"
    _say(f"{talk.engine.subject.base} with {names}; /help lists the commands")
    while True:
        try:
            line = input(f"{talk.speaker or 'base'}> " if talk.engine.names else "> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            _say("(/quit or Ctrl-D leaves)")
            continue
        if not talk.take(line):
            return 0


def read_settings(arguments: argparse.Namespace) -> GenerationSettings:
    """Read how answers are sampled, by the same rules as /set."""
    from sft.errors import UserError
    from sft.export.generation import GenerationSettings

    settings = GenerationSettings()
    for name in SAMPLING:
        value = getattr(arguments, name)
        if value is None:
            continue
        try:
            settings = settings.changed(name, value)
        except UserError as error:
            problem = error.problems[0]
            raise UserError(problem.what, f"--{name.replace('_', '-')}", problem.fix) from None
    return settings


def load(arguments: argparse.Namespace) -> Engine:
    """Find what was named, and load base and adapters."""
    import contextlib
    import warnings

    from sft.export.source import Quantization
    from sft.export.subject import find_subject

    held = None
    if arguments.load_in_4bit or arguments.load_in_8bit:
        held = Quantization(bits=4 if arguments.load_in_4bit else 8)
    subject = find_subject(
        arguments.source,
        arguments.adapter,
        base=arguments.base,
        revision=arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
        quantization=held,
    )
    for note in subject.notes:
        print(note, file=sys.stderr)
    # What libraries print to stdout would mix with the answer; what they warn of, one another have to mend.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from transformers.utils import logging

        from sft.export.generate import Engine

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers declares none
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers declares none
        engine = Engine(
            subject,
            device=arguments.device,
            dtype=arguments.dtype,
            say=lambda line: print(line, file=sys.stderr),
        )
        engine.attach()
    return engine
