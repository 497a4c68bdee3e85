"""PYTORCH_CUDA_ALLOC_CONF, as torch reads it: a value of another kind ends every rank at its start."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The newer name and the older one."""
FLAGS = frozenset(
    (
        "expandable_segments", "release_lock_on_cudamalloc", "pinned_use_cuda_host_register",
        "pinned_use_background_threads", "graph_capture_record_stream_reuse", "throw_on_cudamalloc_oom",
    )
)  # fmt: skip
KEYS = FLAGS | {
    "backend", "max_split_size_mb", "max_non_split_rounding_mb", "large_segment_size_mb", "garbage_collection_threshold",
    "roundup_power2_divisions", "pinned_num_register_threads", "pinned_reserve_segment_size_mb",
    "pinned_max_round_threshold_mb", "pinned_max_cached_size_mb", "per_process_memory_fraction",
    "release_lock_on_hipmalloc", "pinned_use_hip_host_register", "pinned_free_catch_all",
}  # fmt: skip
"""Source: torch/include/c10/core/AllocatorConfig.h and c10/cuda/CUDAAllocatorConfig.h, with the docs of torch.cuda."""
LEAST_SPLIT = 20
"""MiB. torch: "max_split_size_mb too small, must be >= 20"."""


def problems(text: str) -> Iterator[tuple[str, str, bool]]:
    """Tell what torch would not take: what is wrong, how it is spelled, and whether that ends the ranks for certain.

    A key that torch 2.13 does not know is passed over by its build for the CPU; those for CUDA have refused it.
    """
    if text[:1] in ("'", '"'):
        yield "the value begins with a quote", text.strip("'\""), False
        return
    for item in _items(text):
        key, colon, value = (part.strip() for part in item.partition(":"))
        if not colon:
            spelled = item.replace("=", ":", 1) if "=" in item else f"{item}:..."
            yield f"{item!r} has no colon between key and value", spelled, True
        elif key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            spelled = f"{near[0]}:{value}" if near else "one of the keys in torch.cuda's memory notes"
            yield f"there is no {key!r}", spelled, False
        elif key in FLAGS and value not in ("True", "False"):
            is_yes = value.lower() in ("true", "1", "yes", "on", "")
            yield f"{key} is {value!r}, and torch takes True or False", f"{key}:{is_yes}", True
        elif key == "max_split_size_mb" and not (value.isdigit() and int(value) >= LEAST_SPLIT):
            yield f"{key} is {value!r}, and torch takes a number from {LEAST_SPLIT} on", f"{key}:128", True


def _items(text: str) -> Iterator[str]:
    """Part at the commas that are not inside brackets: roundup_power2_divisions:[256:1,512:2]."""
    depth, item = 0, ""
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            yield item
            item = ""
        else:
            item += letter
    if item:
        yield item
