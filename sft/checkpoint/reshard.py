"""Lay a checkpoint out for another number of ranks. Below the torch line; a process of its own.

    python -m sft.checkpoint.reshard CHECKPOINT TARGET --ranks N

What does not depend on the ranks is linked, not copied. Each rank draws its random numbers (dropout) from a state of
its own, which another number of ranks has no use for: new ones are derived from the checkpoint's. DeepSpeed's shards
are turned into its universal format, which any number of ranks reads (`deepspeed.checkpoint.ds_to_universal`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

UNIVERSAL = "_universal"


def reshard(checkpoint: Path, target: Path, *, ranks: int) -> None:
    """Write what `ranks` ranks continue from into `target`, which is complete once this returns.

    Raises:
        RuntimeError: DeepSpeed cannot convert its shards; the message ends with its own words.
    """
    making = target.with_name(f".{target.name}")
    shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    tag = checkpoint / "latest"
    shards = checkpoint / tag.read_text().strip() if tag.exists() else None
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint)
        if path.is_dir() or name.name.startswith("rng_state") or name.name == "latest":
            continue
        if shards is None or not path.is_relative_to(shards):
            _link(path, making / name)
    _random_states(checkpoint, making, ranks)
    if shards is not None:
        _universal(shards, making / f"{shards.name}{UNIVERSAL}")
    making.rename(target)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _random_states(checkpoint: Path, target: Path, ranks: int) -> None:
    """Derive each rank's state from the checkpoint's, so that the same resume draws the same numbers again.

    A GPU's state is left out: its rank goes on from the run's seed, as transformers says in its log.
    """
    known = b"".join(path.read_bytes() for path in sorted(checkpoint.glob("rng_state*.pth")))
    entropy = int.from_bytes(hashlib.sha256(known).digest(), "little")
    for rank in range(ranks):
        own = int(np.random.SeedSequence([entropy, ranks, rank]).generate_state(1, np.uint32)[0])
        state = {
            "python": random.Random(own).getstate(),
            "numpy": np.random.RandomState(own).get_state(),
            "cpu": torch.Generator().manual_seed(own).get_state(),
        }
        torch.save(state, target / ("rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth"))


def _universal(shards: Path, target: Path) -> None:
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(shards)]
    command += ["--output_folder", str(target), "--num_extract_workers", "1", "--num_merge_workers", "1"]
    command += ["--inject_missing_state"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"DeepSpeed could not reshard {shards}: {said[-1] if said else done.returncode}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--ranks", type=int, required=True)
    arguments = parser.parse_args()
    try:
        reshard(arguments.checkpoint, arguments.target, ranks=arguments.ranks)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
