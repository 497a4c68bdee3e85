"""Whether a cut is a model at all: what fails of a cut that is none says nothing about the run.

Crosses the torch line through a door of its own: `is_no_model` starts a process for each, which builds the model without
weights, and loads the cut.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sft.check.sealed import OFFLINE
from sft.launch.command import PACKAGE_ROOT

SECONDS = 120.0
BUILDS, BUILDS_NOT = 0, 3


def is_no_model(source: Path, cut: Path, *, trust_remote_code: bool) -> bool:
    """Whether transformers builds the model and cannot load its cut; False where that cannot be told."""
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    codes = []
    for act, directory in (("build", source), ("load", cut)):
        own = [act, str(directory), str(int(trust_remote_code))]
        words = [sys.executable, "-P", "-m", "sft.check.deep.built", *own]
        environment = {**os.environ, **OFFLINE, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        codes.append(done.returncode)
    return codes == [BUILDS, BUILDS_NOT]


def main(act: str, directory: str, trust_remote_code: str) -> int:
    """Be the process."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trusts = trust_remote_code == "1"
    try:
        if act == "load":
            AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=trusts)
            return BUILDS
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trusts)
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config, trust_remote_code=trusts)  # type: ignore[no-untyped-call]  # transformers' own
    except Exception:  # whatever a model's own code raises
        return BUILDS_NOT
    return BUILDS


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
