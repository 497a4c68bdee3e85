"""Write what a rehearsal needs: a model of a few layers, some rows, and the run file that names both."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.check import sealed
from sft.check.code import other_repositories
from sft.check.deep import rows
from sft.check.deep.cut import Cut, plan_cut, write_description, write_weights
from sft.check.deep.launched import NotMadeError
from sft.check.deep.layers import targets_in_cut
from sft.check.deep.room import fitting_processes, require_room, weights_of_a_token
from sft.check.deep.settings import Rehearsal, Scale, rehearsal_of, scale_of, with_rows, without_packing
from sft.check.needs import data_needs, has_addresses, is_data_on_hub, model_needs
from sft.check.subject import Subject
from sft.config.expand import escape
from sft.config.loader import LoadedRun, load_run
from sft.config.run import RunConfig
from sft.data.unprepared import unprepared_reason
from sft.errors import UserError
from sft.hub.cached import snapshot_of
from sft.machine import multiplies_bfloat16
from sft.plan.combinations import check_combinations
from sft.plan.hardware import asked_for
from sft.plan.plan import Plan, make_plan

FETCH = "bring it with `sft fetch RUN.yaml`"


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of a rehearsal."""

    scratch: Path

    @property
    def model(self) -> Path:
        """The cut."""
        return self.scratch / "model"

    @property
    def data(self) -> Path:
        """The rows, one file a split."""
        return self.scratch / "data"

    @property
    def cache(self) -> Path:
        """Prepared data."""
        return self.scratch / "cache"

    def run_file(self, name: str, settings: dict[str, Any]) -> Path:
        """Write a run file; JSON is YAML too."""
        path = self.scratch / f"{name}.yaml"
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return path


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rehearsal that can be launched: its run file lacks output_dir alone."""

    cut: Cut
    scale: Scale
    rehearsal: Rehearsal


def prepare(subject: Subject, plan: Plan, place: Place) -> Prepared:
    """Write everything, the weights last.

    Raises:
        CannotCutError: the model cannot be cut.
        NotMadeError: something is not on this machine, or this machine does not hold it.
        UserError: the data cannot be read.
    """
    config = subject.config
    cut = plan_cut(_model_here(subject))
    processes = fitting_processes(config, plan, cut, cores=len(os.sched_getaffinity(0)))
    scale = scale_of(
        config,
        plan,
        numbers=weights_of_a_token(cut.tensors),
        processes=processes,
        fast_bfloat16=multiplies_bfloat16(),
    )
    rehearsal = rehearsal_of(config, plan, scale)
    own = {"model_name_or_path": escape(str(place.model)), "data_cache": escape(str(place.cache))}
    rehearsal.settings |= own
    _settle_targets(rehearsal, config, cut)
    write_description(cut, place.model)
    loaded = _settle(rehearsal, place)
    beside = sum(path.stat().st_size for path in place.model.iterdir() if path.is_file())
    require_room(loaded.config, make_plan(loaded, asked_for(0, 1)), cut, place.scratch, beside=beside)
    if unprepared_reason(config) is None:
        _take_rows(subject, rehearsal, scale, place)
    write_weights(cut, place.model)
    return Prepared(cut, scale, rehearsal)


def _model_here(subject: Subject) -> Path:
    """Return the model's directory.

    Raises:
        NotMadeError: it, or what it takes its code or its template from, is not on this machine.
    """
    config, source = subject.config, subject.model_directory
    needs = [need for need in model_needs(config) if need.is_on_hub]
    absent = [need.name for need in needs if snapshot_of(need.name, need.revision) is None]
    if source is not None and config.training.trust_remote_code:
        absent += [name for name in other_repositories(source) if snapshot_of(name, None) is None]
    if source is None or absent:
        what = " and ".join(absent) or str(config.model.model_name_or_path)
        raise NotMadeError(f"{what} is not on this machine", FETCH)
    return source


def _settle_targets(rehearsal: Rehearsal, config: RunConfig, cut: Cut) -> None:
    asked = config.model.lora_target_modules
    targets = targets_in_cut(asked, cut.names, [tensor.name for tensor in cut.tensors])
    if targets != asked:
        rehearsal.settings["lora_target_modules"] = targets
        rehearsal.changes.append(f"lora_target_modules: {targets}, as layers that it names are cut off")


def _settle(rehearsal: Rehearsal, place: Place) -> LoadedRun:
    """Have the rules of docs/combinations.md hold on a CPU, and return the run file as it is read.

    Raises:
        NotMadeError: they do not.
    """
    for is_padded in (False, True):
        loaded = load_run(place.run_file("rules", rehearsal.settings), environment={})
        problems = check_combinations(loaded.config, make_plan(loaded, asked_for(0, 1)))
        if not problems:
            return loaded
        if is_padded or not {problem.where for problem in problems} & {"packing", "padding_free"}:
            break
        rehearsal.settings = without_packing(rehearsal.settings)
        rehearsal.changes.append("rows are padded, as this model keeps packed ones apart on GPUs only")
    raise NotMadeError(f"on a CPU, {problems[0].what}")


def _take_rows(subject: Subject, rehearsal: Rehearsal, scale: Scale, place: Place) -> None:
    """Write the first rows of the data, and choose how long they may be.

    Raises:
        NotMadeError: they are not on this machine, or the process that reads them was ended.
        UserError: they cannot be read.
    """
    limits = {"train": rows.ROWS, "test": 2 * scale.processes + 1}
    asked = {"path": str(subject.path), "words": list(subject.words), "place": str(place.data)}
    try:
        taken = sealed.call(rows.TAKE, {**asked, "limits": limits}).value
        rehearsal.settings = with_rows(rehearsal.settings, str(place.data))
        if taken["parts"] > 1:
            rehearsal.settings["bad_rows"] = "drop"  # rows of several shapes stand in one file now
        if scale.lengths:
            run_file = place.run_file("lengths", rehearsal.settings)
            choice = sealed.call(rows.CHOOSE, {"path": str(run_file), "lengths": scale.lengths})
            rehearsal.settings["max_length"] = int(choice.value)
    except UserError as refusal:
        if any(is_data_on_hub(wanted) or has_addresses(wanted) for wanted in data_needs(subject.config)):
            what = refusal.problems[0].what
            raise NotMadeError(f"its data is not on this machine: {what}", FETCH) from None
        raise
    except RuntimeError as ended:
        raise NotMadeError(str(ended)) from None
