"""Open a file of rows as bytes, and say what is wrong with it in words."""

from __future__ import annotations

import codecs
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sft.data.block import SourceFile
from sft.errors import ExitCode, UserError

CHUNK_BYTES = 1 << 20
AGAIN = "fetch it or write it again"
FOREIGN_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""The byte order marks of other encodings; the longer before the one it begins with."""


def refuse(file: SourceFile, what: str, fix: str, line: int | None = None) -> UserError:
    """Make the error for a file, at a line where there is one."""
    return UserError(what, where=f"{file.name}:{line}" if line else file.name, fix=fix)


@contextmanager
def open_bytes(file: SourceFile) -> Iterator[IO[bytes]]:
    """Open a file, decompressed.

    Raises:
        UserError: it is not there, may not be read, or is not compressed as its name says; also while it is read.
    """
    with explained(file), Path(file.path).open("rb") as raw:
        if file.compression == "gzip":
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(unpacked, CHUNK_BYTES)
        elif file.compression == "zstd":
            import pyarrow

            with pyarrow.input_stream(raw, compression="zstd") as unpacked:
                yield unpacked
        else:
            yield raw


@contextmanager
def open_seekable(file: SourceFile) -> Iterator[IO[bytes]]:
    """Open a file in which one can go back; a compressed one is first unpacked into the temporary directory."""
    if file.compression is None:
        with open_bytes(file) as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as unpacked:
        with open_bytes(file) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                unpacked.write(chunk)
        unpacked.seek(0)
        yield unpacked


@contextmanager
def explained(file: SourceFile) -> Iterator[None]:
    """Turn what reading a file raises into problems that the user can mend."""
    try:
        yield
    except FileNotFoundError as error:
        raise refuse(file, "there is no such file", "check the path") from error
    except IsADirectoryError as error:
        raise refuse(
            file, "this is a directory, not a file", "name a file in it, or the directory alone"
        ) from error
    except PermissionError as error:
        raise UserError(
            "the file may not be read by this user",
            where=file.name,
            fix=f"chmod a+r {file.path}",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" in str(error):
            raise refuse(
                file, "the file is not gzip, as its name says", "remove .gz from its name"
            ) from error
        raise refuse(file, "the gzip file is damaged", AGAIN) from error
    except EOFError as error:
        raise refuse(file, "the gzip file is cut off", AGAIN) from error
    except zlib.error as error:
        raise refuse(file, "the gzip file is damaged", AGAIN) from error
    except OSError as error:
        if file.compression == "zstd" and "Truncated" in str(error):
            raise refuse(file, "the zstd file is cut off", AGAIN) from error
        if file.compression == "zstd" and "ZSTD" in str(error):
            what = "the file is not zstd, as its name says, or is damaged"
            raise refuse(file, what, f"{AGAIN}, or remove .zst from its name") from error
        raise UserError(
            f"the file cannot be read: {error.strerror or error}",
            where=file.name,
            fix="check the disk or the network drive that it lies on",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error


def without_bom(file: SourceFile, head: bytes) -> bytes:
    """Take UTF-8's byte order mark off the beginning of a file of text; refuse that of another encoding."""
    if file.kind in ("parquet", "arrow"):
        return head
    for mark, encoding in FOREIGN_MARKS.items():
        if head.startswith(mark):
            raise refuse(file, f"the file is {encoding}, not UTF-8", _recode(file, encoding))
    return head.removeprefix(codecs.BOM_UTF8)


def not_utf8(file: SourceFile, error: UnicodeDecodeError, line: int) -> UserError:
    """Make the error for bytes that are no UTF-8."""
    what = f"the line is not UTF-8: it has the byte 0x{error.object[error.start]:02x}"
    return refuse(file, what, f"{_recode(file, 'LATIN1')}, if that is its encoding", line)


def _recode(file: SourceFile, encoding: str) -> str:
    packed = {"gzip": "zcat", "zstd": "zstdcat"}.get(file.compression or "", "")
    if packed:
        return f"{packed} {file.path} | iconv -f {encoding} -t UTF-8 > utf8.{file.kind}"
    return f"iconv -f {encoding} -t UTF-8 {file.path} > utf8{Path(file.path).suffix}"


def lines(file: SourceFile, keep_ends: bool = False) -> Iterator[bytes]:
    r"""Yield the lines of a file; `\n`, `\r\n` and `\r` end one, each where it stands."""
    with open_bytes(file) as stream:
        begun: list[bytes] = []
        chunk = without_bom(file, stream.read(CHUNK_BYTES))
        while chunk:
            while chunk.endswith(b"\r") and (after := stream.read(1)):  # the \n of a pair may come next
                chunk += after
            found = chunk.splitlines(keepends=True)
            if not found[0].endswith((b"\n", b"\r")):
                begun.append(found.pop(0))
            elif begun:
                found[0] = b"".join((*begun, found[0]))
                begun = []
            if found and not found[-1].endswith((b"\n", b"\r")):
                begun = [found.pop()]
            yield from found if keep_ends else (line.rstrip(b"\r\n") for line in found)
            chunk = stream.read(CHUNK_BYTES)
        if begun:
            yield b"".join(begun)


Chunk = tuple[list[int], list[Any]]
"""Numbers and rows of consecutive rows of a file."""
