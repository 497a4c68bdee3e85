"""What an error of a rank means: its exit code, and what to tell of it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import TypeGuard

from sft.errors import ExitCode, Problem, UserError

# Under these names torch.distributed raises what a backend, the store or a socket reports (DistError is their base).
DISTRIBUTED = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}
# gloo raises plain RuntimeErrors, with its source file in front; DeepSpeed and the store say these in words.
LOST_CONNECTION = re.compile(
    r"connection (closed|reset)|broken pipe|gloo|\bnccl (error|communicator)|ncclSystemError|ncclRemoteError"
    r"|ncclInternalError|socket timeout|remote process|timed out (after|waiting) .*(client|rank|operation|recv|send)",
    re.IGNORECASE,
)
# What NCCL says of ranks that were started wrongly, not lost.
MISUSE = re.compile(r"ncclInvalid(Usage|Argument)|duplicate GPU", re.IGNORECASE)
OUT_OF_MEMORY = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|can't allocate memory|not enough memory|cudaErrorMemoryAllocation"
)
DISK_FULL = re.compile(r"no space left on device|disk quota exceeded|os error (28|122)\b", re.IGNORECASE)
# DeepSpeed's loss scaler at its end, and autograd's anomaly detection.
NO_NUMBER = re.compile(r"loss scale already at minimum|returned nan values", re.IGNORECASE)


def explain(error: BaseException) -> tuple[ExitCode, Problem]:
    """Find the exit code of an error and what to tell of it."""
    if isinstance(error, UserError):
        return error.exit_code, error.problems[0]
    text = str(error).strip()
    first = (text.splitlines() or [""])[0]
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.STOPPED, Problem("interrupted", None, None)
    if full := next((cause for cause in _causes(error) if _is_full_disk(cause)), None):
        where = str(getattr(full, "filename", None) or "") or None
        return ExitCode.ENVIRONMENT, Problem(
            "the disk or its quota is full", where, "make room and start again"
        )
    if broken := next((cause for cause in _causes(error) if _is_broken_disk(cause)), None):
        return ExitCode.ENVIRONMENT, Problem(
            f"the disk does not take what is written: {broken.strerror}",
            str(broken.filename or "") or None,
            "have the disk looked at, and start again",
        )
    if (
        type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, MemoryError)
        or _says(error, OUT_OF_MEMORY)
    ):
        fix = "lower per_device_train_batch_size or max_length, or shard more (strategy: zero3)"
        return ExitCode.DOES_NOT_FIT, Problem(f"out of memory: {first}", None, fix)
    if NO_NUMBER.search(text):
        fix = "lower learning_rate, or train in bf16; restarting would fail again"
        return ExitCode.TRAINING_FAILED, Problem(
            f"the training has no finite numbers left: {first}", None, fix
        )
    names = {kind.__name__ for kind in type(error).__mro__}
    is_lost = names & DISTRIBUTED or isinstance(error, ConnectionError) or _says(error, LOST_CONNECTION)
    if is_lost and not MISUSE.search(text):
        return ExitCode.WORKER_LOST, Problem(f"lost the connection to another rank: {first}", None, None)
    return ExitCode.BUG, Problem(
        f"{type(error).__name__}: {first}" if first else type(error).__name__, None, None
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came of: torch reports a failed write as a broken archive."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _is_full_disk(error: BaseException) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT) or DISK_FULL.search(str(error)) is not None


def _is_broken_disk(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EIO)


def _says(error: BaseException, pattern: re.Pattern[str]) -> bool:
    return isinstance(error, RuntimeError) and pattern.search(str(error)) is not None
