"""Write the embedded data set: chats about Python's own standard library.

The text is that of the Python that runs this, so it is real, needs no network and is the same each time for
one Python version. Sources are parsed, never imported: importing some of them opens browsers or windows.
What it does not do: judge the docstrings. A first run needs text that a small model can learn from in
minutes, not the best text.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import re
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import ExitCode, UserError

# Public modules whose docstrings describe what a call does. The list is fixed: a new Python adds no module.
MODULES = (
    *("argparse", "ast", "asyncio.base_events", "asyncio.events", "asyncio.locks", "asyncio.queues"),
    *("asyncio.runners", "asyncio.streams", "asyncio.subprocess", "asyncio.tasks", "base64", "bdb", "bisect"),
    *("bz2", "calendar", "cmd", "code", "codecs", "collections", "colorsys", "compileall"),
    *("concurrent.futures", "configparser", "contextlib", "copy", "csv", "ctypes.util", "dataclasses"),
    *("datetime", "difflib", "dis", "doctest", "email.charset", "email.generator", "email.header"),
    *("email.headerregistry", "email.message", "email.parser", "email.policy", "email.utils", "enum"),
    *("filecmp", "fileinput", "fnmatch", "fractions", "ftplib", "functools", "genericpath", "getopt"),
    *("getpass", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html", "html.parser"),
    *("http.client", "http.cookiejar", "http.cookies", "http.server", "imaplib", "importlib.abc"),
    *("importlib.metadata", "importlib.resources", "importlib.util", "inspect", "io", "ipaddress", "json"),
    *("json.decoder", "json.encoder", "keyword", "linecache", "locale", "logging", "logging.config"),
    *("logging.handlers", "lzma", "mailbox", "mimetypes", "multiprocessing.connection"),
    *("multiprocessing.context", "multiprocessing.managers", "multiprocessing.pool"),
    *("multiprocessing.process", "multiprocessing.shared_memory", "netrc", "numbers", "operator"),
    *("optparse", "os", "pathlib", "pdb", "pickle", "pickletools", "pkgutil", "platform", "plistlib"),
    *("poplib", "posixpath", "pprint", "profile", "pstats", "py_compile", "pyclbr", "pydoc", "queue"),
    *("quopri", "random", "reprlib", "sched", "secrets", "selectors", "shelve", "shlex", "shutil", "signal"),
    *("smtplib", "socket", "socketserver", "ssl", "stat", "statistics", "string", "stringprep"),
    *("subprocess", "symtable", "sysconfig", "tarfile", "tempfile", "textwrap", "threading", "timeit"),
    *("token", "tokenize", "trace", "traceback", "tracemalloc", "types", "typing", "unittest.case"),
    *("unittest.loader", "unittest.mock", "unittest.runner", "unittest.suite", "urllib.error"),
    *("urllib.parse", "urllib.request", "urllib.robotparser", "uuid", "warnings", "wave", "weakref"),
    *("webbrowser", "wsgiref.handlers", "wsgiref.headers", "wsgiref.util", "xml.dom.minidom"),
    *("xml.dom.pulldom", "xml.etree.ElementTree", "xml.sax.handler", "xml.sax.saxutils"),
    *("xml.sax.xmlreader", "xmlrpc.client", "xmlrpc.server", "zipapp", "zipfile"),
)
# A module that became a package, or a front for one in plain Python, keeps its name in the questions.
ELSEWHERE = {"datetime": ("_pydatetime",), "pathlib": ("pathlib._local",)}

QUESTIONS = (
    "What does `{name}` do in Python?",
    "Explain `{name}` from Python's standard library.",
    "How do I use Python's `{name}`?",
)
SHORTEST, LONGEST = 25, 400  # characters of a summary; a longer one would be cut by max_length
FEWEST_ROWS = 500
TEST_SHARE = 10  # one name in ten is held out
TEST_ROWS = 64  # evaluating more of them would take longer than the training between

Row = dict[str, list[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented function, method or class."""

    name: str
    signature: str
    summary: str
    arguments: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """Whether its rows are for testing: decided by the name alone, so that no name is in both splits."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % TEST_SHARE == 0

    def rows(self) -> Iterator[Row]:
        """Yield the chats about it: what it does, and what it takes."""
        choice = int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16) % len(QUESTIONS)
        yield _chat(QUESTIONS[choice].format(name=self.name), f"`{self.signature}`\n\n{self.summary}")
        if self.arguments:
            taken = ", ".join(self.arguments)
            answer = f"`{self.name}` takes {taken}."
            yield _chat(f"Which arguments does Python's `{self.name}` take?", answer)


def _chat(question: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_data(directory: Path, library: Path | None = None) -> dict[str, int]:
    """Write `train.jsonl` and `test.jsonl`, whole or not at all, and count their rows.

    Raises:
        UserError: the standard library of this Python comes without its sources.
    """
    library = library or Path(sysconfig.get_paths()["stdlib"])
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for entry in entries(library):
        splits["test" if entry.held_out else "train"].extend(entry.rows())
    for rows in splits.values():
        # In an order of its own, so that the first rows of the test split are not all of one module.
        rows.sort(key=lambda row: hashlib.sha256(row["messages"][0]["content"].encode()).hexdigest())
    del splits["test"][TEST_ROWS:]
    count = sum(map(len, splits.values()))
    if count < FEWEST_ROWS:
        raise UserError(
            f"The standard library of this Python gives only {count} chats; {FEWEST_ROWS} are needed",
            str(library),
            "use a Python that has its .py sources, or your own data: DATA=/path/to/chats.jsonl",
            exit_code=ExitCode.ENVIRONMENT,
        )
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        _write_whole(directory / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return {split: len(rows) for split, rows in splits.items()}


def _write_whole(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def entries(library: Path) -> Iterator[Entry]:
    """Yield what is documented, each summary once: an alias would put one answer into both splits."""
    seen_names: set[str] = set()
    seen_summaries: set[str] = set()
    for module in MODULES:
        for source in _sources(library, module):
            for entry in _of_module(module, ast.parse(source.read_text(encoding="utf-8"))):
                if entry.name in seen_names or entry.summary in seen_summaries:
                    continue
                seen_names.add(entry.name)
                seen_summaries.add(entry.summary)
                yield entry


def _sources(library: Path, module: str) -> Iterator[Path]:
    for name in (module, *ELSEWHERE.get(module, ())):
        stem = library.joinpath(*name.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                yield path


def _public_name(module: str) -> str:
    """Return the name under which people import what `module` defines."""
    if module in ("posixpath", "genericpath"):
        return "os.path"  # on the systems that the kit runs on
    for package in ("asyncio", "unittest"):
        if module.startswith(f"{package}.") and module != "unittest.mock":
            return package
    return module


def _of_module(module: str, tree: ast.Module) -> Iterator[Entry]:
    module = _public_name(module)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _of_function(module, node, method=False)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = f"{module}.{node.name}"
            summary = _summary(node)
            if summary:
                yield Entry(name, name, summary, ())
            for child in node.body:
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield from _of_function(name, child, method=True)


def _of_function(
    prefix: str, node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool
) -> Iterator[Entry]:
    summary = _summary(node)
    if node.name.startswith("_") or summary is None:
        return
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    name = f"{prefix}.{node.name}"
    if any(
        "property" in decorator or decorator.endswith((".setter", ".deleter")) for decorator in decorators
    ):
        yield Entry(name, name, summary, ())
        return
    arguments = _bare(node.args, drop_first=method and "staticmethod" not in decorators)
    awaited = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    yield Entry(name, f"{awaited}{name}({ast.unparse(arguments)})", summary, tuple(_spelled(arguments)))


def _bare(arguments: ast.arguments, *, drop_first: bool) -> ast.arguments:
    """Leave out `self` or `cls`, and annotations."""
    positional = [*arguments.posonlyargs, *arguments.args]
    kept = {id(argument) for argument in positional[1 if drop_first else 0 :]}

    def plain(values: list[ast.arg]) -> list[ast.arg]:
        return [ast.arg(arg=value.arg) for value in values if id(value) in kept]

    return ast.arguments(
        posonlyargs=plain(arguments.posonlyargs),
        args=plain(arguments.args),
        vararg=ast.arg(arg=arguments.vararg.arg) if arguments.vararg else None,
        kwonlyargs=[ast.arg(arg=value.arg) for value in arguments.kwonlyargs],
        kw_defaults=arguments.kw_defaults,
        kwarg=ast.arg(arg=arguments.kwarg.arg) if arguments.kwarg else None,
        defaults=arguments.defaults[-len(kept) :] if kept else [],
    )


def _spelled(arguments: ast.arguments) -> Iterator[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    defaults: list[Any] = [*[None] * required, *arguments.defaults]
    named = [*zip(positional, defaults, strict=True)]
    named += [*zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    for argument, default in named:
        yield f"`{argument.arg}`" + (f" (default `{ast.unparse(default)}`)" if default is not None else "")
    if arguments.vararg:
        yield f"`*{arguments.vararg.arg}`"
    if arguments.kwarg:
        yield f"`**{arguments.kwarg.arg}`"


def _summary(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str | None:
    """Take the first paragraph of the docstring as one line; None where it says too little or too much."""
    docstring = ast.get_docstring(node, clean=False)
    if docstring is None:
        return None
    paragraph = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
    summary = " ".join(paragraph.split())
    if not SHORTEST <= len(summary) <= LONGEST or ">>>" in summary or not summary[0].isalpha():
        return None
    return summary if summary[-1] in ".!?:" else f"{summary}."
