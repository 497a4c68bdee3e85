"""Making the environment, with stand-ins for the installers: what is asked of them, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from sft.errors import ExitCode, UserError
from sft.quickstart import environment as setup
from sft.quickstart.environment import Environment
from sft.quickstart.indexes import from_pip_config, uv_settings

ROOT = Path(__file__).parents[2]
# Notes its arguments; makes an interpreter; says what FAKE_PLAN says on a dry run; fails where FAKE_FAILS says so.
FAKE_UV = """\
#!/bin/bash
echo "$*" >> "$(dirname "$0")/calls"
case "$*" in
  venv*) mkdir -p "${!#}/bin" && ln -sf "$FAKE_PYTHON" "${!#}/bin/python" ;;
  *--dry-run*) echo "$FAKE_PLAN" >&2 ;;
  *"$FAKE_FAILS"*) echo "error: no route to the index" >&2; exit 2 ;;
esac
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A clone with nothing installed, and a uv that installs nothing."""
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\ntorch==2.13.0\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    uv = tmp_path / "uv"
    uv.write_text(FAKE_UV, encoding="utf-8")
    uv.chmod(0o755)
    monkeypatch.setenv("FAKE_PLAN", " + torch==2.13.0+cpu")
    monkeypatch.setenv("FAKE_FAILS", "nothing")
    # An interpreter without torch, whatever runs this test.
    monkeypatch.setenv("FAKE_PYTHON", str(Path(sys.base_prefix) / "bin" / "python3"))
    monkeypatch.setenv("TORCH", "auto")
    monkeypatch.setattr(setup, "has_gpu", lambda: False)
    monkeypatch.setattr(setup, "_installed_torch", lambda environment: "")
    return Environment(tmp_path, ("gguf",), str(uv))


def calls(kit: Environment) -> list[str]:
    log = kit.root / "calls"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def test_it_installs_the_pinned_kit_once(kit: Environment) -> None:
    install = f"pip install --python {kit.python} --compile-bytecode -c {kit.constraints} -e {kit.root}[gguf]"
    assert setup.make(kit)
    assert calls(kit) == [
        f"venv --seed --allow-existing --python {sys.executable} {kit.directory}",
        f"pip install --dry-run --python {kit.python} torch==2.13.0",
        install,
    ]
    assert not setup.make(kit)
    assert len(calls(kit)) == 3

    kit.constraints.write_text("numpy==2.4.7\ntorch==2.13.0\n", encoding="utf-8")
    assert setup.make(kit)
    assert calls(kit)[-1] == install


def test_without_a_gpu_the_cpu_build_is_fetched_before_the_rest(
    kit: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PLAN", " + nvidia-cublas==13.0.0")
    setup.make(kit)
    assert [call.partition("--compile-bytecode ")[2] for call in calls(kit)[2:]] == [
        "--torch-backend cpu torch==2.13.0",
        f"-c {kit.constraints} -e {kit.root}[gguf]",
    ]


def test_where_the_cpu_build_is_out_of_reach_it_says_what_comes_instead(
    kit: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_PLAN", " + nvidia-cublas==13.0.0")
    monkeypatch.setenv("FAKE_FAILS", "--torch-backend")
    assert setup.make(kit)
    assert capsys.readouterr().err == (
        "      | error: no route to the index\n"
        "      PyTorch's CPU build cannot be fetched from here; going on with the CUDA build (about 3 GB)\n"
    )


@pytest.mark.parametrize(("choice", "gpu"), [("cuda", False), ("auto", True)])
def test_with_a_gpu_pytorch_comes_as_configured(
    kit: Environment, monkeypatch: pytest.MonkeyPatch, choice: str, gpu: bool
) -> None:
    monkeypatch.setenv("TORCH", choice)
    monkeypatch.setattr(setup, "has_gpu", lambda: gpu)
    setup.make(kit)
    assert not any("--dry-run" in call for call in calls(kit))


def test_a_failing_installation_shows_its_end_and_is_not_finished(
    kit: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAILS", "-e ")
    with pytest.raises(UserError) as caught:
        setup.make(kit)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        "uv could not install the kit\n"
        f"  where: {kit.directory / 'install.log'}\n"
        "  fix:   read the log; check the network and pip's index settings; then run the same command again"
    )
    assert capsys.readouterr().err == "      | error: no route to the index\n"
    monkeypatch.setenv("FAKE_FAILS", "nothing")
    assert setup.make(kit)


def test_an_unknown_build_of_pytorch_is_refused(kit: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH", "rocm")
    with pytest.raises(UserError, match="TORCH=rocm is not a build of PyTorch"):
        setup.make(kit)


def test_a_full_disk_is_told_before_anything_is_fetched(
    kit: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: usage(9 << 30, 8 << 30, 1 << 30))
    with pytest.raises(UserError) as caught:
        setup.make(kit)
    assert str(caught.value) == (
        "The environment needs about 4 GiB of disk; 1.0 GiB are free\n"
        f"  where: {kit.root}\n"
        "  fix:   free some space, or clone the kit onto a larger file system"
    )
    assert calls(kit) == []


def test_the_environment_of_another_python_is_refused(kit: Environment) -> None:
    kit.python.parent.mkdir(parents=True)
    kit.python.write_text("#!/bin/sh\necho 3.10\n", encoding="utf-8")
    kit.python.chmod(0o755)
    with pytest.raises(UserError) as caught:
        setup.make(kit)
    assert str(caught.value) == (
        f"The virtual environment has Python 3.10, not {sys.version_info.major}.{sys.version_info.minor}\n"
        f"  where: {kit.directory}\n"
        f"  fix:   rm -r {kit.directory}; then run the same command again"
    )


def test_uv_looks_where_pip_would() -> None:
    listing = "\n".join(
        [
            ":env:.disable-pip-version-check='1'",
            "global.extra-index-url='https://one.example/simple https://two.example/simple'",
            "global.find-links='/wheels\\n/more'",
            "user.index-url='https://main.example/simple'",
        ]
    )
    assert from_pip_config(listing) == {
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_DEFAULT_INDEX": "https://main.example/simple",
    }


def test_what_is_set_for_uv_stays() -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "/wheels",
        "PIP_EXTRA_INDEX_URL": "https://one.example/simple",
        "UV_INDEX": "https://mine.example/simple",
    }
    assert uv_settings(sys.executable, environment) == {
        "UV_FIND_LINKS": "/wheels",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_a_machine_without_a_new_enough_python_is_told_so(tmp_path: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "cat", "dirname"):
        (tmp_path / name).symlink_to(Path("/bin") / name)
    shown = subprocess.run(
        ["bash", str(ROOT / "launch" / "setup.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 4
    assert shown.stderr == (
        "There is no Python 3.11 or newer on this machine\n"
        "  where: PATH (python3, python3.11, python3.12, python3.13)\n"
        "  fix:   install one (apt install python3.11-venv, or uv python install 3.11), "
        "or name it: PYTHON=/path/to/python3\n"
    )
