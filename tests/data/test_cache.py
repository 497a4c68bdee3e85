"""Prepared once: whole or absent, never mistaken, and shared by launches that come at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sft.config.loader import load_run
from sft.data import make
from sft.data.prepare import find, prepare
from sft.errors import ExitCode, UserError
from tests import tiny
from tests.data.preparing import in_a_process, prepared, rows_of, run_file

PREPARE = """
    from pathlib import Path
    from sft.config.loader import load_run
    from sft.data.prepare import prepare
    entry = prepare(load_run(Path(run), environment={}))
    print(entry.directory)
"""
SLOWLY = """
    import time
    from sft.data import make
    take = make._take
    def slow(*arguments):
        Path(run).with_name("begun").touch()
        while not Path(run).with_name("go").exists():
            time.sleep(0.05)
        take(*arguments)
    make._take = slow
"""


def entries(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "cache" / "prepared").iterdir())


def test_a_second_launch_prepares_nothing(tmp_path: Path, tiny_model: Path, tiny_chats: Path) -> None:
    loaded = run_file(tmp_path, tiny_model, tiny_chats)
    first = prepare(loaded, say=lambda line: None)
    before = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}

    second = prepare(loaded, say=lambda line: None)

    assert second.directory == first.directory
    assert {path: path.stat().st_mtime_ns for path in second.directory.iterdir()} == before


def test_a_changed_byte_makes_another_entry_even_with_the_same_size_and_time(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    data = Path(shutil.copy(tiny_chats, tmp_path / "chats.jsonl"))
    times = data.stat()
    first = prepared(tmp_path, tiny_model, data)
    data.write_text(data.read_text().replace("number 7 ", "number 8 ", 1))
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))

    second = prepared(tmp_path, tiny_model, data)

    assert data.stat().st_size == times.st_size
    assert second.directory != first.directory
    assert rows_of(second) != rows_of(first)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 24},
        {"assistant_only_loss": True},
        {"packing": True},
        {"chat_template": tiny.CHAT_TEMPLATE + " "},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_makes_another_entry(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path, change: dict[str, object]
) -> None:
    first = prepared(tmp_path, tiny_model, tiny_chats, max_cut_answers=1)
    assert (
        prepared(tmp_path, tiny_model, tiny_chats, max_cut_answers=1, **change).directory != first.directory
    )


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"seed": 7}, {"dataset_num_proc": 3}])
def test_what_decides_no_token_makes_no_other_entry(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path, change: dict[str, object]
) -> None:
    first = prepared(tmp_path, tiny_model, tiny_chats)
    assert prepared(tmp_path, tiny_model, tiny_chats, **change).directory == first.directory


def test_the_order_is_the_same_whatever_the_number_of_workers(
    tmp_path: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tiny.write_chats(tmp_path / "chats.jsonl", make.ROWS_PER_BLOCK * (make.SMALL + 2))
    settings = {"packing": True, "max_length": 128, "shuffle_dataset": True}
    one = prepared(tmp_path / "one", tiny_model, data, dataset_num_proc=1, **settings)
    three = prepared(tmp_path / "three", tiny_model, data, dataset_num_proc=3, **settings)

    assert (one.directory / "train.arrow").read_bytes() == (three.directory / "train.arrow").read_bytes()


def test_two_launches_at_once_make_one_entry(tmp_path: Path, tiny_model: Path, tiny_chats: Path) -> None:
    run_file(tmp_path, tiny_model, tiny_chats)
    first = in_a_process(_joined(SLOWLY, PREPARE), run=tmp_path / "run.yaml")
    wait_for(tmp_path / "begun")
    second = in_a_process(PREPARE, run=tmp_path / "run.yaml")
    assert second.stderr is not None
    waits = "another process prepares this data: waiting for it"
    assert any(waits in line for line in iter(second.stderr.readline, ""))
    (tmp_path / "go").touch()
    (out_1, err_1), (out_2, err_2) = first.communicate(timeout=60), second.communicate(timeout=60)

    assert (first.returncode, second.returncode) == (0, 0), err_1 + err_2
    assert out_1 == out_2
    assert len(entries(tmp_path)) == 1


def test_a_kill_in_the_middle_leaves_nothing_that_is_taken_for_whole(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    loaded = run_file(tmp_path, tiny_model, tiny_chats)
    killed = in_a_process(_joined(SLOWLY, PREPARE), run=tmp_path / "run.yaml")
    wait_for(tmp_path / "begun")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    assert [name[0] for name in entries(tmp_path)] == ["."]
    assert find(loaded) is None
    entry = prepare(loaded, say=lambda line: None)
    assert entries(tmp_path) == [entry.directory.name]


@pytest.mark.parametrize("harm", ["truncate", "remove"])
def test_a_torn_entry_is_made_again(tmp_path: Path, tiny_model: Path, tiny_chats: Path, harm: str) -> None:
    loaded = run_file(tmp_path, tiny_model, tiny_chats)
    arrow = prepare(loaded, say=lambda line: None).directory / "train.arrow"
    whole = arrow.read_bytes()
    if harm == "truncate":
        arrow.write_bytes(whole[:-100])
    else:
        arrow.unlink()

    assert find(loaded) is None
    assert (prepare(loaded, say=lambda line: None).directory / "train.arrow").read_bytes() == whole


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a full disk is a small tmpfs here, and mounting one needs root")
    try:
        data = tiny.write_chats(tmp_path / "chats.jsonl", 3000)
        with pytest.raises(UserError) as caught:
            prepared(tmp_path, tiny_model, data, data_cache=str(place))
        assert list((place / "prepared").iterdir()) == []
    finally:
        subprocess.run(["umount", place], check=True)
    assert caught.value.problems[0].what == "the disk is full"
    assert (
        caught.value.problems[0].fix == "make room, or set data_cache (or $SFT_CACHE) to a place that has it"
    )
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Make a directory read-only, for root too."""
    mounted: list[Path] = []

    def make_read_only(place: Path) -> None:
        if os.getuid() != 0:
            subprocess.run(["chmod", "-R", "a-w", place], check=True)
            return
        done = subprocess.run(["mount", "--bind", place, place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("root writes to any directory that is not mounted read-only, and may not mount here")
        mounted.append(place)
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)

    yield make_read_only
    for place in mounted:
        subprocess.run(["umount", place], check=True)
    subprocess.run(["chmod", "-R", "u+w", tmp_path], check=False)


def test_a_read_only_cache_is_used_and_one_that_lacks_the_entry_is_told(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path, read_only: Callable[[Path], None]
) -> None:
    made = prepared(tmp_path, tiny_model, tiny_chats)
    read_only(tmp_path / "cache")

    assert prepared(tmp_path, tiny_model, tiny_chats).directory == made.directory
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, tiny_model, tiny_chats, max_length=99)
    assert caught.value.problems[0].what.startswith("the data cache cannot be written: ")
    assert caught.value.problems[0].fix == (
        "set data_cache (or $SFT_CACHE) to a directory of yours that the compute nodes see"
    )
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_a_worker_that_is_killed_ends_the_preparation_with_a_reason(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.write_chats(tmp_path / "chats.jsonl", make.ROWS_PER_BLOCK * (make.SMALL + 2))
    (tmp_path / "kill.py").write_text("import os\ndef row(row):\n    os.kill(os.getpid(), 9)\n")
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, tiny_model, data, dataset_num_proc=2, dataset_mapping=f"{tmp_path}/kill.py:row")
    assert caught.value.problems[0].what == (
        "a process that prepares data was killed, most likely for want of memory"
    )
    assert caught.value.exit_code == ExitCode.DOES_NOT_FIT
    assert entries(tmp_path) == []


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


def _joined(*codes: str) -> str:
    import textwrap

    return "from pathlib import Path\n" + "\n".join(textwrap.dedent(code) for code in codes)


def test_a_run_file_is_read_by_the_ranks_as_by_the_launch(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    """The resolved run file that ranks read names the same entry."""
    from ruamel.yaml import YAML

    loaded = run_file(tmp_path, tiny_model, tiny_chats, assistant_only_loss=True)
    with (tmp_path / "resolved.yaml").open("w") as stream:
        YAML(typ="safe").dump(loaded.config.settings(), stream)
    again = load_run(tmp_path / "resolved.yaml", environment={})
    assert prepare(again, say=lambda line: None).directory == prepare(loaded, say=lambda line: None).directory
