"""What the steps of the flow do beside Metaflow's own: one function a step, which the flow's file calls.

The training is `sft launch`, in a process of its own; nothing of it is here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.flow import base as base_model
from sft.flow import given
from sft.flow.card import components
from sft.flow.checkpoints import Keeper, Store, link, restore
from sft.flow.launched import Ended, launch
from sft.flow.results import read_results
from sft.flow.samples import samples
from sft.hub.select import has_weights, model_files
from sft.rundir import RunDirectory

NO_RETRY = 202
"""With which a task tells Metaflow's scheduler that @retry is of no use (METAFLOW_EXIT_DISALLOW_RETRY)."""
ENDED = "ended"
"""The name under which an attempt that must not be repeated leaves a note in the datastore."""


class Models(Protocol):
    """What `current.model` gives."""

    def save(
        self, path: str, label: str, metadata: dict[str, Any], storage_format: str
    ) -> dict[str, Any]: ...

    def load(self, reference: Any, path: str) -> str: ...


class Checkpoints(Store, Protocol):
    """What `current.checkpoint` gives, with its list."""

    def list(self, **which: Any) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished training leaves in the datastore.

    Attributes:
        adapter: reference to the adapter; None where every weight was trained.
        model: reference to a model that stands alone: merged, or trained whole.
        run_file: the resolved run file.
    """

    adapter: dict[str, Any] | None
    model: dict[str, Any] | None
    run_file: str
    results: dict[str, Any]


@contextmanager
def problems_told() -> Iterator[None]:
    """Print what the user can mend without a traceback, and leave the step so that it is not retried."""
    try:
        yield
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(NO_RETRY) from None


def bring_base(registry: base_model.Registry, text: str, changes: str, place: Path) -> dict[str, Any] | None:
    """Read the run file, and have its base model in the datastore; None for one that is named by a path."""
    with problems_told():
        run = given.read(text, changes, place)
        for note in run.loaded.notes:
            _say(f"note: {note}")
        reference = base_model.bring(registry, run.loaded)
        _say(f"base model: {base_model.named(reference, run.loaded.config)}")
        return reference


def train(
    text: str,
    changes: str,
    place: Path,
    *,
    base: Mapping[str, Any] | None,
    models: Models,
    checkpoints: Checkpoints,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Trained:
    """Train in an empty directory, from the newest checkpoint of an earlier attempt where there is one.

    Args:
        earlier: checkpoints of the run that this one resumes.

    Raises:
        SystemExit: with 202 where a retry would fare no better, else with the exit code of the launch.
    """
    with problems_told():
        refuse_repeated(checkpoints)
        given.empty(place)
        run = given.read(text, changes, place)
        words, environment = base_for_ranks(base, models, run.loaded.config, place)
        words += [f"--output_dir={run.run.output_dir}"]
        if run.loaded.config.model.use_peft:
            words += ["--merge=true"]
        known = restore(checkpoints, run.run, [*checkpoints.list(), *earlier])
        with Keeper(checkpoints, run.run, place / "to-keep", known) as keeper:
            ended = launch(run.run_file, [*run.words, *words], environment)
        if keeper.lost:
            _say(f"not in the datastore: the checkpoints of steps {', '.join(map(str, keeper.lost))}")
        if ended.code != ExitCode.DONE:
            leave(ended, checkpoints, run.run)
        return saved(models, run.run, place, uses_adapter=run.loaded.config.model.use_peft)


def base_for_ranks(
    base: Mapping[str, Any] | None, models: Models, config: RunConfig, place: Path
) -> tuple[list[str], dict[str, str]]:
    """Load the base model by its reference; return the flags and the environment by which the ranks find it."""
    if base is None:
        return [], {}
    copy = Path(models.load(base, path=str(place / "base")))
    return base_model.as_cache(copy, config, place / "hub")


def refuse_repeated(checkpoints: Checkpoints) -> None:
    """End an attempt at what an earlier one has found to be of no use.

    For schedulers that hide a task's exit code from Metaflow and retry it all the same (Kubernetes, AWS Batch).

    Raises:
        UserError: there was one.
    """
    for note in checkpoints.list(name=ENDED):
        told = (note.get("metadata") or {}).get("told", "an earlier attempt has failed for good")
        raise UserError(f"attempt {note.get('attempt')}: {told}", fix="mend it, and resume the flow")


def leave(ended: Ended, checkpoints: Checkpoints, run: RunDirectory) -> None:
    """Leave a step whose launch failed. What the run has said stays in its directory.

    Raises:
        SystemExit: always.
    """
    _say(ended.told)
    _say(f"the run's records are in {run.kit}, on this machine")
    if ended.may_be_retried:
        raise SystemExit(ended.code if ended.code > 0 else int(ExitCode.WORKER_LOST))
    note = run.kit / "ended.txt"
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(ended.told + "\n", encoding="utf-8")
        checkpoints.save(
            path=str(note), name=ENDED, metadata={"told": ended.told, "exit_code": ended.code}, latest=False,
            storage_format="files",
        )  # fmt: skip
    except Exception as error:  # every datastore has errors of its own; the exit code says the same
        _say(f"no note of it is left in the datastore: {error}")
    raise SystemExit(NO_RETRY)


def saved(models: Models, run: RunDirectory, place: Path, *, uses_adapter: bool) -> Trained:
    """Put what the training has left into the datastore."""
    results = read_results(run).to_dict()
    told = {
        key: results["metrics"][key]
        for key in ("step", "train_loss", "eval_loss")
        if key in results["metrics"]
    }
    files = model_files(run.output_dir)
    trained = None
    if has_weights(files):
        copy = place / "to-keep" / "trained"
        for path in [*files, run.output_dir / "README.md"]:
            if path.exists():
                link(path, copy / path.relative_to(run.output_dir))
        label = "adapter" if uses_adapter else "model"
        trained = models.save(str(copy), label=label, metadata=told, storage_format="files")
    else:
        _say(f"{run.output_dir} holds no weights that load by themselves, only shards: no model is saved")
    merged = None
    if uses_adapter and run.merged.is_dir():
        merged = models.save(str(run.merged), label="merged", metadata=told, storage_format="files")
    run_file = run.run_yaml.read_text(encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    return Trained(
        adapter=trained if uses_adapter else None,
        model=merged if uses_adapter else trained,
        run_file=run_file,
        results=results,
    )


def show(
    text: str,
    changes: str,
    place: Path,
    *,
    title: str,
    base: Mapping[str, Any] | None,
    model: Mapping[str, Any] | None,
    models: Models,
    results: Mapping[str, Any],
    checkpoints: Sequence[Mapping[str, Any]],
) -> list[Any]:
    """Return the components of the card. Samples that cannot be made are told there, and fail nothing."""
    notes: list[str] = []
    rows: list[tuple[str, str, str]] = []
    with problems_told():
        given.empty(place)
        config = given.read(text, changes, place).loaded.config
    try:
        rows = answers(config, base, model, models, place)
    except UserError as problem:
        notes.append(f"no samples: {problem}")
        _say(notes[-1])
    shutil.rmtree(place, ignore_errors=True)
    return components(title, results, checkpoints, rows, notes)


def answers(
    config: RunConfig,
    base: Mapping[str, Any] | None,
    model: Mapping[str, Any] | None,
    models: Models,
    place: Path,
) -> list[tuple[str, str, str]]:
    """Load both models by reference, and have them answer."""
    if model is None:
        raise UserError("there is no model that stands alone")
    before = str(config.model.model_name_or_path)
    if base is not None:
        before = models.load(base, path=str(place / "before"))
    after = models.load(model, path=str(place / "after"))
    return samples(config, before, after, place, {"HF_HUB_OFFLINE": "1"})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
