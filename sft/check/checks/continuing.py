"""What lies in output_dir fits the run: checkpoints that it can continue from, and nothing that would be mixed up."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from sft.check.finding import Finding, error, note, warning
from sft.check.subject import Subject
from sft.checkpoint.changes import DATA, exact_settings
from sft.checkpoint.find import Found, complete, directories
from sft.checkpoint.manifest import NAME as MANIFEST
from sft.checkpoint.resume import Launch, Resume, check, named
from sft.errors import UserError
from sft.json_file import UnreadableError, read_json

NAME = "continuing"
COST = "the manifests of the checkpoints in output_dir, and the sizes of their files"
NEEDS = "a plan"


def look(subject: Subject) -> Iterator[Finding]:
    """Look without moving anything. A launch with --fresh begins anew, so that what it would refuse is a warning here."""
    config = subject.config
    asked = config.training.resume_from_checkpoint
    if isinstance(asked, str) and asked.lower() not in ("true", "false"):
        resume = named(Path(asked), verified=True)
        yield from _base(subject, resume)
        yield from (error(*problem) for problem in _refusals(subject, resume))
        return
    is_there = _is_there(config.run.output_dir)
    found = complete(config.run) if is_there else []
    if str(asked).lower() == "true" and not found:
        yield error(
            f"there is no complete checkpoint in {config.run.output_dir}",
            subject.where("resume_from_checkpoint"),
            "name one, or leave it out: `sft launch` continues what is there, and else starts",
        )
    if not is_there:
        return
    yield from _foreign(subject, found)
    if found:
        newest = found[-1]
        resume = Resume(newest.path, newest.manifest.step, newest.manifest)
        for what, where, fix in _refusals(subject, resume):
            yield warning(f"a launch would be refused: {what}", where, fix)
        yield note(f"output_dir holds {newest.path.name}: the run goes on from there")
    else:
        yield from _finished(subject)


def _is_there(output: Path) -> bool:
    """Whether there is a directory to look at; one that cannot be looked at is told as the run directory."""
    try:
        return stat.S_ISDIR(output.stat().st_mode)
    except OSError:
        return False


def _refusals(subject: Subject, resume: Resume) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield what `sft launch` would refuse to continue with. Whether the data is the same is known when it is prepared."""
    assert subject.plan is not None
    plan = subject.plan
    launch = Launch(plan.strategy, plan.processes, plan.batch.total, None)
    try:
        check(resume, subject.config, launch, allow_changed=True)
    except UserError as refusal:
        for problem in refusal.problems:
            yield problem.what, problem.where, problem.fix
        return
    if resume.manifest is None:
        return
    before, now = resume.manifest.settings, exact_settings(subject.config)
    changed = [key for key in sorted({*before, *now}) if key not in DATA and before.get(key) != now.get(key)]
    if changed:
        told = "; ".join(f"{key}: {before.get(key)} -> {now.get(key)}" for key in changed)
        yield (
            f"the run file is not the one that {resume.path.name} was trained with: {told}",
            str(resume.path / MANIFEST),
            "take the change back, start anew with --fresh or another output_dir, or launch with --allow-changed",
        )


def _base(subject: Subject, resume: Resume) -> Iterator[Finding]:
    """Tell an adapter that was made for another model."""
    try:
        adapter = read_json(resume.path / "adapter_config.json")
    except UnreadableError:
        return
    if adapter is None or "base_model_name_or_path" not in adapter:
        return
    base = str(adapter["base_model_name_or_path"])
    model = str(subject.config.model.model_name_or_path)
    where = subject.where("resume_from_checkpoint")
    if not subject.config.model.use_peft:
        what = f"{resume.path.name} holds an adapter, and the run trains the whole model"
        yield error(what, where, "set use_peft: true, or name another checkpoint")
    elif Path(base).name != Path(model).name:
        what = f"the adapter in {resume.path.name} was made for {base}, and the run's model is {model}"
        yield warning(what, where, f"set model_name_or_path: {base}, or name another checkpoint")


def _foreign(subject: Subject, found: list[Found]) -> Iterator[Finding]:
    """Tell checkpoints that count for nothing here, because nobody can tell that they are whole."""
    output = subject.config.run.output_dir
    known = {one.path for one in found}
    foreign = [path for path in directories(output) if path not in known]
    others = [path.name for path in foreign if not (path / MANIFEST).exists()]
    torn = [path.name for path in foreign if (path / MANIFEST).exists()]
    if others:
        start = "" if found else ", and the run starts from the beginning"
        yield warning(
            f"{', '.join(others[:3])} in output_dir have no manifest, as other trainers leave them: the launch moves them"
            f" aside{start}",
            f"{subject.where('output_dir')}, {output}",
            f"set resume_from_checkpoint: {output / others[-1]} to go on from it, or another output_dir",
        )
    if torn:
        yield warning(
            f"{', '.join(torn[:3])} in output_dir are not whole: the launch moves them aside",
            f"{subject.where('output_dir')}, {output}",
            "nothing, if the one before will do; it is what the run goes on from",
        )


def _finished(subject: Subject) -> Iterator[Finding]:
    """Tell a model that would be written over, or mixed with another kind."""
    output, where = subject.config.run.output_dir, subject.where("output_dir")
    whole = any((output / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))
    has_adapter = (output / "adapter_config.json").is_file()
    if output.resolve() == Path(subject.config.model.model_name_or_path or "").resolve():
        return  # told as such
    if has_adapter and not subject.config.model.use_peft:
        yield warning(
            "output_dir holds an adapter, and the run trains a whole model: who loads output_dir would get both, the"
            " adapter over the new weights",
            where,
            "set another output_dir",
        )
    elif whole or has_adapter:
        yield warning(
            "output_dir holds a finished model and no checkpoint: the run starts from the beginning, and writes over it",
            where,
            "set another output_dir, if it is to be kept",
        )
