"""The files of a model are here, whole, and readable: no torn shard, no pointer of git-lfs, no unfinished download."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sft.check.finding import Finding, error, warning
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.plan.weights import SAFE, SAFE_INDEX, BrokenError, missing_weights, weight_files, weight_map

NAME = "model's files"
COST = "names and sizes of the model's files, and the headers of its weights"
NEEDS = "nothing"

POINTER = b"version https://git-lfs"
POINTER_BYTES = 1024
"""A pointer is a few lines; what is longer is the file itself."""
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".tmp")
COMPUTED = re.compile(r"(?:inv_freq|masked_bias|attn\.bias|attention\.bias|lm_head\.weight)$")
"""Tensors that older versions wrote and that are made anew, or are another one's: that they are missing does no harm."""
NUMBERED = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def look(subject: Subject) -> Iterator[Finding]:
    """Look at the model where it lies on this machine; of one in the Hub's cache, what is not there can be fetched."""
    directory = subject.model_directory
    if directory is None or not any(directory.iterdir()):
        return
    name = str(subject.config.model.model_name_or_path)
    where = f"{subject.where('model_name_or_path')}, {directory}"
    odd = [path.name for path in _named(directory) if path.exists() and not (path.is_file() or path.is_dir())]
    if odd:
        what = f"{', '.join(odd[:3])} of the model {name} {'is' if len(odd) == 1 else 'are'} no plain file"
        yield error(
            what, where, "put the file itself there: it is read several times, which a pipe cannot be"
        )
        return
    unreadable = [path.name for path in _files(directory) if not _can_be_read(path)]
    if unreadable:
        what = f"{', '.join(unreadable[:3])} of the model {name} cannot be read: permission denied"
        fix = "ask its owner for `chmod -R a+rX`, or copy the model"
        yield error(what, where, fix, exit_code=ExitCode.ENVIRONMENT)
        return
    pointers = [path.name for path in _files(directory) if _is_pointer(path)]
    if pointers:
        yield error(
            f"{', '.join(pointers[:3])} of the model {name} {'is a pointer' if len(pointers) == 1 else 'are pointers'}"
            " of git-lfs, and not the file itself",
            where,
            "`git lfs install && git lfs pull` in that directory, or fetch it with `hf download`",
        )
        return
    if not subject.offline:  # which tells of missing weights itself
        yield from _weights(subject, directory, name, where)
    yield from _index(subject, directory, name, where)


def _weights(subject: Subject, directory: Path, name: str, where: str) -> Iterator[Finding]:
    is_local = Path(name).is_dir()
    again = "copy it there again, whole" if is_local else "sft fetch RUN.yaml, where there is a network"
    instead = _instead(directory) if is_local else None
    if instead is not None:
        yield error(f"the model {name} has no weights that can be trained: {instead[0]}", where, instead[1])
        return
    # Headers that could all be read are of files that are all there, and whole.
    for reason in missing_weights(directory) if subject.tensors is None else ():
        if not is_local and reason.endswith("is not there"):
            continue  # the Hub has it; that nothing may be fetched is told by the network's checks
        left = _unfinished(directory, reason.partition(" ")[0])
        reason = f"{reason}; {left} was left by a download that did not end" if left else reason
        yield error(f"the model {name} is not whole: {reason}", where, again)
    for file in _present(directory):
        if file.with_name(f"{file.name}.aria2").exists():
            what = f"the model {name} is not whole: {file.name}.aria2 says that its download did not end"
            yield error(what, where, "let aria2c finish it: the file has its full size from the start")
        elif file.suffix == ".bin" and _is_torn_pickle(file):
            yield error(f"the model {name} is not whole: {file.name} is torn", where, again)
    if any(file.suffix == ".bin" for file in _present(directory)):
        yield warning(
            f"the weights of {name} are pickles, which run code when they are opened, and whose shapes nobody can check"
            " before",
            where,
            "fetch its safetensors, where there are any; or save it once with save_pretrained",
        )


def _index(subject: Subject, directory: Path, name: str, where: str) -> Iterator[Finding]:
    """Hold the list of the shards against the headers of the shards."""
    try:
        listed = weight_map(directory / SAFE_INDEX)
    except BrokenError:
        return  # told as missing or broken weights; or there is no such list
    files = set(listed.values())
    if (directory / SAFE).is_file():
        what = f"{SAFE} and {SAFE_INDEX} both lie in {name}, and the first is what is read"
        yield warning(what, where, "remove the one that is not meant")
        return
    if subject.tensors is None:
        return
    there = {tensor.name for tensor in subject.tensors}
    lacking = sorted(listed.keys() - there)
    lacking = [tensor for tensor in lacking if not COMPUTED.search(tensor)]
    if lacking:
        yield error(
            f"{SAFE_INDEX} lists {len(lacking):,} tensors that the files of {name} lack, such as {lacking[0]}: they"
            " would begin as random numbers, without a word",
            where,
            "copy it there again, whole: its list is of another model",
        )
    other = sorted(path.name for path in directory.glob("model-*.safetensors") if path.name not in files)
    other = [file for file in other if NUMBERED.fullmatch(file)]
    if other:
        what = (
            f"{', '.join(other[:3])} lie beside the weights of {name} and are in no list: nothing reads them"
        )
        yield warning(what, where, "remove them, or fetch the model again: two may lie in one directory")


def _instead(directory: Path) -> tuple[str, str] | None:
    """Say what lies there in place of weights that transformers reads, and what to do."""
    try:
        weight_files(directory)
        return None
    except BrokenError as broken:
        if "is broken" in str(broken):
            return None
    names = sorted(path.name for path in directory.iterdir())

    def first(pattern: str) -> str | None:
        return next((name for name in names if re.fullmatch(pattern, name)), None)

    if first(r"adapter_model\.\w+"):
        return None  # told as an adapter
    if found := first(r".+\.gguf"):
        return f"{found} is GGUF, which llama.cpp runs", "fetch the model that it was made of, in safetensors"
    if found := first(r"consolidated\.\d+\.pth"):
        fix = "fetch the repository of the same model in transformers' format (often named -hf)"
        return f"{found} is Meta's own format", fix
    if found := first(r"global_step\d+|zero_pp_rank_.+|mp_rank_.+\.pt"):
        fix = "`python zero_to_fp32.py . whole --safe_serialization` in that directory, then name `whole`"
        return f"{found} holds them as DeepSpeed shards them", fix
    if found := first(r"pytorch_model_fsdp_\d+|.+\.distcp"):
        fix = "`accelerate merge-weights` joins them"
        return f"{found} holds them as FSDP shards them", fix
    if found := first(r"tf_model\.h5|flax_model.*\.msgpack"):
        return f"{found} is of TensorFlow or Flax", "fetch the safetensors of the same model"
    if found := first(r"(?:model|pytorch_model)\.(?!safetensors)\w+\.(?:safetensors|bin)"):
        fix = f"rename it to {re.sub(r'[.][a-z0-9]+[.]', '.', found)}, if that is the one that is meant"
        return f"{found} is a variant, which is only read where it is asked for", fix
    return None


def _present(directory: Path) -> list[Path]:
    try:
        return [file for file in weight_files(directory) if file.is_file()]
    except BrokenError:
        return []


def _unfinished(directory: Path, name: str) -> str | None:
    """Name what a download has left of a file; `hf download` keeps it below .cache/huggingface."""
    for ending in UNFINISHED:
        if (directory / f"{name}{ending}").exists():
            return f"{name}{ending}"
    found = next((directory / ".cache" / "huggingface" / "download").glob("*.incomplete"), None)
    return None if found is None else str(found.relative_to(directory))


def _named(directory: Path) -> list[Path]:
    kinds = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
    return [path for path in sorted(directory.iterdir()) if path.suffix in kinds]


def _files(directory: Path) -> list[Path]:
    return [path for path in _named(directory) if path.is_file()]


def _can_be_read(path: Path) -> bool:
    """Open it: permission bits alone do not say what a file server allows."""
    try:
        with path.open("rb") as stream:
            stream.read(1)
    except PermissionError:
        return False
    return True


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > POINTER_BYTES:
        return False
    with path.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def _is_torn_pickle(path: Path) -> bool:
    """Whether a file that begins as torch writes it has lost its end, where the list of its members is."""
    with path.open("rb") as stream:
        begins = stream.read(2)
    return begins == b"PK" and not zipfile.is_zipfile(path)
