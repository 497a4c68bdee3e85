"""What an error of a rank means: every kind of failure has its code, and with it whether a restart may help."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed

from sft.errors import ExitCode, UserError
from sft.training.failure import explain


def raised(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def store_that_nobody_joins() -> object:
    return torch.distributed.TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(seconds=0.2))


def host_that_does_not_answer() -> object:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=False, timeout=timedelta(seconds=0.2))


def reset() -> None:
    raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


@pytest.mark.parametrize("act", [store_that_nobody_joins, host_that_does_not_answer, reset])
def test_a_lost_connection_may_fare_better_next_time(act: Callable[[], object]) -> None:
    assert explain(raised(act))[0] == ExitCode.WORKER_LOST


@pytest.mark.parametrize(
    "text",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:21435",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv "
        "operation to complete",
        "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error\n"
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
        "NCCL communicator was aborted on rank 1.",
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE) ran for 60 "
        "milliseconds before timing out after NCCL error",
    ],
)
def test_what_gloo_and_nccl_say_of_a_lost_rank_is_known(text: str) -> None:
    for kind in (RuntimeError, torch.distributed.DistBackendError):
        code, problem = explain(kind(text))
        first = text.partition("\n")[0]
        assert (code, problem.what) == (ExitCode.WORKER_LOST, f"lost the connection to another rank: {first}")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.distributed.DistBackendError(
            "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error\nCuda failure 2 'out of memory'"
        ),
        MemoryError(),
    ],
)
def test_what_does_not_fit_will_not_fit_again(error: BaseException) -> None:
    code, problem = explain(error)
    assert code == ExitCode.DOES_NOT_FIT
    assert problem.fix == "lower per_device_train_batch_size or max_length, or shard more (strategy: zero3)"


def test_memory_that_the_machine_refuses_does_not_fit() -> None:
    assert explain(raised(lambda: torch.empty(1 << 50)))[0] == ExitCode.DOES_NOT_FIT


def test_a_full_disk_is_found_below_what_a_library_makes_of_it() -> None:
    def save() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/data/model.safetensors")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0") from None

    code, problem = explain(raised(save))
    assert (code, str(problem)) == (
        ExitCode.ENVIRONMENT,
        "the disk or its quota is full\n  where: /data/model.safetensors\n  fix:   make room and start again",
    )
    quota = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert explain(quota)[0] == ExitCode.ENVIRONMENT
    assert explain(Exception("I/O error: No space left on device (os error 28)"))[0] == ExitCode.ENVIRONMENT


def test_a_disk_that_turns_read_only_is_no_bug() -> None:
    code, problem = explain(OSError(errno.EROFS, "Read-only file system", "/data/run/_sft/events.jsonl"))
    assert (code, str(problem)) == (
        ExitCode.ENVIRONMENT,
        "the disk does not take what is written: Read-only file system\n  where: /data/run/_sft/events.jsonl\n"
        "  fix:   have the disk looked at, and start again",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_disk_that_is_really_full_is_one() -> None:
    def write() -> None:
        with open("/dev/full", "wb") as file:
            torch.save({"a": torch.ones(100_000)}, file)

    assert explain(raised(write))[0] == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    "error",
    [
        UserError("loss is nan at step 3", exit_code=ExitCode.TRAINING_FAILED),
        Exception("Current loss scale already at minimum - cannot decrease scale anymore. Exiting run."),
        RuntimeError("Function 'MulBackward0' returned nan values in its 0th output."),
    ],
)
def test_numbers_that_are_none_come_again(error: BaseException) -> None:
    assert explain(error)[0] == ExitCode.TRAINING_FAILED


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0"
        ),
        RuntimeError("Distributed package doesn't have NCCL built in"),
        torch.distributed.DistBackendError("NCCL error in: init.cpp:1, invalid usage, ncclInvalidUsage"),
        ValueError("timed out"),
        KeyError("x"),
    ],
)
def test_anything_else_is_a_bug_and_keeps_its_name(error: BaseException) -> None:
    code, problem = explain(error)
    assert (code, problem.what) == (ExitCode.BUG, f"{type(error).__name__}: {error}")
