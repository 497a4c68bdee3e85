"""Write `known_keys.json`: every key that accelerate and DeepSpeed read from their files, nested ones too.

    python -m sft.plan.generate_known_keys             # rewrite sft/plan/known_keys.json
    python -m sft.plan.generate_known_keys --output F  # write it elsewhere

In a tree of mappings, null is a value, "*" is whatever stands below. Imports accelerate and DeepSpeed;
nothing above the torch line imports this module. A test regenerates the file and compares.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.metadata
import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Tree = dict[str, Any]

# Sections of an accelerate file, with the prefixes that their keys may leave out.
ACCELERATE_SECTIONS = {
    "deepspeed_config": "DeepSpeed Arguments",
    "fsdp_config": "FSDP Arguments",
    "fp8_config": "FP8 Arguments",
    "parallelism_config": "ParallelismConfig Arguments",
    "megatron_lm_config": "Megatron-LM Arguments",
    "mpirun_config": "MPI Arguments",
    "dynamo_config": "Resource Selection Arguments",
}
IMPLIED_PREFIXES = {"fsdp_config": "fsdp_", "fp8_config": "fp8_", "dynamo_config": "dynamo_"}
# Read by the config's own process_config, besides the fields of its class.
OLD_ACCELERATE_KEYS = ("fp16", "dynamo_backend")


def _read_from_arguments() -> set[str]:
    """Find the names that accelerate's launchers read from their arguments, some of which no flag declares."""
    from accelerate.utils import launch

    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(launch))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "args":
            found.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            holder, name = node.args[0], node.args[1]
            if isinstance(holder, ast.Name) and holder.id == "args" and isinstance(name, ast.Constant):
                found.add(str(name.value))
    return found


def accelerate_keys() -> Tree:
    """Return the keys of accelerate's cluster configuration."""
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    groups: dict[str, set[str]] = {}
    for group in launch_command_parser()._action_groups:
        groups[str(group.title)] = {action.dest for action in group._group_actions}
    read = _read_from_arguments()
    tree: Tree = dict.fromkeys(OLD_ACCELERATE_KEYS)
    for field in dataclasses.fields(ClusterConfig):
        tree[field.name] = None
    for section, title in ACCELERATE_SECTIONS.items():
        prefix = IMPLIED_PREFIXES.get(section, "")
        names = {name for name in groups[title] if name.startswith(prefix)}
        if prefix:
            names |= {name for name in read if name.startswith(prefix)}
            names |= {name.removeprefix(prefix) for name in names}
        tree[section] = dict.fromkeys(sorted(names))
    return dict(sorted(tree.items()))


class _Recorder(dict[str, Any]):
    """A mapping that is empty but for its sections, and notes each key that it is asked for."""

    def __init__(self, tree: Tree, sections: Tree) -> None:
        super().__init__()
        self.tree = tree
        self.sections = sections

    def _note(self, key: str) -> bool:
        is_section = key in self.sections
        if self.tree.get(key) is None:
            self.tree[key] = {} if is_section else None
        return is_section

    def __bool__(self) -> bool:
        # An empty section would not be read.
        return True

    def __contains__(self, key: object) -> bool:
        return self._note(str(key))

    def __getitem__(self, key: str) -> Any:
        # Some readers put an empty section in, and read it back.
        return super().__getitem__(key) if super().__contains__(key) else self.get(key)

    def get(self, key: str, default: Any = None) -> Any:
        return _Recorder(self.tree[key], self.sections[key]) if self._note(key) else default

    def keys(self) -> Any:
        return self

    def copy(self) -> _Recorder:
        return self

    __copy__ = copy


# Sections that DeepSpeed reads key by key, rather than through a pydantic model.
RECORDED_SECTIONS: Tree = {
    "activation_checkpointing": {},
    "aio": {},
    "autotuning": {},
    "checkpoint": {"parallel_write": {}, "writer": {}},
    "data_efficiency": {
        "data_sampling": {"curriculum_learning": {}, "dynamic_batching": {}},
        "data_routing": {"random_ltd": {"random_ltd_layer_token_lr_schedule": {}}},
    },
    "data_types": {},
    "expert_parallel": {},
    "flops_profiler": {},
    "optimizer": {},
    "scheduler": {},
    "torch_autocast": {},
}
# Sections whose members DeepSpeed hands on as they are.
FREE_SECTIONS = (
    ("optimizer", "params"),
    ("scheduler", "params"),
    ("data_efficiency", "data_sampling", "curriculum_learning"),
    ("data_efficiency", "data_sampling", "dynamic_batching"),
    ("data_efficiency", "data_routing", "random_ltd"),
    ("datastates_ckpt",),
    ("pipeline",),
)


def _recorded() -> Tree:
    """Run DeepSpeed's own reader over a mapping that notes what it is asked for."""
    from deepspeed.runtime.config import DeepSpeedConfig

    tree: Tree = {}
    reader = DeepSpeedConfig.__new__(DeepSpeedConfig)
    for section, inner in RECORDED_SECTIONS.items():
        _read(reader, tree, {section: inner})
    _read(reader, tree, {})
    for name in ("optimizer", "scheduler"):
        # Their members are read only where a type is named.
        tree[name] |= {"type": None, "params": None}
    return tree


def _read(reader: Any, tree: Tree, sections: Tree) -> None:
    try:
        reader._initialize_params(_Recorder(tree, sections))
    except (AttributeError, TypeError, ValueError, AssertionError):
        # A section that holds no values ends some readers; they have told their keys by then, and the others
        # are read in a run of their own.
        return


def _model_tree(model: Any) -> Tree:
    """Return the fields of a pydantic model, with their aliases and the models within."""
    tree: Tree = {}
    for name, field in model.model_fields.items():
        inner = next(_models(field.annotation), None)
        below = _model_tree(inner) if inner else "*" if "ict[" in str(field.annotation) else None
        for spelling in (name, field.alias):
            if spelling:
                tree[spelling] = below
    return tree


def _models(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "model_fields"):
        yield annotation
    for member in typing.get_args(annotation):
        yield from _models(member)


def deepspeed_keys() -> Tree:
    """Return the keys of DeepSpeed's configuration."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.inference.config import WeightQuantConfig
    from deepspeed.monitor.config import DeepSpeedMonitorConfig
    from deepspeed.runtime.config import HybridEngineConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    tree = _recorded()
    models = {
        "zero_optimization": DeepSpeedZeroConfig,
        "bf16": DeepSpeedBF16Config,
        "bfloat16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "comms_logger": CommsLoggerConfig,
        "compile": CompileConfig,
        "weight_quantization": WeightQuantConfig,
        "hybrid_engine": HybridEngineConfig,
        "tensor_parallel": TPTrainingConfig,
    }
    tree |= {name: _model_tree(model) for name, model in models.items()}
    tree |= {name: below for name, below in _model_tree(DeepSpeedMonitorConfig).items() if below}
    tree["timers"] = {"throughput": _model_tree(DeepSpeedThroughputTimerConfig)}
    # Read outside that reader: by the batch arithmetic, the sanity check and the MoE layers.
    tree |= dict.fromkeys(("sequence_parallel_size", "vocabulary_size"))
    for *above, last in FREE_SECTIONS:
        holder = tree
        for name in above:
            holder = holder[name]
        holder[last] = "*"
    return dict(sorted(tree.items()))


def generate() -> str:
    """Return the file for the installed libraries."""
    versions = {name: importlib.metadata.version(name) for name in ("accelerate", "deepspeed")}
    document = {"versions": versions, "accelerate": accelerate_keys(), "deepspeed": deepspeed_keys()}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("known_keys.json"))
    output: Path = parser.parse_args().output
    aside = output.with_name(f".{output.name}.new")
    aside.write_text(generate(), encoding="utf-8")
    aside.replace(output)


if __name__ == "__main__":
    main()
