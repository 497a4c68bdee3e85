"""Try a run on a small web page: base beside each adapter, answers as they are written.

  sft demo runs/mine
  sft demo runs/mine --adapter runs/other --port 7861

Takes what `sft chat` takes. The page listens on 127.0.0.1 alone: from elsewhere, `ssh -L 7860:127.0.0.1:7860 HOST`
brings it to your machine. Its address goes to stdout; Ctrl-C ends it. Needs the extra `demo`.
"""

from __future__ import annotations

import argparse
import signal
import sys

from sft.cli.chat import add_model_arguments, load, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=_port, metavar="N", help="[the first free one from 7860 on]")


def _port(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 65535:
        raise argparse.ArgumentTypeError(f"{word} is no port")
    return int(word)


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Serve the page until it is ended."""
    import threading
    from pathlib import Path

    from sft.export.page import Page, load_gradio, serve

    settings = read_settings(arguments)
    load_gradio()  # first, so that a missing package is told before a model is loaded
    engine = load(arguments)
    page = Page(engine, settings, title=f"sft demo: {Path(arguments.source).name}")
    server, address = serve(page, arguments.host, arguments.port)
    if arguments.host not in ("127.0.0.1", "localhost", "::1"):
        print(
            "warning: who reaches this address can use the model; the page asks for no password",
            file=sys.stderr,
        )
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    print(address, flush=True)
    print("Ctrl-C ends it", file=sys.stderr)
    over.wait()
    server.close(verbose=False)
    return 0
