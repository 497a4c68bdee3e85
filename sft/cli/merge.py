"""`sft merge`: an adapter and its base become one model that stands alone."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Merge an adapter into its base model, and check the result against base and adapter. A QLoRA adapter "
        "goes into the dequantised base, which is what it was trained against. Prints the output directory. "
        "Leaves with 5, and writes nothing, when the merged model differs by more than the bound."
    )
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_ADAPTER", help="a run, a checkpoint or an adapter"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the new model's directory")
    parser.add_argument("--overwrite", action="store_true", help="replace a merged model at --output")
    parser.add_argument(
        "--into",
        choices=("dequantized", "original"),
        help="the base to merge into, for an adapter trained on a quantised one [dequantized]",
    )
    parser.add_argument("--base", metavar="PATH", help="the base model, where it has moved")
    parser.add_argument("--revision", help="the base's revision on the Hub")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="of the merged weights; auto keeps the base's [auto]",
    )
    parser.add_argument(
        "--max-difference",
        type=float,
        metavar="X",
        help="largest logit difference allowed [worked out from the dtype and the logits' scale]",
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base")
    bare = parser.add_argument_group(
        "for an adapter outside a run, which does not say how its base was loaded"
    )
    bits = bare.add_mutually_exclusive_group()
    bits.add_argument("--load_in_4bit", action="store_true", help="the base was in 4 bits")
    bits.add_argument("--load_in_8bit", action="store_true", help="the base was in 8 bits")
    bare.add_argument("--bnb_4bit_quant_type", choices=("nf4", "fp4"), help="[nf4]")
    bare.add_argument("--use_bnb_nested_quant", action="store_true", help="the scales were quantised too")
    bare.add_argument(
        "--load_dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="the dtype that the run loaded the base with [auto]",
    )


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Merge, and print the output directory."""
    from sft.export.source import Quantization

    quantization = None
    if arguments.load_in_4bit or arguments.load_in_8bit:
        quantization = Quantization(
            bits=4 if arguments.load_in_4bit else 8,
            quant_type=arguments.bnb_4bit_quant_type or "nf4",
            double=arguments.use_bnb_nested_quant,
            load_dtype=arguments.load_dtype or "auto",
        )
    _refuse_idle_flags(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Libraries that print to stdout would mix with the path.
    with contextlib.redirect_stdout(sys.stderr):
        from transformers.utils import logging

        from sft.export.merge import merge

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        report = merge(
            arguments.source,
            arguments.output,
            into=arguments.into,
            base=arguments.base,
            revision=arguments.revision,
            dtype=arguments.dtype,
            quantization=quantization,
            trust_remote_code=arguments.trust_remote_code,
            max_difference=arguments.max_difference,
            overwrite=arguments.overwrite,
        )
        print(f"merged in {report.seconds:.0f} s", file=sys.stderr)
    print(report.output)
    return 0


def _refuse_idle_flags(arguments: argparse.Namespace) -> None:
    from sft.errors import Problem, UserError

    four_bit = arguments.bnb_4bit_quant_type or arguments.use_bnb_nested_quant
    problems = []
    if four_bit and not arguments.load_in_4bit:
        problems.append(
            Problem("--bnb_4bit_quant_type and --use_bnb_nested_quant mean nothing without --load_in_4bit")
        )
    if arguments.load_dtype and not (arguments.load_in_4bit or arguments.load_in_8bit):
        problems.append(Problem("--load_dtype means nothing without --load_in_4bit or --load_in_8bit"))
    if problems:
        raise UserError.of(problems)
