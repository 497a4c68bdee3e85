"""`sft configure`: flags, questions, refusals, and files that are whole or absent."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.cli.configure import STRATEGIES
from sft.cli.main import main
from sft.config.kit import STRATEGY_ALIASES, Strategy
from sft.errors import UserError
from sft.launch import configure as module
from sft.launch.configure import write_all
from sft.plan.hardware import Hardware

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
FOUR_GPUS = Hardware(("NVIDIA A100",) * 4, (40 * GIB,) * 4, 16, 256 * GIB)
NO_GPU = Hardware((), (), 2, 8 * GIB)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be in an empty directory, on a machine with no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sft.plan.hardware.detect", lambda: NO_GPU)
    return tmp_path


def configure(words: str) -> int:
    return main(["configure", *shlex.split(words)])


@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_presets_are_what_it_writes(
    strategy: Strategy, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = ROOT / "accelerate_configs" / f"{strategy.value}.yaml"
    count = "" if strategy is Strategy.SINGLE else " --gpus-per-node 4"
    offload = " --offload both" if strategy is Strategy.ZERO3_OFFLOAD else ""
    command = (
        f"sft configure --strategy {strategy.value} --device gpu{count}{offload} "
        f"--output accelerate_configs/{strategy.value}.yaml"
    )
    assert preset.read_text().splitlines()[1] == f"# Written by: {command}"
    assert configure(command.removeprefix("sft configure ")) == 0
    assert capsys.readouterr().out == f"accelerate_configs/{strategy.value}.yaml\n"
    for fresh in sorted((machine / "accelerate_configs").iterdir()):
        kept = preset.with_name(fresh.name)
        assert fresh.read_text() == kept.read_text(), f"accept with: {command} --force"


def test_there_are_no_other_presets() -> None:
    names = {f"{strategy.value}.yaml" for strategy in Strategy}
    names |= {f"{strategy.value}.json" for strategy in Strategy if strategy.is_deepspeed}
    assert {path.name for path in (ROOT / "accelerate_configs").iterdir()} == names


def test_the_names_of_trl_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert configure("--strategy multi_gpu --gpus-per-node 2") == 0
    assert configure("--strategy single_gpu --device gpu") == 0
    assert capsys.readouterr().out == "ddp.yaml\nsingle.yaml\n"


def test_the_gpus_of_this_machine_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sft.plan.hardware.detect", lambda: FOUR_GPUS)
    assert configure("--strategy fsdp2") == 0
    text = Path("fsdp2.yaml").read_text()
    assert "num_processes: 4" in text
    assert "--device gpu --gpus-per-node 4" in text


def test_one_file_goes_to_stdout_and_nothing_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        configure("--strategy ddp --device cpu --processes-per-node 2 --mixed-precision fp32 --output -") == 0
    )
    assert capsys.readouterr().out == (
        "# accelerate configuration: ddp, 2 processes.\n"
        "# Written by: sft configure --strategy ddp --device cpu --processes-per-node 2 --mixed-precision no "
        "--output -\n"
        "compute_environment: LOCAL_MACHINE\n"
        "distributed_type: MULTI_GPU  # with use_cpu: gloo between CPU processes\n"
        "mixed_precision: 'no'\n"
        "num_machines: 1\n"
        "num_processes: 2  # `accelerate launch --num_processes N` overrides\n"
        "machine_rank: 0\n"
        "main_process_port: 0  # any free one\n"
        "use_cpu: true\n"
    )
    assert list(Path().iterdir()) == []


REFUSED = {
    "--strategy zero3": (
        "the file needs a GPU, and this machine does not show it\n"
        "  fix:   name it: --gpus-per-node 4, or --device cpu --processes-per-node 2"
    ),
    "--strategy zero3 --device cpu": (
        "the file needs the number of processes, and this machine does not show it\n"
        "  fix:   name it: --processes-per-node 2"
    ),
    "--strategy fsdp2_offload --device cpu --processes-per-node 2 --mixed-precision fp16": (
        "fsdp2_offload on CPU cannot work: accelerate runs FSDP on GPUs only, and trains as DDP on CPUs without "
        "a word\n  fix:   use --strategy zero3_offload\n"
        "fp16 on CPU cannot work: accelerate and DeepSpeed have it on GPUs only\n"
        "  fix:   use --mixed-precision bf16"
    ),
    "--strategy single --gpus-per-node 2": (
        "strategy single is one process, not 2\n  fix:   use --strategy ddp"
    ),
    "--strategy ddp --gpus-per-node 1": (
        "strategy ddp with one process is single\n  fix:   use --strategy single"
    ),
    "--strategy zero3 --gpus-per-node 2 --offload both": (
        "--offload has no effect on zero3\n  fix:   use --strategy zero3_offload"
    ),
    "--strategy ddp --gpus-per-node 2 --device cpu": (
        "--gpus-per-node has no effect on CPU\n  fix:   use --processes-per-node"
    ),
    "--strategy ddp --gpus-per-node 2 --nodes 2": (
        "2 machines need to know where machine 0 is\n"
        "  fix:   add --main-process-ip ADDRESS, which every machine can reach"
    ),
    "--strategy ddp --gpus-per-node 2 --nodes 2 --main-process-ip n0 --main-process-port 0": (
        "several machines cannot meet at any free port\n  fix:   name one: 29500"
    ),
    "--strategy ddp --gpus-per-node 2 --main-process-ip n0 --per-machine d": (
        "--main-process-ip has no effect on one machine\n  fix:   remove it, or add --nodes 2\n"
        "--per-machine is for several machines\n  fix:   use --output, or add --nodes 2"
    ),
    "--strategy zero2 --gpus-per-node 2 --output -": (
        "zero2 has a DeepSpeed file beside the YAML, and stdout is one file\n  fix:   use --output zero2.yaml"
    ),
    "--strategy zero2 --gpus-per-node 2 --output zero2.json": (
        "zero2.json is a YAML file, and DeepSpeed's is the .json\n  fix:   use --output NAME.yaml"
    ),
    "--gpus-per-node 2": (
        "--gpus-per-node needs a strategy\n"
        "  fix:   sft configure --strategy zero3 --gpus-per-node 4 --output zero3.yaml"
    ),
    "": (
        "sft configure asks its questions on a terminal, and there is none here\n"
        "  fix:   sft configure --strategy zero3 --gpus-per-node 4 --output zero3.yaml"
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_work_is_refused_and_leaves_nothing(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure(words) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", REFUSED[words] + "\n")
    assert list(Path().iterdir()) == []


def test_a_different_file_is_kept_unless_force_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--strategy zero2 --gpus-per-node 2 --output mine.yaml"
    Path("mine.json").write_text("{}")
    assert configure(words) == 2
    assert capsys.readouterr().err == (
        "mine.json is there already, and is different\n  fix:   choose another --output, or add --force\n"
    )
    assert [path.name for path in Path().iterdir()] == ["mine.json"]
    assert configure(f"{words} --force") == 0
    # The same again changes nothing, and is not refused.
    assert configure(words) == 0


def test_a_disk_that_fails_leaves_neither_file(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def fail(source: str, target: Path) -> None:
        if str(target).endswith(".json"):
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(UserError, match="the file cannot be written: No space left on device"):
        write_all({"zero3.json": "{}", "zero3.yaml": "a: b"})
    assert list(Path().iterdir()) == []


def test_files_of_machines_differ_in_their_rank_alone() -> None:
    words = "--strategy zero3 --gpus-per-node 4 --nodes 3 --main-process-ip node0 --per-machine machines"
    assert configure(words) == 0
    texts = [Path(f"machines/machine-{rank}.yaml").read_text() for rank in range(3)]
    assert [re.findall(r"^machine_rank: (\d)", text, re.M) for text in texts] == [["0"], ["1"], ["2"]]
    assert len({re.sub(r"(?m)^machine_rank: \d", "", text) for text in texts}) == 1
    for line in (
        "num_processes: 12  # over all machines",
        'main_process_ip: "node0"  # machine 0',
        "main_process_port: 29500",
        'deepspeed_config_file: "machines/deepspeed.json"  # from where `accelerate launch` is started',
    ):
        assert line in texts[0]


class Terminal:
    """`sft configure` on a terminal of its own."""

    def __init__(self) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", CUDA_VISIBLE_DEVICES="")
            os.execv(sys.executable, [sys.executable, "-m", "sft.cli.main", "configure"])
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Read until the screen has said this."""
        end = time.monotonic() + 30
        while text not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.seen):
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:
                    data = b""
                assert data, self.seen
                if b"\x1b[6n" in data:
                    os.write(self.master, b"\x1b[1;1R")
                self.seen += data.decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def close(self) -> int:
        """Return the exit status, negative for a signal."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.master)
        return status


DOWN = "\x1b[B"


def test_the_wizard_takes_arrow_keys_and_defaults(machine: Path) -> None:
    terminal = Terminal()
    terminal.wait_for("cpu  no GPU")
    terminal.type("\r")
    terminal.wait_for("Strategy [ddp]")
    terminal.type(DOWN * 2 + "\r")
    terminal.wait_for("Machines [1]")
    terminal.type("\r")
    terminal.wait_for("on each machine [")
    terminal.type("3\r")
    terminal.wait_for("Precision [auto]")
    terminal.type(DOWN + "\r")
    terminal.wait_for("File to write [zero2.yaml]")
    terminal.type("\r")
    terminal.wait_for("wrote zero2.yaml")
    assert terminal.close() == 0
    assert sorted(path.name for path in machine.iterdir()) == ["zero2.json", "zero2.yaml"]
    text = (machine / "zero2.yaml").read_text()
    assert "num_processes: 3" in text
    assert "--mixed-precision bf16 --output zero2.yaml" in text


@pytest.mark.parametrize("how", ["interrupt", "end of file", "closed terminal"])
def test_leaving_the_wizard_leaves_nothing(machine: Path, how: str) -> None:
    terminal = Terminal()
    terminal.wait_for("cpu  no GPU")
    terminal.type("\r")
    terminal.wait_for("Strategy [")
    terminal.type("\r")
    terminal.wait_for("Machines [1]")
    if how == "closed terminal":
        os.kill(terminal.pid, signal.SIGHUP)
        assert terminal.close() == -signal.SIGHUP
    else:
        terminal.type({"interrupt": "\x03", "end of file": "\x04"}[how])
        terminal.wait_for("Stopped. Nothing was written.")
        assert terminal.close() == 130
    assert list(machine.iterdir()) == []


def test_help_and_flags_import_neither_torch_nor_the_questions(machine: Path) -> None:
    code = (
        "import sys\nfrom sft.cli.main import main\n"
        "main(['configure', '--strategy', 'zero3', '--gpus-per-node', '2'])\n"
        "print([name for name in ('torch', 'accelerate', 'questionary') if name in sys.modules])\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "zero3.yaml\n[]\n"


def test_the_commands_of_the_page_run_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "accelerate.md").read_text()
    commands = re.findall(r"(?m)^sft configure (--.+)$", page)
    assert len(commands) == 4
    for command in commands:
        assert configure(command) == 0, capsys.readouterr().err
    *_, first, second = capsys.readouterr().out.splitlines()
    assert f"```\n{first}\n{second}\n```" in page


def test_every_strategy_and_name_of_trl_can_be_asked_for() -> None:
    assert list(STRATEGIES) == [*(strategy.value for strategy in Strategy), *STRATEGY_ALIASES]
