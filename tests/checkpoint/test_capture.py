"""What a save writes is what it would have written, copied: training may change its tensors at once."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sft.checkpoint.capture import CHUNK_BYTES, Arena, captured, nbytes, on_host
from sft.checkpoint.write import Pending


def state() -> dict[str, Any]:
    flat = torch.arange(20, dtype=torch.float32)
    return OrderedDict(
        whole=torch.randn(3, 4),
        view=flat[4:12].reshape(2, 4),
        other_view=flat.view(4, 5).T,
        half=torch.randn(7).to(torch.bfloat16),
        empty=torch.empty(0, 5),
        also_empty=torch.empty(0),
        parameter=torch.nn.Parameter(torch.randn(2), requires_grad=False),
        nested=[{"step": torch.tensor(3.0)}, (1, "two", None, 0.5)],
        text="text",
    )


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_a_copy_is_equal_and_its_own() -> None:
    arena = Arena()
    for _ in range(2):  # the second time in memory that held the first
        arena.reset()
        value = state()
        copied = on_host(value, arena)
        assert type(copied) is OrderedDict
        assert equal(value, copied)
        kept = state()
        kept.update(on_host(copied, Arena()))
        for tensor in (value["whole"], value["view"], value["half"]):
            tensor.fill_(-1)
        assert equal(kept, copied)
        assert not equal(value, copied)


def test_a_large_copy_has_arrived_when_it_is_handed_out() -> None:
    arena = Arena()
    value = [torch.randint(256, (size,), dtype=torch.uint8) for size in (CHUNK_BYTES * 5 + 17, 300_000, 9)]
    for _ in range(2):
        arena.reset()
        kept = [tensor.clone() for tensor in value]
        copied = on_host(value, arena)
        for tensor in value:
            tensor.add_(1)
        assert all(map(torch.equal, copied, kept))


def test_what_lies_in_the_arena_is_not_copied_again() -> None:
    arena = Arena()
    gathered = arena.take(64).view(torch.float32)
    for tensor in (gathered, gathered[4:8]):
        assert on_host({"weight": tensor}, arena)["weight"] is tensor
    arena.reset()
    assert on_host({"weight": gathered}, arena)["weight"] is not gathered


def test_views_of_one_storage_stay_so() -> None:
    copied = on_host(state(), Arena())
    assert copied["view"].data_ptr() - copied["other_view"].data_ptr() == 16
    assert copied["view"].untyped_storage().nbytes() == 80
    assert nbytes(copied) == nbytes(state()) == 48 + 80 + 14 + 8 + 4


def test_memory_is_used_again_and_never_twice_at_once() -> None:
    arena = Arena()
    sizes = [1, 100, 5_000_000, 12_000_000, 30_000_000, 7, 64]
    for _ in range(3):
        arena.reset()
        taken = [arena.take(size) for size in sizes]
        for number, tensor in enumerate(taken):
            tensor.fill_(number)
        assert [int(tensor.unique().item()) for tensor in taken] == list(range(len(sizes)))
        assert [tensor.untyped_storage().nbytes() for tensor in taken] == sizes
    assert arena.bytes == 3 * (1 << 24) + 30_000_000


def test_what_is_saved_is_caught_and_written_as_it_would_have_been(tmp_path: Path) -> None:
    import transformers.modeling_utils

    root, plain, later = tmp_path / "root", tmp_path / "plain", tmp_path / "later"
    for place in (root, plain, later):
        place.mkdir()
    tensors = {"a": torch.randn(5), "b": torch.ones(2, 2)}
    torch.save(state(), plain / "s.pt")
    safetensors.torch.save_file(tensors, plain / "t.safetensors", {"format": "pt"})
    files: list[Pending] = []
    before = (torch.save, safetensors.torch.save_file, transformers.modeling_utils.safe_save_file)
    with captured(root, files, Arena(), lambda size: True, pytest.fail):
        torch.save(state(), root / "s.pt")
        safetensors.torch.save_file(tensors, str(root / "t.safetensors"), {"format": "pt"})
        transformers.modeling_utils.safe_save_file(
            tensors, root / "deep" / "u.safetensors", metadata={"format": "pt"}
        )
        torch.save({}, root / "training_args.bin")
        torch.save({"elsewhere": 1}, tmp_path / "elsewhere.pt")
    assert (torch.save, safetensors.torch.save_file, transformers.modeling_utils.safe_save_file) == before
    assert list(root.iterdir()) == []
    assert torch.load(tmp_path / "elsewhere.pt") == {"elsewhere": 1}
    assert [file.name for file in files] == ["s.pt", "t.safetensors", "deep/u.safetensors"]
    for file in files:
        path = later / Path(file.name).name
        file.write(path)
    assert (later / "t.safetensors").read_bytes() == (plain / "t.safetensors").read_bytes()
    assert (later / "u.safetensors").read_bytes() == (plain / "t.safetensors").read_bytes()
    assert equal(torch.load(later / "s.pt")["nested"], torch.load(plain / "s.pt")["nested"])
    assert (later / "s.pt").stat().st_size <= (plain / "s.pt").stat().st_size


def test_what_does_not_fit_is_written_at_once(tmp_path: Path) -> None:
    files: list[Pending] = []
    now: list[Pending] = []
    with captured(tmp_path, files, Arena(), lambda size: size < 100, now.append):
        torch.save(torch.ones(4), tmp_path / "small.pt")
        torch.save(torch.ones(400), tmp_path / "large.pt")
    assert ([file.name for file in files], [(file.name, file.bytes) for file in now]) == (
        ["small.pt"],
        [("large.pt", 1600)],
    )
