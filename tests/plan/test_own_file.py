"""An accelerate file of the user's own, TRL's names, and DeepSpeed files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # what accelerate reads its files with

from sft.config.kit import Strategy
from sft.config.loader import load_run
from sft.errors import UserError
from sft.launch.accelerate_file import launch_files
from sft.plan.document import read_document
from sft.plan.hardware import Hardware
from sft.plan.known_keys import unknown_accelerate_keys, unknown_deepspeed_keys
from sft.plan.own_file import read_own_file
from sft.plan.plan import Plan, make_plan
from sft.rundir import RunDirectory

GIB = 1 << 30
EIGHT_GPUS = Hardware(("NVIDIA H100",) * 8, (80 * GIB,) * 8, 64, 512 * GIB)
NO_GPU = Hardware((), (), 2, 8 * GIB)


def plan(tmp_path: Path, hardware: Hardware, *lines: str) -> Plan:
    run = tmp_path / "run.yaml"
    run.write_text(
        "\n".join(["model_name_or_path: m", "dataset_name: d", f"output_dir: {tmp_path}/out", *lines])
    )
    return make_plan(load_run(run, environment={}), hardware)


def written(plan: Plan, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    files = launch_files(plan, RunDirectory(tmp_path / "out"), "sft launch run.yaml")
    found = yaml.safe_load(files.accelerate_yaml)
    return found, json.loads(files.deepspeed_json) if files.deepspeed_json else None


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_own_file(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("single_gpu", "single"), ("multi_gpu", "ddp"), ("zero1", "zero1"), ("zero2", "zero2"), ("zero3", "zero3"),
     ("fsdp2", "fsdp2")],
)  # fmt: skip
def test_names_of_trl_are_strategies_on_the_processes_of_this_machine(
    tmp_path: Path, name: str, strategy: str
) -> None:
    found = plan(tmp_path, EIGHT_GPUS, f"accelerate_config: {name}")
    assert (found.strategy, found.processes) == (Strategy(strategy), 1 if strategy == "single" else 8)
    assert found.accelerate_file is None


def test_the_files_of_trl_are_read_and_those_that_do_not_keep_the_promise_are_refused() -> None:
    import trl

    directory = Path(trl.__file__).parent / "accelerate_configs"
    read = {}
    for file in sorted(directory.glob("*.yaml")):
        try:
            own = read_own_file(str(file))
            read[file.stem] = (own.strategy.value, own.processes)
        except UserError as error:
            read[file.stem] = error.problems[0].what
    assert read == {
        "fsdp1": "FSDP version 1 does not resume exactly, and is not run",
        "fsdp2": ("fsdp2", 8),
        "multi_gpu": ("ddp", 8),
        "single_gpu": ("single", 1),
        "zero1": ("zero1", 8),
        "zero2": ("zero2", 8),
        "zero3": ("zero3", 8),
    }


def test_a_name_that_is_neither_file_nor_known(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_own_file("zero33", "run.yaml:3")
    assert str(caught.value) == (
        "zero33 is neither a file nor a name that TRL knows\n"
        "  where: run.yaml:3\n"
        "  fix:   a path, or one of: single, ddp, zero1, zero2, zero3, zero3_offload, fsdp2, fsdp2_offload, "
        "single_gpu, multi_gpu"
    )
    with pytest.raises(UserError, match="FSDP version 1 does not resume exactly"):
        read_own_file("fsdp1")


REFUSED = {
    "sagemaker": (
        "compute_environment: AMAZON_SAGEMAKER\ndistributed_type: NO\n",
        "AMAZON_SAGEMAKER is not supported\n  where: FILE:1\n  fix:   use LOCAL_MACHINE",
    ),
    "tpu": (
        "distributed_type: XLA\n",
        "distributed_type XLA cannot be used: TPUs are not supported\n  where: FILE:1\n"
        "  fix:   use NO, MULTI_GPU, DEEPSPEED or FSDP",
    ),
    "megatron": (
        "distributed_type: MEGATRON_LM\nmegatron_lm_config: {megatron_lm_tp_degree: 2}\n",
        "distributed_type MEGATRON_LM cannot be used: Megatron-LM is not supported: TRL's trainer cannot train "
        "with it\n  where: FILE:1\n  fix:   use distributed_type: FSDP with fsdp_version: 2, or DEEPSPEED",
    ),
    "multi_cpu": (
        "distributed_type: MULTI_CPU\n",
        "distributed_type MULTI_CPU cannot be used: accelerate starts a single process for it\n"
        "  where: FILE:1\n  fix:   use distributed_type: MULTI_GPU with use_cpu: true",
    ),
    "fsdp1": (
        "distributed_type: FSDP\nfsdp_config:\n  fsdp_version: 1\n",
        "FSDP version 1 does not resume exactly, and is not run\n  where: FILE:3\n"
        "  fix:   set fsdp_version: 2 and fsdp_reshard_after_forward: true, or accelerate_config: fsdp2",
    ),
    "sharded": (
        "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}\n",
        "a sharded state dict leaves output_dir without a model\n  where: FILE:2\n"
        "  fix:   set fsdp_state_dict_type: FULL_STATE_DICT",
    ),
    "unsaved": (
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 3\n",
        "without zero3_save_16bit_model ZeRO-3 leaves output_dir without a model\n  where: FILE:2\n"
        "  fix:   set zero3_save_16bit_model: true",
    ),
    "pdsh": (
        "distributed_type: DEEPSPEED\nnum_machines: 2\ndeepspeed_config:\n  zero_stage: 2\n",
        "DeepSpeed's own launcher starts every machine over ssh from the first one\n  where: FILE:3\n"
        "  fix:   set deepspeed_multinode_launcher: standard, and start each machine",
    ),
    "both": (
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: ds.json\n  zero_stage: 2\n"
        "mixed_precision: bf16\n",
        "accelerate refuses zero_stage beside a deepspeed_config_file\n  where: FILE:4\n"
        "  fix:   set it in the DeepSpeed file, and remove it here\n"
        "accelerate refuses mixed_precision beside a deepspeed_config_file\n  where: FILE:5\n"
        "  fix:   set it in the DeepSpeed file, and remove it here",
    ),
    "typo": (
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 2\n  gradient_cliping: 1.0\n",
        "unknown accelerate key deepspeed_config.gradient_cliping\n  where: FILE:4\n"
        "  fix:   did you mean gradient_clipping?",
    ),
    "absent": (
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: nowhere.json\n",
        "there is no DeepSpeed file nowhere.json\n  where: FILE:3\n"
        "  fix:   give its path from where you launch, or from beside the accelerate file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_run_is_refused_by_name(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    file = tmp_path / "own.yaml"
    file.write_text(text)
    assert refusal(file) == message.replace("FILE", str(file))


def test_accelerate_does_refuse_those_keys_beside_a_deepspeed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import DeepSpeedPlugin

    from sft.plan.own_rules import REFUSED_BESIDE_A_DEEPSPEED_FILE

    ds = tmp_path / "ds.json"
    ds.write_text('{"zero_optimization": {"stage": 2}}')
    for key in (*REFUSED_BESIDE_A_DEEPSPEED_FILE, "mixed_precision"):
        monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", f"deepspeed_config_file,{key}")
        with pytest.raises(ValueError, match="accelerate config variables will be ignored"):
            DeepSpeedPlugin(hf_ds_config=str(ds))
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", "deepspeed_config_file,zero3_init_flag")
    DeepSpeedPlugin(hf_ds_config=str(ds))


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    return file


def test_the_numbers_of_the_file_are_used_unless_the_run_file_has_its_own(tmp_path: Path) -> None:
    file = own(
        tmp_path, "distributed_type: MULTI_GPU\nnum_processes: 4\nmain_process_port: 29777\nuse_cpu: true\n"
    )
    found = plan(tmp_path, NO_GPU, f"accelerate_config: {file}")
    assert (found.strategy, found.processes, found.device) == (Strategy.DDP, 4, "cpu")
    assert found.main_process_port == 29777
    found = plan(tmp_path, NO_GPU, f"accelerate_config: {file}", "num_processes: 2")
    assert found.processes == 2
    copied, _ = written(found, tmp_path)
    assert copied == {
        "distributed_type": "MULTI_GPU",
        "num_machines": 1,
        "num_processes": 2,
        "machine_rank": 0,
        "main_process_port": 29777,
        "use_cpu": True,
        "mixed_precision": "bf16",
    }


def test_a_number_that_is_none_is_told_at_its_line(tmp_path: Path) -> None:
    file = own(tmp_path, "distributed_type: MULTI_GPU\nnum_processes: 4\nmachine_rank: first\n")
    with pytest.raises(UserError) as caught:
        plan(tmp_path, EIGHT_GPUS, f"accelerate_config: {file}")
    assert str(caught.value) == (
        "machine_rank: input should be a valid integer, unable to parse string as an integer, not 'first'\n"
        f"  where: {file}:3"
    )


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "fsdp2", "multi_gpu", "single_gpu"])
def test_the_files_of_trl_are_copied_for_a_launch(tmp_path: Path, name: str) -> None:
    import trl

    file = Path(trl.__file__).parent / "accelerate_configs" / f"{name}.yaml"
    copied, deepspeed = written(plan(tmp_path, EIGHT_GPUS, f"accelerate_config: {file}"), tmp_path)
    stock = yaml.safe_load(file.read_text())
    changed = {key for key in {*stock, *copied} if stock.get(key) != copied.get(key)}
    # gpu_ids: "all" is what happens without it, and one process on GPUs is bound to one of them.
    assert changed <= {"main_process_port", "gpu_ids", "num_processes", "downcast_bf16"}
    assert copied.get("downcast_bf16", False) is False
    assert copied["num_processes"] == (1 if name == "single_gpu" else 8)
    assert deepspeed is None


def test_no_is_a_boolean_or_a_name_as_accelerate_means_it(tmp_path: Path) -> None:
    file = own(
        tmp_path, "distributed_type: NO\nmixed_precision: no\ndebug: no\nsame_network: yes\nuse_cpu: yes\n"
    )
    copied, _ = written(plan(tmp_path, NO_GPU, f"accelerate_config: {file}", "bf16: false"), tmp_path)
    expected = {"distributed_type": "NO", "mixed_precision": "no", "debug": False, "same_network": True}
    assert expected.items() <= copied.items()


def test_a_file_for_gpus_on_a_machine_without_one_is_told_at_its_line(tmp_path: Path) -> None:
    file = own(tmp_path, "distributed_type: MULTI_GPU\nnum_processes: 4\nuse_cpu: false\n")
    with pytest.raises(UserError) as caught:
        plan(tmp_path, NO_GPU, f"accelerate_config: {file}")
    assert str(caught.value) == (
        "GPUs are asked for and this machine shows none\n"
        f"  where: {file}:3\n"
        "  fix:   run on a GPU node (`nvidia-smi` lists them), or set launch.device: cpu"
    )
    assert plan(tmp_path, NO_GPU, f"accelerate_config: {file}", "use_cpu: true").device == "cpu"


def test_a_strategy_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    file = own(tmp_path, "distributed_type: MULTI_GPU\nnum_processes: 4\n")
    with pytest.raises(UserError) as caught:
        plan(tmp_path, EIGHT_GPUS, f"accelerate_config: {file}", "strategy: zero2")
    assert str(caught.value) == (
        f"launch.strategy zero2 and {file}, which is ddp, contradict each other\n"
        f"  where: {tmp_path}/run.yaml:5\n"
        "  fix:   keep launch.strategy or launch.accelerate_config"
    )


def test_numbers_that_the_trainer_would_refuse_are_told_before_it_starts(tmp_path: Path) -> None:
    ds = tmp_path / "ds.json"
    ds.write_text(
        '{\n"zero_optimization": {"stage": 2},\n"gradient_accumulation_steps": 4,\n"gradient_clipping": 0.5,\n'
        '"bf16": {"enabled": false}\n}'
    )
    with pytest.raises(UserError) as caught:
        plan(tmp_path, EIGHT_GPUS, f"deepspeed: {ds}")
    assert str(caught.value) == (
        f"gradient_accumulation_steps 4 in the file is not the run's, 1\n  where: {ds}:3\n"
        '  fix:   set gradient_accumulation_steps: "auto"\n'
        f"gradient_clipping 0.5 in the file is not the run's max_grad_norm, 1.0\n  where: {ds}:4\n"
        '  fix:   set gradient_clipping: "auto"\n'
        f"bf16.enabled False in the file is not the run's bf16, True\n  where: {ds}:5\n"
        '  fix:   set bf16.enabled: "auto"'
    )


def test_a_precision_that_would_not_take_effect_is_refused(tmp_path: Path) -> None:
    file = own(tmp_path, "distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: fp16\n")
    with pytest.raises(UserError) as caught:
        plan(tmp_path, EIGHT_GPUS, f"accelerate_config: {file}")
    assert str(caught.value) == (
        "the file's mixed_precision fp16 would not take effect: the run is bf16\n"
        f"  where: {file}:3\n"
        "  fix:   set fp16: true in the run file, or remove mixed_precision here"
    )


def test_a_deepspeed_file_beside_the_accelerate_file_is_copied_with_an_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(
        '{"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": true, '
        '"offload_param": {"device": "cpu"}, "sub_group_size": 7}}'
    )
    file = own(
        tmp_path,
        "distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: ds.json, zero3_init_flag: true}\n"
        "num_processes: 4\n",
    )
    found = plan(tmp_path, EIGHT_GPUS, f"accelerate_config: {file}")
    assert (found.strategy, found.offload, found.processes) == (Strategy.ZERO3_OFFLOAD, "parameters", 4)
    copied, deepspeed = written(found, tmp_path)
    assert copied["deepspeed_config"] == {
        "deepspeed_config_file": str(tmp_path / "out/_sft/deepspeed.json"),
        "zero3_init_flag": True,
    }
    assert "mixed_precision" not in copied
    assert deepspeed is not None
    assert deepspeed["zero_optimization"]["sub_group_size"] == 7


def test_a_deepspeed_file_alone_gets_an_accelerate_file(tmp_path: Path) -> None:
    ds = tmp_path / "ds.json"
    ds.write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}')
    found = plan(tmp_path, EIGHT_GPUS, f"deepspeed: {ds}")
    assert (found.strategy, found.processes) == (Strategy.ZERO2, 8)
    copied, deepspeed = written(found, tmp_path)
    assert copied["deepspeed_config"]["deepspeed_config_file"] == str(tmp_path / "out/_sft/deepspeed.json")
    assert deepspeed == {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}


@pytest.mark.parametrize("strategy", list(Strategy))
def test_what_a_run_is_launched_with_is_itself_a_file_that_is_read(
    tmp_path: Path, strategy: Strategy
) -> None:
    found = plan(tmp_path, EIGHT_GPUS, f"strategy: {strategy.value}")
    run = RunDirectory(tmp_path / "out")
    files = launch_files(found, run, "sft launch run.yaml")
    run.kit.mkdir(parents=True)
    run.accelerate_yaml.write_text(files.accelerate_yaml)
    assert unknown_accelerate_keys(read_document(run.accelerate_yaml)) == []
    if files.deepspeed_json:
        run.deepspeed_json.write_text(files.deepspeed_json)
        assert unknown_deepspeed_keys(read_document(run.deepspeed_json)) == []
    own_file = read_own_file(str(run.accelerate_yaml))
    assert (own_file.strategy, own_file.processes) == (strategy, found.processes)
