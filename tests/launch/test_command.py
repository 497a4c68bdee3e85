"""The command of a launch, and what stands in comments of generated files."""

from __future__ import annotations

from pathlib import Path

from sft.config.loader import load_run
from sft.launch.command import launch_command, one_line, process_environment, transport_environment
from sft.plan.hardware import Hardware, asked_for
from sft.plan.plan import make_plan

WORDS = ["--model_name_or_path", "m", "--dataset_name", "d", "--launch.device", "cpu"]
HERE = Hardware((), (), 4, 8 << 30)


def environment(*words: str) -> dict[str, str]:
    loaded = load_run(None, [*WORDS, *words], environment={})
    return process_environment(loaded.config, make_plan(loaded, HERE), {})


def test_a_comment_stays_on_its_line() -> None:
    assert one_line("sft launch 'a\nrm -rf ~'\t\x1b[1m") == "sft launch 'a\\nrm -rf ~'\\t\\x1b[1m"
    assert one_line("sft launch läuft.yaml --run_name 'a b'") == "sft launch läuft.yaml --run_name 'a b'"


def test_another_machine_says_which_it_is() -> None:
    config = load_run(None, [*WORDS, "--launch.wrap", "apptainer exec --nv kit.sif"], environment={}).config
    first = launch_command(config, Path("/a.yaml"), Path("/r.yaml"))
    second = launch_command(config, Path("/a.yaml"), Path("/r.yaml"), 1)
    assert first[:4] == second[:4] == ["apptainer", "exec", "--nv", "kit.sif"]
    assert [word for word in second if word not in first] == ["--machine_rank", "1"]
    assert second.index("--machine_rank") < second.index("-m", second.index("--config_file"))


def test_the_network_between_the_nodes_is_named_to_both_libraries() -> None:
    found = environment("--launch.network_interface", "ib0")
    assert (found["NCCL_SOCKET_IFNAME"], found["GLOO_SOCKET_IFNAME"]) == ("ib0", "ib0")
    assert "NCCL_SOCKET_IFNAME" not in environment()


def test_an_offline_run_asks_nobody() -> None:
    found = environment("--launch.offline", "true")
    assert (found["HF_HUB_OFFLINE"], found["WANDB_MODE"]) == ("1", "offline")
    assert "HF_HUB_OFFLINE" not in environment()


def test_nccl_says_to_a_file_what_it_goes_over_between_nodes() -> None:
    words = [
        "--model_name_or_path",
        "m",
        "--dataset_name",
        "d",
        "--output_dir",
        "/runs/50%",
        "--launch.gpus_per_node",
        "2",
    ]
    place = ["--nodes", "2", "--main_process_ip", "n1", "--main_process_port", "29500"]
    gpus = asked_for(2, 4)
    for more, given, expected in [
        (place, {}, ("INFO", "/runs/50%%/_sft/logs/nccl-%h-%p.log")),
        (place, {"NCCL_DEBUG": "WARN"}, (None, None)),
        ([], {}, (None, None)),
    ]:
        loaded = load_run(None, [*words, *more], environment={})
        found = transport_environment(loaded.config, make_plan(loaded, gpus), given)
        assert (found.get("NCCL_DEBUG"), found.get("NCCL_DEBUG_FILE")) == expected
