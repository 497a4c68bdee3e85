"""Broken setups: the run directory, what lies in it already, and the caches."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from sft.checkpoint.changes import exact_settings
from sft.config.loader import load_run
from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.spoil import forbid, read_only, small_disk
from tests.checkpoint.made import make

HOLDER = """
import fcntl, json, os, socket, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": "today"}, lock)
lock.flush()
print("held", flush=True)
sys.stdin.read()
"""


def checkpoint(bench: Bench, step: int = 10, **changes: object) -> Path:
    """Leave a whole checkpoint of this run in its directory, made with other settings where some are named."""
    run = bench.directory / "before.yaml"
    run.write_text(json.dumps({**bench.settings, **changes}))
    config = load_run(run, []).config
    return make(bench.output, step, settings=exact_settings(config), rows_per_step=2)


def full(bench: Bench) -> None:
    place = small_disk(bench, bench.directory / "small", "size=64k")
    with suppress(OSError), (place / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(b"\0" * 1024):
            pass
    bench.settings["output_dir"] = str(place / "out")


def no_inodes(bench: Bench) -> None:
    place = small_disk(bench, bench.directory / "small", "size=1g,nr_inodes=12")
    bench.settings["output_dir"] = str(place / "out")


def not_mine(bench: Bench) -> None:
    place = bench.directory / "theirs"
    place.mkdir()
    bench.settings["output_dir"] = str(place / "out")
    forbid(bench, place, 0o555)


def in_use(bench: Bench) -> None:
    lock = bench.output / "_sft" / "lock"
    lock.parent.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    bench.stack.callback(process.wait)
    bench.stack.callback(process.stdin.close)
    bench.stack.callback(process.stdout.close)
    assert process.stdout.readline() == b"held\n"
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise AssertionError("the lock is not held")


def foreign_checkpoint(bench: Bench) -> None:
    make(bench.output, 500)
    (bench.output / "checkpoint-500" / "manifest.json").unlink()


def torn_checkpoint(bench: Bench) -> None:
    (checkpoint(bench) / "optimizer.pt").write_bytes(b"torn")


def finished_before(bench: Bench) -> None:
    shutil.copytree(bench.model, bench.output)


def adapter_before(bench: Bench) -> None:
    bench.output.mkdir()
    (bench.output / "adapter_config.json").write_text("{}")


def adapter_of_another_base(bench: Bench) -> None:
    bench.settings |= {"use_peft": True}
    place = bench.directory / "elsewhere"
    path = make(place, 10)
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}')
    (path / "manifest.json").unlink()
    bench.settings["resume_from_checkpoint"] = str(path)


def nodes(bench: Bench) -> None:
    place = small_disk(bench, bench.directory / "memory", "size=64m")
    bench.settings["output_dir"] = str(place / "out")
    bench.in_batch = True
    bench.on = "slurm"
    bench.launch(nodes=2, gpus_per_node=1)


BROKEN = (
    Broken(
        "an output directory that is mounted read-only",
        "https://github.com/NVIDIA/NeMo-Framework-Launcher/issues/74",
        "it is mounted read-only",
        "run directory",
        lambda bench: bench.settings.update(
            output_dir=str(read_only(bench, bench.directory / "frozen") / "out")
        ),
    ),
    Broken(
        "an output directory that is somebody else's",
        "https://github.com/Kim-Hammar/gym-idsgame/issues/7",
        "permission denied",
        "run directory",
        not_mine,
    ),
    Broken(
        "an output directory on a full disk",
        "https://github.com/tloen/alpaca-lora/issues/280",
        "no room is left",
        "run directory",
        full,
    ),
    Broken(
        "an output directory on a file system that takes no more files",
        "https://github.com/Medical-Event-Data-Standard/MEDS-DEV/issues/266",
        "more files, whatever their size",
        "run directory",
        no_inodes,
    ),
    Broken(
        "an output directory that is a file",
        "https://github.com/matterport/Mask_RCNN/issues/2880",
        "it is a file, and not a directory",
        "run directory",
        lambda bench: bench.output.write_text("log"),
    ),
    Broken(
        "an output directory with a line break in its name",
        "https://dwheeler.com/essays/filenames-in-shell.html",
        "it holds a line break",
        "run directory",
        lambda bench: bench.settings.update(output_dir=str(bench.directory / "my\nrun")),
    ),
    Broken(
        "an output directory with a name that is too long",
        "https://man7.org/linux/man-pages/man7/path_resolution.7.html",
        "a name has 255 at most",
        "run directory",
        lambda bench: bench.settings.update(output_dir=str(bench.directory / ("lr2e-4-" * 40))),
    ),
    Broken(
        "a run that would be written over its own model",
        "https://github.com/awslabs/sockeye/pull/146",
        "output_dir is the directory of the model",
        "run directory",
        lambda bench: bench.settings.update(output_dir=str(bench.model)),
    ),
    Broken(
        "a run directory that another run is using",
        "https://github.com/huggingface/pytorch-image-models/pull/693",
        "the run directory is in use by process",
        "run directory",
        in_use,
    ),
    Broken(
        "a run of several machines in the memory of one",
        "https://github.com/bytedance/HLLM/issues/30",
        "is not what the 2 machines of the run share",
        "run directory",
        nodes,
    ),
    Broken(
        "checkpoints of another trainer, which do not count",
        "https://github.com/huggingface/transformers/issues/15341",
        "checkpoint-500 in output_dir have no manifest",
        "continuing",
        foreign_checkpoint,
    ),
    Broken(
        "a checkpoint that is torn",
        "https://github.com/shibing624/MedicalGPT/issues/133",
        "checkpoint-10 in output_dir are not whole",
        "continuing",
        torn_checkpoint,
    ),
    Broken(
        "another run's checkpoints in the run directory",
        "https://github.com/PriorLabs/TabPFN/issues/814",
        "learning_rate: 0.0005 -> 2e-05",
        "continuing",
        lambda bench: checkpoint(bench, learning_rate=5e-4),
    ),
    Broken(
        "a checkpoint to go on from that is none",
        "https://github.com/shibing624/MedicalGPT/issues/91",
        "is no checkpoint of a trainer",
        "continuing",
        lambda bench: bench.settings.update(resume_from_checkpoint=str(bench.model)),
    ),
    Broken(
        "a run to go on with that is not there",
        "https://github.com/unslothai/unsloth/issues/456",
        "there is no complete checkpoint in",
        "continuing",
        lambda bench: bench.settings.update(resume_from_checkpoint=True),
    ),
    Broken(
        "an adapter of another base to go on from",
        "https://github.com/huggingface/autotrain-advanced/issues/487",
        "was made for meta-llama/Llama-3.1-8B",
        "continuing",
        adapter_of_another_base,
    ),
    Broken(
        "a finished model that would be written over",
        "https://github.com/huggingface/lerobot/pull/322",
        "output_dir holds a finished model and no checkpoint",
        "continuing",
        finished_before,
    ),
    Broken(
        "an adapter that would lie over the new weights",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/integrations/peft.py",
        "output_dir holds an adapter, and the run trains a whole model",
        "continuing",
        adapter_before,
    ),
)
