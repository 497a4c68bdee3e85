"""Run a function in a process of its own that reaches no network, and say whether it tried.

HF_HUB_OFFLINE keeps the libraries at home; an audit hook refuses, and notes, every address that Python code would look
up or connect to. A hook cannot be taken away again, hence the process.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import ExitCode, Problem, UserError
from sft.parent import bind_to

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DATASETS_VERBOSITY": "error",  # it warns of every data set that it takes from its cache
}
ROOT = Path(__file__).resolve().parents[2]
CONNECTING = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOOKING_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


@dataclass(frozen=True, slots=True)
class Sealed:
    """What came of a call.

    Attributes:
        value: what the function returned.
        attempts: the addresses that it, or a library, tried to reach.
    """

    value: Any
    attempts: tuple[str, ...]


def call(target: str, arguments: Mapping[str, Any]) -> Sealed:
    """Call `module:function(**arguments)` without a network; arguments and result go as JSON.

    Raises:
        UserError: the function's own.
        RuntimeError: the process ended in another way; its traceback is on stderr.
    """
    reading, writing = os.pipe()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "sft.check.sealed", target, str(writing), str(os.getpid())],
        env={**os.environ, **OFFLINE, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=2,  # a library that prints must not end up in what this command prints
        pass_fds=(writing,),
    )
    os.close(writing)
    try:
        assert child.stdin is not None
        child.stdin.write(json.dumps(dict(arguments)).encode())
        child.stdin.close()
        with os.fdopen(reading, "rb") as answers:
            answer = answers.read()
        code = child.wait()
    finally:
        child.kill()
        child.wait()
    if not answer:
        raise RuntimeError(f"the process that looks without a network ended with {code}")
    found = json.loads(answer)
    if "problems" in found:
        problems = [Problem(*problem) for problem in found["problems"]]
        raise UserError.of(problems, exit_code=ExitCode(found["exit_code"]))
    return Sealed(found["value"], tuple(found["attempts"]))


def seal() -> list[str]:
    """Refuse every address to this process from here on, and return the list that notes what was tried."""
    attempts: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CONNECTING:
            address = arguments[1]
            place = ":".join(map(str, address[:2])) if isinstance(address, tuple) else None
        elif event in LOOKING_UP:
            place = str(arguments[0])
        else:
            return
        if place is not None:  # sockets of this machine's own have a path
            attempts.append(place)
            raise OSError(errno.ENETUNREACH, f"there is no network here: {place} was asked for")

    sys.addaudithook(hook)
    return attempts


def main(target: str, answers: int, parent: int) -> None:
    """Be the process: read the arguments, call, and write the answer."""
    bind_to(parent)
    arguments = json.loads(sys.stdin.buffer.read())
    module, _, name = target.partition(":")
    attempts = seal()
    answer: dict[str, Any]
    try:
        value = getattr(importlib.import_module(module), name)(**arguments)
        answer = {"value": value, "attempts": list(dict.fromkeys(attempts))}
    except UserError as error:
        problems = [(problem.what, problem.where, problem.fix) for problem in error.problems]
        answer = {"problems": problems, "exit_code": int(error.exit_code)}
    with os.fdopen(answers, "w", encoding="utf-8") as stream:
        json.dump(answer, stream)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
