"""Rehearse a run: train two steps of it on a cut of its model, save, evaluate, resume, merge, and push to nowhere."""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sft.check.deep import report
from sft.check.deep.built import is_no_model
from sft.check.deep.cut import Cut
from sft.check.deep.launched import Launched, NotMadeError, failure, launch
from sft.check.deep.layers import CannotCutError
from sft.check.deep.nowhere import pushed
from sft.check.deep.prepare import Place, prepare
from sft.check.deep.settings import STEPS
from sft.check.finding import GRAVITIES, Finding, error, errors, note, warning
from sft.check.subject import Subject
from sft.check.survey import Survey
from sft.checkpoint.find import complete
from sft.config.expand import escape
from sft.errors import ExitCode, Problem, UserError
from sft.launch.certify import compare
from sft.launch.stop import StopRequests
from sft.plan.plan import Plan

NAME = "deep"
SCRATCH = "sft-deep-"
KEY_OF_RANK = re.compile(r"^([\w.]+) \(.*\)$")
"""How a rank says where a key was set: `compute_metrics (run.yaml:7)`, in a run file that is not the user's."""
LATER = {"merge": False, "push_to_hub": False}
"""What is left to the launch that resumes."""
Say = Callable[[str], None]


def rehearsed(found: Survey, say: Say) -> Survey:
    """Add to what was found what a rehearsal finds. A run that is refused already is not rehearsed.

    Raises:
        StopNow: the user wished to stop; nothing is left behind.
    """
    if found.of("error") or found.subject.plan is None:
        return found
    more = [replace(finding, check=NAME) for finding in rehearse(found.subject, found.subject.plan, say)]
    every = sorted((*found.findings, *more), key=lambda finding: GRAVITIES.index(finding.gravity))
    return Survey(found.subject, tuple(every))


def rehearse(subject: Subject, plan: Plan, say: Say) -> list[Finding]:
    """Rehearse a run in a directory below TMPDIR, which is removed again whatever happens."""
    with (
        StopRequests() as stop,
        tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as scratch,
        stop.interrupting(),
    ):
        stage = Stage(subject, plan, Place(Path(scratch)), say)
        try:
            return list(stage.play())
        except CannotCutError as reason:
            why = f"its model cannot be cut: {reason}"
            return [_not_made(why, subject.where("model_name_or_path"))]
        except NotMadeError as reason:
            return [_not_made(str(reason), None, reason.fix)]
        except UserError as refusal:
            return errors([stage.told(problem) for problem in refusal.problems], refusal.exit_code)
        except OSError as failed:
            if failed.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return [_not_made(f"{scratch} is full", None, "set TMPDIR to a directory that has room")]


def _not_made(why: str, where: str | None, fix: str | None = None) -> Finding:
    return warning(f"the run was not rehearsed: {why}", where, fix)


@dataclass(frozen=True)
class Stage:
    """One rehearsal, and the directory that it happens in."""

    subject: Subject
    plan: Plan
    place: Place
    say: Say

    def play(self) -> Iterator[Finding]:
        """Do it all, and tell what there is to tell. The first failure ends it."""
        config = self.subject.config
        prepared = prepare(self.subject, self.plan, self.place)
        settings, resumes = prepared.rehearsal.settings, not config.training.save_only_model

        self.say(f"rehearsing {STEPS} steps on {prepared.cut.told()} of the model")
        last = whole = self.launch("whole", settings | (LATER if resumes else {}))
        if found := self.failed(whole):
            self.acquit(found, prepared.cut)
            yield found
            return
        yield from report.trained(whole, prepared)

        if resumes:
            self.say("rehearsing the resume from checkpoint-1")
            self.give_checkpoint("whole", "resumed")
            last = self.launch("resumed", settings)
            if found := self.failed(last, resuming=True):
                yield found
                return
            apart = compare(whole.run.output_dir, last.run.output_dir, after=1)
            yield from report.resumed(last, apart, exact=prepared.scale.processes <= 2)
        else:
            yield note("save_only_model: no run goes on from such checkpoints, so no resume was rehearsed")

        if config.kit.merge:
            yield from report.merged(last)
        if config.training.push_to_hub:
            yield from pushed(last.run, last.notes, self.subject.where("push_to_hub"))

    def launch(self, act: str, settings: dict[str, Any]) -> Launched:
        """Launch one act, and wait for its end."""
        output = self.output(act)
        run_file = self.place.run_file(act, settings | {"output_dir": escape(str(output))})
        is_fsdp = self.plan.strategy.is_fsdp
        return launch(run_file, output, self.place.scratch / act, is_fsdp=is_fsdp)

    def output(self, act: str) -> Path:
        """Where one act writes. The last name is the run's own, which a repository may be named after."""
        return self.place.scratch / act / self.subject.config.run.output_dir.name

    def give_checkpoint(self, act: str, to: str) -> None:
        """Move the first checkpoint to a run directory that has nothing else, as one that was copied elsewhere."""
        place = self.output(to)
        place.mkdir(parents=True)
        (self.output(act) / "checkpoint-1").rename(place / "checkpoint-1")

    # --- failures

    def failed(self, launched: Launched, *, resuming: bool = False) -> Finding | None:
        """Return what went wrong with a launch, if anything did.

        Raises:
            NotMadeError: it was this machine, not the run.
        """
        if launched.code:
            phase, problem, code = failure(launched)
            if resuming and phase != "merge":
                phase = "resume"
        else:
            steps = {found.manifest.step for found in complete(launched.run)}
            if steps == set(range(1, STEPS + 1)):
                return None
            # A save that fails does not end a run; a run that can save nothing is worth as little.
            notes = [text for text in launched.notes if "could not be saved" in text]
            phase, code = "save", ExitCode.TRAINING_FAILED
            problem = Problem("; ".join(notes) or f"of {STEPS} checkpoints, {len(steps)} are whole")
        problem = self.told(problem)
        what = f"a rehearsal of the run fails in its phase {phase}: {problem.what}"
        return error(what, problem.where, problem.fix, exit_code=code)

    def acquit(self, found: Finding, cut: Cut) -> None:
        """Blame the cut where it is no model: one that has tensors of all layers together, say.

        Raises:
            NotMadeError: it is to blame, and not the run.
        """
        if cut.is_whole or " phase load: " not in found.problem.what:
            return
        trusts = self.subject.config.training.trust_remote_code
        if is_no_model(cut.source, self.place.model, trust_remote_code=trusts):
            said = found.problem.what.partition(" phase load: ")[2].partition("\n")[0]
            raise NotMadeError(f"{cut.told()} are no model by themselves: {said}")

    def told(self, problem: Problem) -> Problem:
        """Say of a problem of the rehearsal what it is of the run."""
        config = self.subject.config
        names = {
            str(self.place.model): str(config.model.model_name_or_path),
            str(self.place.data): config.script.dataset_name or "the data set",
            **{str(self.output(act)): str(config.run.output_dir) for act in ("whole", "resumed")},
            str(self.place.scratch): "<scratch>",
        }

        def in_words_of_the_run(text: str | None) -> str | None:
            for place, name in names.items():
                text = text.replace(place, name) if text else text
            return text

        where = in_words_of_the_run(problem.where) or ""
        if key := KEY_OF_RANK.match(where):
            where = self.subject.where(key[1])
        where = self.subject.loaded.sources.get(where, where)
        return Problem(
            in_words_of_the_run(problem.what) or "", where or None, in_words_of_the_run(problem.fix)
        )
