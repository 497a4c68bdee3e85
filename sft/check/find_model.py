"""Find a run's model for somebody who waits for its shape: on this machine, or on the Hub, or as the Hub told it before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft.check.place import is_only_on_hub, known_model, model_directory
from sft.check.remembered import endpoint_of, remembered_of
from sft.config.loader import LoadedRun
from sft.errors import ExitCode, Problem, UserError
from sft.hub.settings import without_password
from sft.plan.model_shape import read_model_shape
from sft.plan.read_shape import why_unknown
from sft.plan.shape import Shape
from sft.plan.weights import Tensor

SECONDS = 10.0
"""How long the Hub has to tell a shape, in all."""
GRACE_SECONDS = 0.5
"""How much later it is left to itself, where it does not see that its time is over."""
FETCH = "bring the model with `sft fetch`"


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's shape, and its tensors where somebody has seen them.

    Attributes:
        told: where they are from, of a model that is not here.
    """

    shape: Shape
    tensors: Sequence[Tensor] | None
    told: str | None = None


def find_model(loaded: LoadedRun, environment: Mapping[str, str]) -> FoundModel:
    """Find the model, asking the Hub where its weights are not here.

    Raises:
        UserError: nobody knows its shape: the Hub refuses, is out of reach or slow, or has no such model.
    """
    config = loaded.config
    name, where = str(config.model.model_name_or_path), loaded.where("model_name_or_path")
    if not is_only_on_hub(config):
        known = known_model(config, environment)
        if known.shape is None:
            directory = model_directory(config)
            read = read_model_shape(str(directory)) if directory is not None else {}
            fix = (
                "run without a plan: `sft launch` needs none"
                if read
                else f"name a model's directory, or {FETCH}"
            )
            raise _unknown(name, why_unknown(read), where, fix)
        return FoundModel(known.shape, known.tensors)
    reason = _is_told_to_stay_offline(loaded, environment)
    if reason is None:
        try:
            return _ask(loaded, environment, name, where)
        except _SilentHubError as silence:
            reason, fix = str(silence), silence.fix
    else:
        fix = f"plan once without that where there is a network, or {FETCH}"
    known = known_model(config, environment)
    if known.shape is None:
        raise _unknown(name, f"its weights are not on this machine, and {reason}", where, fix)
    told = f"{name} is not whole on this machine, and {reason}"
    if known.from_hub is not None:
        told = f"shapes of {known.from_hub.called} as the Hub told them before; now {reason}"
    return FoundModel(known.shape, known.tensors, told)


class _SilentHubError(Exception):
    """The Hub does not tell, for no reason that lies in the model or the token."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


def _is_told_to_stay_offline(loaded: LoadedRun, environment: Mapping[str, str]) -> str | None:
    """Name what keeps the Hub from being asked."""
    if loaded.config.launch.offline:
        return f"launch.offline ({loaded.where('launch.offline')}) keeps the Hub from being asked"
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if environment.get(variable, "0").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{variable}={environment[variable]} keeps the Hub from being asked"
    return None


def _ask(loaded: LoadedRun, environment: Mapping[str, str], name: str, where: str) -> FoundModel:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    from sft.check.asked_hub import NoRouteError, UnwellError, hub_of, within
    from sft.check.hub_model import NoWeightsError, ask
    from sft.hub.refusals import NETWORK, gated, problem_of
    from sft.plan.weights import BrokenError

    endpoint = without_password(endpoint_of(environment))
    if not endpoint.startswith(("http://", "https://")):
        raise UserError(
            f"HF_ENDPOINT={endpoint} is no address", "HF_ENDPOINT", "begin it with https://, or unset it"
        )
    hub = hub_of(environment, SECONDS, SECONDS)
    if not hub.has_usable_token:
        raise UserError(
            "the token for the Hub holds blanks or other letters that no token has",
            "HF_TOKEN" if environment.get("HF_TOKEN") else "the login of huggingface_hub",
            "copy it again from https://huggingface.co/settings/tokens",
            exit_code=ExitCode.ENVIRONMENT,
        )
    revision = loaded.config.model.model_revision
    remembered = remembered_of(loaded.config, environment)
    try:
        model, is_new = within(SECONDS + GRACE_SECONDS, lambda: ask(hub, remembered, name, revision))
    except NoRouteError as silence:
        fix = f"{NETWORK.replace('fetch', 'plan', 1)}; or {FETCH}"
        raise _SilentHubError(f"there is no route to the Hub at {endpoint} ({silence})", fix) from None
    except UnwellError as silence:
        fix = f"plan again later, or {FETCH}"
        raise _SilentHubError(f"the Hub at {endpoint} does not tell ({silence})", fix) from None
    except GatedRepoError:
        raise _refused(gated(name, where, "model", again="plan again"), loaded) from None
    except HfHubHTTPError as refusal:
        problem = problem_of(refusal, name, where, revision, "model")
        if problem is None:
            raise
        raise _refused(problem, loaded) from None
    except NoWeightsError:
        fix = "name the repository of the model itself: not of an adapter, nor of GGUF or ONNX files"
        raise _unknown(name, "it has no weights that transformers loads", where, fix) from None
    except BrokenError as broken:
        fix = "name another revision with model_revision, or tell who published it"
        raise _unknown(name, f"it is not whole on the Hub: {broken}", where, fix) from None
    shape = model.shape
    if shape is None:
        lacks = (
            "its config.json is of no decoder that the kit knows" if model.config else "it has no config.json"
        )
        fix = "name the model itself: not an adapter, nor one part of several"
        raise _unknown(model.called, lacks, where, fix)
    told = f"shapes of {model.called} as the Hub told them before; it is at that commit still"
    return FoundModel(shape, model.tensors, model.line if is_new else told)


def _refused(problem: Problem, loaded: LoadedRun) -> UserError:
    where = loaded.sources.get(problem.where or "", problem.where)
    return UserError(problem.what, where, problem.fix, exit_code=ExitCode.ENVIRONMENT)


def _unknown(name: str, reason: str, where: str, fix: str) -> UserError:
    what = f"the shape of {name} is not known: {reason}"
    return UserError(what, where, fix, exit_code=ExitCode.ENVIRONMENT)
