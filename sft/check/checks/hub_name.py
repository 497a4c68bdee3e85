"""The repository that a run pushes to has a name that the Hub takes, and files that go there."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, error
from sft.check.subject import Subject

NAME = "name on the Hub"
COST = "nothing"
NEEDS = "nothing"


def look(subject: Subject) -> Iterator[Finding]:
    """Judge the name without asking the Hub."""
    training = subject.config.training
    if not training.push_to_hub:
        return
    from sft.hub.settings import HubSettings, settings_problems

    settings = HubSettings(repo=training.hub_model_id, revision=training.hub_revision)
    where = subject.where("hub_model_id" if training.hub_model_id else "push_to_hub")
    for problem in settings_problems(settings, subject.config.run.output_dir):
        yield error(problem.what, problem.where or where, problem.fix)
