"""The plan fits, of a model that is not here yet: the same bill, from what the Hub tells of it."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.cluster import host_bytes_of
from sft.check.finding import Finding, note, warning
from sft.check.memory import judge
from sft.check.place import is_only_on_hub
from sft.check.remembered import remembered_of
from sft.check.subject import Subject

NAME = "memory, of a model on the Hub"
COST = "config.json and the headers of the weights, by range requests, of a model that is not here; remembered; 6 s at most"
NEEDS = "the network"


def make_ready(subject: Subject) -> None:
    """Import what speaks to the Hub, where there is something to ask."""
    if _has_question(subject):
        import sft.check.hub_model  # noqa: F401 - loaded before the threads start


def look(subject: Subject) -> Iterator[Finding]:
    """Ask for the shape and judge the plan by it. Why the Hub gives none is told by the check of the Hub."""
    if not _has_question(subject):
        return
    from huggingface_hub.errors import HfHubHTTPError

    from sft.check.asked_hub import NoRouteError, UnwellError, hub_of
    from sft.check.hub_model import NoWeightsError, ask
    from sft.plan.decide import decide, option
    from sft.plan.weights import BrokenError

    hub = hub_of(subject.environment)
    if not hub.has_usable_token:
        return
    name = subject.config.model.model_name_or_path or ""
    remembered = remembered_of(subject.config, subject.environment)
    try:
        model, is_new = ask(hub, remembered, name, subject.config.model.model_revision)
    except (HfHubHTTPError, NoRouteError, UnwellError, BrokenError, NoWeightsError):
        yield note(f"whether {name} fits is not known: the Hub gave no shapes of it")
        return
    told = subject.model.from_hub
    if told is not None and told.commit == model.commit:
        return  # the plan was made with it, and judged
    if is_new:
        yield note(model.line)
    shape, plan = model.shape, subject.plan
    if shape is None or plan is None:
        yield note(f"whether {model.called} fits is not known: it has no config.json of a decoder")
        return
    made = option(subject.config, plan, shape, subject.gpu)
    host_bytes = host_bytes_of(subject.hardware, subject.config)
    _, better, _ = decide(subject.loaded, plan, shape, subject.gpu, host_bytes)
    if better is not None and better.name != made.name:
        yield warning(
            f"the plan was made before the Hub told the shape of {name}: {made.name}. With it, it is {better.name}",
            "launch.strategy" if subject.config.launch.strategy == "auto" else "micro_batch",
            "give the same command again: what the Hub told is remembered",
        )
    yield from judge(subject, made, shape)


def _has_question(subject: Subject) -> bool:
    """Whether memory of a GPU is at stake, and the Hub alone can tell how much."""
    if subject.plan is None or subject.plan.device == "cpu" or subject.config.launch.offline:
        return False
    return is_only_on_hub(subject.config) and subject.environment.get("HF_ENDPOINT", "https://").startswith(
        ("http://", "https://")
    )
