"""The run file's contract, one promise a test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sft.config.loader import load_run
from sft.config.slurm import SlurmConfig
from sft.errors import ExitCode, Problem, UserError
from tests.check.corpus.spoil import as_anybody
from tests.config.reading import read, refusal


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),
        ("learning_rate: 2.0E-5", "learning_rate", 2e-5),
        ("max_steps: 1e3", "max_steps", 1000),
        ("max_length: 010", "max_length", 10),
        ("max_length: 1_024", "max_length", 1024),
        ("max_length: none", "max_length", None),
        ("max_length: null", "max_length", None),
        ("packing: yes", "packing", True),
        ("packing: on", "packing", True),
        ("packing: no", "packing", False),
        ("packing: Off", "packing", False),
        ("save_strategy: no", "save_strategy", "no"),
        ("eval_strategy: no", "eval_strategy", "no"),
        ("run_name: 010", "run_name", "010"),
        ("run_name: 2026-11-21", "run_name", "2026-11-21"),
        ("run_name: yes", "run_name", "yes"),
        ("run_name: true", "run_name", "true"),
        ("run_name: 'on'", "run_name", "on"),
        ("hub_revision: 1e5", "hub_revision", "1e5"),
        ("report_to: [wandb, tensorboard]", "report_to", ["wandb", "tensorboard"]),
        ("resume_from_checkpoint: true", "resume_from_checkpoint", True),
        ("pad_to_multiple_of: 8", "pad_to_multiple_of", 8),
        ('lr_scheduler_kwargs: \'{"num_cycles": "2"}\'', "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("lr_scheduler_kwargs: {num_cycles: 2}", "lr_scheduler_kwargs", {"num_cycles": 2}),
    ],
)
def test_values_are_read_by_the_declared_type(tmp_path: Path, text: str, key: str, value: Any) -> None:
    found = getattr(read(tmp_path, text).config.training, key)
    assert found == value
    assert type(found) is type(value)


def test_a_sexagesimal_is_a_time(tmp_path: Path) -> None:
    loaded = read(tmp_path, "launch:\n  time_limit: 24:00:00\n")
    assert loaded.config.launch.time_limit == "24:00:00"


def test_modules_are_split_at_commas_and_a_regex_is_kept(tmp_path: Path) -> None:
    def modules(text: str) -> list[str] | str | None:
        return read(tmp_path, f"lora_target_modules: {text}").config.model.lora_target_modules

    assert modules("q_proj,k_proj") == ["q_proj", "k_proj"]
    assert modules("all-linear") == "all-linear"
    assert modules(r"'.*\.(q|v)_proj'") == r".*\.(q|v)_proj"
    assert modules("[q_proj]") == ["q_proj"]


def test_a_key_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    assert refusal(tmp_path, "seed: 1\nlaunch:\n  nodes: 1\n  nodes: 2\nseed: 2\n") == (
        "nodes is set twice, first in line 5\n  where: run.yaml:6\n  fix:   keep one of the two\n"
        "seed is set twice, first in line 3\n  where: run.yaml:7\n  fix:   keep one of the two"
    )


def test_all_problems_come_together_in_the_order_of_lines(tmp_path: Path) -> None:
    text = """\
lerning_rate: 1e-4
seed: many
optim: adamw
save_strategy: sometimes
per_device_train_batch_size: 0
launch:
  node: 2
  main_process_port: 70000
  learning_rate: 1
  time_limit: soon
hub_token: hf_secret
datasets:
  - path: a
  - pth: b
num_train_epochs: .inf
"""
    assert (
        refusal(tmp_path, text)
        == """\
unknown key lerning_rate
  where: run.yaml:3
  fix:   did you mean learning_rate?
seed is a whole number, not 'many'
  where: run.yaml:4
  fix:   `sft schema seed` tells more
optim cannot be 'adamw'
  where: run.yaml:5
  fix:   did you mean adamw_torch?
save_strategy cannot be 'sometimes'
  where: run.yaml:6
  fix:   one of: no, steps, epoch, best
per_device_train_batch_size must be at least 1, not 0
  where: run.yaml:7
  fix:   give a positive number
unknown key launch.node
  where: run.yaml:9
  fix:   did you mean launch.nodes?
launch.main_process_port must be at most 65535, not 70000
  where: run.yaml:10
  fix:   give such a number
unknown key launch.learning_rate
  where: run.yaml:11
  fix:   write it at the top, not under launch:
launch.time_limit cannot be 'soon'
  where: run.yaml:12
  fix:   write HH:MM:SS or D-HH:MM:SS
hub_token cannot take effect: a token in a run file ends up in logs and on the Hub
  where: run.yaml:13
  fix:   export HF_TOKEN, or `hf auth login`
datasets[1] lacks path
  where: run.yaml:16
  fix:   add `path:`
datasets[1] has no key pth
  where: run.yaml:16
  fix:   did you mean path?
num_train_epochs must be a finite number, not inf
  where: run.yaml:17
  fix:   give such a number"""
    )


def test_nothing_more_is_concluded_from_a_wrong_value(tmp_path: Path) -> None:
    assert refusal(tmp_path, "load_in_4bit: true\nuse_peft: perhaps\n") == (
        "use_peft is true or false, not 'perhaps'\n  where: run.yaml:4\n  fix:   `sft schema use_peft` tells more"
    )


def test_what_is_missing_is_told_at_the_file(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path, head="", text="seed: 1\n")
        == """\
no model is named
  where: run.yaml
  fix:   set model_name_or_path: a Hub id or a local directory
no data set is named
  where: run.yaml
  fix:   set dataset_name: a Hub id or a local file or directory"""
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("load_in_4bit: true", "load_in_4bit without an adapter trains nothing"),
        (
            "use_peft: true\nload_in_4bit: true\nload_in_8bit: true",
            "load_in_4bit and load_in_8bit are both set",
        ),
        ("bf16: true\nfp16: true", "bf16 and fp16 are both set"),
        ("merge: true", "merge needs an adapter"),
        (
            "prepare_model_for_kbit_training: true",
            "prepare_model_for_kbit_training has no effect on a base that is not quantised",
        ),
        ("env: {HF_TOKEN: x}", "HF_TOKEN under env: would be written into the run directory"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).splitlines()[0] == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("launch: 5", "launch holds keys of its own, not 5"),
        ("launch: {slurm: gpu}", f"launch.slurm holds {', '.join(SlurmConfig.model_fields)}, not 'gpu'"),
        ("slurm: {partition: gpu}", "unknown key slurm"),
        ("launch: {partition: gpu}", "unknown key launch.partition"),
        ("time_limit: 10", "unknown key time_limit"),
        ("1: 2", "unknown key 1"),
        ("[1, 2]: 3", "a key is a list or a mapping"),
        ("seed: !!python/object:os.system 1", "tag:yaml.org,2002:python/object:os.system is a tag that a run "
         "file does not know"),
        ("callbacks: &a [*a]", "the aliases of this file have no end"),
    ],
)  # fmt: skip
def test_what_belongs_nowhere_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text + "\n").splitlines()[0].startswith(message)


def test_an_empty_launch_is_no_problem(tmp_path: Path) -> None:
    assert read(tmp_path, "launch:\n  slurm:\n").config.launch.nodes == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "this is not YAML: "),
        (b"\tseed: 1", "this is not YAML: "),
        (b"- 1\n- 2\n", "a run file holds `key: value` lines\n"),
        (b"just words", "a run file holds `key: value` lines\n"),
        (b"a: \xff", "the file is not UTF-8 text (byte 3)\n"),
        (b"a: \x00", "this is not YAML: "),
    ],
)
def test_what_is_no_run_file_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_run(path, environment={})
    assert str(caught.value).startswith(message)
    assert f"where: {path}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"seed: 1\n---\nseed: 2\n",
            "a second document begins here, and a file is read as one\n"
            "  where: {path}:2\n  fix:   remove the line `---`, or keep one document in a file",
        ),
        (
            b"seed: 1\nrun_name: caf\xe9\n",
            "the file is not UTF-8 text (byte 21)\n  where: {path}:2\n  fix:   save it as UTF-8",
        ),
        (
            b"seed: 1\n\nrun_name: a\x00b\n",
            "this is not YAML: a character that no text holds, U+0000\n"
            "  where: {path}:3\n  fix:   remove it; the file may be no text at all",
        ),
        (
            b"seed: 1\ncallbacks: " + b"[" * 3000,
            "this is not YAML that can be read: its brackets or indents nest too deep\n"
            "  where: {path}:2\n  fix:   close what is opened, or write the values flat",
        ),
        (
            b"".join(b" " * level + b"a:\n" for level in range(1500)),
            "this is not YAML that can be read: its brackets or indents nest too deep\n"
            "  where: {path}\n  fix:   close what is opened, or write the values flat",
        ),
    ],
    ids=["two documents", "latin-1", "NUL", "brackets", "indents"],
)
def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_run(path, environment={})
    assert str(caught.value) == message.format(path=path)


def test_a_run_file_is_a_plain_file(tmp_path: Path) -> None:
    """A pipe can be read once, and a launch reads the file again; a fifo that nobody writes to would be waited for."""
    os.mkfifo(tmp_path / "fifo")
    again = "save it as a file, RUN.yaml: it is read several times"
    for path in (tmp_path / "fifo", Path(os.devnull)):
        with pytest.raises(UserError) as caught:
            load_run(path, environment={})
        what = f"{path} is a pipe or a device, and a run file must be a plain file"
        assert [*caught.value.problems] == [Problem(what, None, again)]
    with pytest.raises(UserError) as caught:
        load_run(Path("-"), environment={})
    assert [*caught.value.problems] == [Problem("a run file is not read from standard input", "-", again)]


def test_a_run_file_that_may_not_be_read_is_the_environments_fault(tmp_path: Path) -> None:
    path = tmp_path / "theirs" / "run.yaml"
    path.parent.mkdir()
    path.write_text("seed: 1\n")
    path.chmod(0)
    with as_anybody(), pytest.raises(UserError) as caught:
        load_run(path, environment={})
    assert str(caught.value) == (
        f"the file cannot be read: Permission denied\n  where: {path}\n"
        f"  fix:   `chmod a+r {path}`, or ask its owner for it"
    )
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    path.parent.chmod(0)
    with as_anybody(), pytest.raises(UserError) as caught:
        load_run(path, environment={})
    path.parent.chmod(0o755)
    assert str(caught.value) == (
        f"{path} cannot be looked at: permission denied\n"
        "  fix:   ask the owner of its directory for `chmod a+x`, or copy the file"
    )
    assert caught.value.exit_code is ExitCode.ENVIRONMENT


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_run(tmp_path / "no.yaml", environment={})
    assert caught.value.problems[0].what == f"{tmp_path / 'no.yaml'} does not exist"
    with pytest.raises(UserError) as caught:
        load_run(tmp_path, environment={})
    assert caught.value.problems[0].what == f"{tmp_path} is a directory, not a run file"


def test_merge_keys_and_anchors_are_read(tmp_path: Path) -> None:
    text = "lr_scheduler_kwargs: &base {a: 1, b: 2}\nmodel_init_kwargs:\n  <<: *base\n  b: 3\n"
    assert read(tmp_path, text).config.training.model_init_kwargs == {"a": 1, "b": 3}


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    levels = "".join(f"    l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 9))
    text = "model_init_kwargs:\n    l0: &l0 [x, x]\n" + levels
    assert refusal(tmp_path, text).startswith("the aliases of this file have no end\n  where: run.yaml:")


def test_paths_and_env_are_expanded_once_and_nothing_else(tmp_path: Path) -> None:
    environment = {"HOME": "/home/me", "WORK": "/work/$HOME", "TILDE": "~/deep"}
    text = """\
output_dir: ${WORK}/runs/$$x
chat_template_path: ~/template.jinja
resume_from_checkpoint: $TILDE
run_name: $WORK
env: {CACHE: $WORK/cache, PLAIN: 010, FLAG: true, HOME_OF: ~}
callbacks: [~/mine.py:Stop]
datasets:
  - path: $WORK/a
    data_files: {train: ~/b.jsonl}
launch: {setup: ["cd $WORK"], accelerate_config: ~/mine.yaml}
"""
    config = read(tmp_path, text.replace("HOME_OF: ~", "HOME_OF: '~'"), environment=environment).config
    assert config.training.output_dir == "/work/$HOME/runs/$x"
    assert config.training.chat_template_path == "/home/me/template.jinja"
    assert config.training.resume_from_checkpoint == "/home/me/deep"
    assert config.training.run_name == "$WORK"
    assert config.kit.env == {
        "CACHE": "/work/$HOME/cache",
        "PLAIN": "010",
        "FLAG": "True",
        "HOME_OF": "/home/me",
    }
    assert config.kit.callbacks == ["/home/me/mine.py:Stop"]
    assert config.mixture.datasets[0].path == "/work/$HOME/a"
    assert config.mixture.datasets[0].data_files == {"train": "/home/me/b.jsonl"}
    assert config.launch.setup == ["cd $WORK"]
    assert config.launch.accelerate_config == "/home/me/mine.yaml"


def test_an_unset_variable_is_an_error(tmp_path: Path) -> None:
    assert refusal(tmp_path, "output_dir: $NOWHERE/${AGAIN}\n") == (
        "output_dir uses $AGAIN, which is not set\n  where: run.yaml:3\n"
        "  fix:   export AGAIN=..., or write the value out\n"
        "output_dir uses $NOWHERE, which is not set\n  where: run.yaml:3\n"
        "  fix:   export NOWHERE=..., or write the value out"
    )


def test_site_file_run_file_and_flags_win_in_this_order_and_say_where(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "launch:\n  setup: [module load cuda]\n  nodes: 2\n  slurm: {partition: gpu, account: us}\n"
    )
    text = "seed: 1\nlaunch:\n  nodes: 3\n  slurm: {account: me}\n"
    words = ["--nodes", "4", "--seed", "2"]
    loaded = read(tmp_path, text, words, environment={"SFT_SITE": str(site)})
    launch = loaded.config.launch
    assert (launch.nodes, launch.slurm.partition, launch.slurm.account) == (4, "gpu", "me")
    assert launch.setup == ["module load cuda"]
    sources = {key: loaded.where(key).replace(f"{tmp_path}/", "") for key in (*loaded.sources, "optim")}
    assert sources == {
        "launch.setup": "site.yaml:2",
        "launch.nodes": "--nodes",
        "launch.slurm.partition": "site.yaml:4",
        "launch.slurm.account": "run.yaml:6",
        "model_name_or_path": "run.yaml:1",
        "dataset_name": "run.yaml:2",
        "seed": "--seed",
        "optim": "default",
    }


def test_a_site_file_holds_launch_only(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("learning_rate: 1\n")
    assert refusal(tmp_path, environment={"SFT_SITE": str(site)}) == (
        "a site file holds launch: only, not learning_rate\n  where: site.yaml:1\n"
        "  fix:   move it into the run file"
    )
    missing = str(tmp_path / "none.yaml")
    assert refusal(tmp_path, environment={"SFT_SITE": missing}).startswith("none.yaml does not exist\n")


def test_flags_alone_make_a_run(tmp_path: Path) -> None:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--learning_rate", "2e-4"]
    loaded = load_run(None, words, environment={})
    assert loaded.config.training.learning_rate == 2e-4
    with pytest.raises(UserError) as caught:
        load_run(None, [], environment={})
    assert [problem.where for problem in caught.value.problems] == ["the command line"] * 2


def test_the_limits_of_phases_are_read_and_a_wrong_one_is_refused_with_the_right_ones(tmp_path: Path) -> None:
    limits = read(tmp_path, "launch:\n  limits: {train: 30, save: 4e2}\n").config.launch.limits
    assert (limits.train, limits.save, limits.prepare) == (30.0, 400.0, 7200.0)
    assert refusal(tmp_path, "launch:\n  limits: {zzz: 30, lode: 5, load: 0}\n") == (
        "unknown key launch.limits.zzz\n  where: run.yaml:4\n"
        "  fix:   one of: start, meet, prepare, load, train, evaluate, save, export, leave\n"
        "unknown key launch.limits.lode\n  where: run.yaml:4\n  fix:   did you mean launch.limits.load?\n"
        "launch.limits.load must be greater than 0.0, not 0\n  where: run.yaml:4\n  fix:   give such a number"
    )
    assert refusal(tmp_path, "launch:\n  limits: 30\n").splitlines()[0] == (
        "launch.limits holds start, meet, prepare, load, train, evaluate, save, export, leave, not 30"
    )
