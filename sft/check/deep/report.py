"""What a rehearsal that went well tells, a line an act."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.deep.launched import Launched
from sft.check.deep.prepare import Prepared
from sft.check.filesystem import gib
from sft.check.finding import Finding, note, warning
from sft.checkpoint.find import complete
from sft.launch.certify import Difference

ROUNDING = 1e-2
"""Between ranks of which there are more than two, sums may be taken in another order after a resume."""


def trained(launched: Launched, prepared: Prepared) -> Iterator[Finding]:
    """Tell what was trained, how long each phase took, and what was otherwise than in the run."""
    cut, scale, rehearsal = prepared.cut, prepared.scale, prepared.rehearsal
    seconds = phases(launched)
    times = ", ".join(f"{name} {spent:.1f} s" for name, spent in seconds.items())
    size = sum(found.manifest.bytes for found in complete(launched.run))
    ranks = "1 process" if scale.processes == 1 else f"{scale.processes} processes"
    length = rehearsal.settings.get("max_length")
    rows = f", rows of at most {length} tokens" if length else ""
    yield note(
        f"rehearsed on the CPU: {cut.told()}, {ranks}{rows}; {times}; two checkpoints of {gib(size / 2)}"
    )
    if rehearsal.changes:
        yield note(f"rehearsed otherwise than the run file has it: {'; '.join(rehearsal.changes)}")


def phases(launched: Launched) -> dict[str, float]:
    """Return how long each phase of a launch took, in seconds."""
    events = launched.events
    marks = [(float(event["time"]), str(event["phase"])) for event in events if event["event"] == "phase"]
    ends = [float(event["time"]) for event in events if event["event"] == "end"]
    first_step = next((time for time, phase in marks if phase == "train"), launched.began)
    spent = {"load": first_step - launched.began, "train": 0.0, "evaluate": 0.0, "save": 0.0, "export": 0.0}
    for (begin, phase), (end, _) in zip(
        marks, [*marks[1:], (ends[-1], "") if ends else marks[-1]], strict=True
    ):
        if phase in ("train", "evaluate", "export"):
            spent[phase] += end - begin
    spent["save"] = sum(float(event["seconds"]) for event in events if event["event"] == "save")
    return {phase: seconds for phase, seconds in spent.items() if seconds > 0}


def resumed(launched: Launched, apart: Difference, *, exact: bool) -> Iterator[Finding]:
    """Tell whether the run that went on from its first checkpoint came where the other one did.

    Args:
        exact: every bit must be equal.
    """
    if apart.is_none:
        yield note(
            f"rehearsed resume, {_trained_at(launched) - launched.began:.0f} s: from checkpoint-1, step 2 has the same loss and leaves the same"
            " weights, bit by bit"
        )
        return
    loss = f"the loss of step {apart.step} differs by {apart.loss:.3g}" if apart.step else ""
    weight = f"{apart.tensor} differs by {apart.weight:.3g}" if apart.tensor else ""
    what = f"a resume from checkpoint-1 is not the run that went on: {' and '.join(filter(None, (loss, weight)))}"
    if exact or apart.loss > ROUNDING:
        fix = "look at callbacks and functions of your own that keep a state or draw random numbers"
        yield warning(what, "a rehearsal of two steps", fix)
    else:
        yield note(f"{what}, which is rounding between more than two processes")


def merged(launched: Launched) -> Iterator[Finding]:
    """Tell how long it took to merge."""
    seconds = launched.began + launched.seconds - _trained_at(launched)
    yield note(f"rehearsed merge, {seconds:.0f} s: the merged model answers as the adapter on its base does")


def _trained_at(launched: Launched) -> float:
    """Return when the ranks of a launch had ended: merging comes after."""
    ends = [float(event["time"]) for event in launched.events if event["event"] == "end"]
    return ends[-1] if ends else launched.began + launched.seconds
