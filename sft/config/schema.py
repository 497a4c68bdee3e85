"""The JSON Schema of a run file, for editors, and one key in words. Pure: made from the declared types."""

from __future__ import annotations

import json
from typing import Any

from sft.config.describe import describe, description_of
from sft.config.fields import choices, every_key, field_of, is_key, nearest, type_in_words
from sft.config.kit import LaunchConfig
from sft.config.old_names import CONVERTED, RENAMED, SILENT
from sft.config.retired import RETIRED, STILL_FIELDS, retired
from sft.config.run import FLAT_SECTIONS, RunConfig, section_of_key
from sft.errors import UserError

DIALECT = "http://json-schema.org/draft-07/schema#"
"""What the YAML language server reads in full."""

Schema = dict[str, Any]


def _without_titles(schema: Any) -> Any:
    """Drop the titles that pydantic makes of names: an editor would show them instead of the help."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


def _section(section: type[Any], definitions: Schema) -> Schema:
    schema = _without_titles(section.model_json_schema(ref_template="#/definitions/{model}"))
    definitions.update(schema.pop("$defs", {}))
    return dict(schema)


def _widened(schema: Schema) -> Schema:
    """Take what the loader takes beside the declared type."""
    if schema.get("type") == "boolean":
        # YAML 1.2 has no yes and no; where a boolean is declared, the loader reads them.
        return {**schema, "enum": [True, False, "yes", "no", "on", "off"], "type": ["boolean", "string"]}
    return schema


def _old_names() -> Schema:
    """Describe the names of old, so that an editor strikes them through and tells today's."""
    old: Schema = {}
    for name, new in RENAMED.items():
        if name in SILENT:
            old[name] = {"description": f"Read as {new}."}
        else:
            old[name] = {"deprecated": True, "description": f"Now {new}."}
    for name in CONVERTED:
        old[name] = {"deprecated": True, "description": "Read under today's names; `sft check` says how."}
    for name, gone in RETIRED.items():
        if not is_key(name) or name in STILL_FIELDS:
            told = ", ".join(sorted(gone.anyway - {"", "none", "null", "0", "no", "off", "1", "yes", "on"}))
            accepted = f" Accepted: {told}." if told else ""
            old[name] = {"deprecated": True, "description": f"Not needed: {gone.why}.{accepted}"}
    return old


def json_schema() -> Schema:
    """Return the JSON Schema of a run file."""
    describe()
    definitions: Schema = {}
    properties: Schema = {}
    for section in FLAT_SECTIONS:
        annotation: Any = RunConfig.model_fields[section].annotation
        properties.update(_section(annotation, definitions)["properties"])
    properties = {key: _widened(value) for key, value in properties.items()}
    properties.update(_old_names())
    launch = _section(LaunchConfig, definitions)
    strategy = launch["properties"]["strategy"]
    strategy["anyOf"].append({"enum": ["single_gpu", "multi_gpu"], "description": "TRL's names"})
    properties["launch"] = {**launch, "description": "Where and on how many processes the run is started."}
    return {
        "$schema": DIALECT,
        "title": "sft run file",
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "additionalProperties": False,
        "definitions": definitions,
    }


def explain(key: str) -> str:
    """Say in a few lines what one key takes, what it is otherwise, and what it is for.

    Raises:
        UserError: there is no such key.
    """
    name = key.replace("-", "_")
    if name in RENAMED and not is_key(name):
        return f"{name} is read as {RENAMED[name]}\n{explain(RENAMED[name])}"
    if name in CONVERTED:
        return f"{name} is an old name: it is read under today's, and `sft check` says how"
    gone = retired(name)
    if gone is not None and (not is_key(name) or name in STILL_FIELDS):
        return f"{name} is not needed any more: {gone.why}\n  instead: {gone.fix}"
    name = name if is_key(name) else f"launch.{name}" if is_key(f"launch.{name}") else name
    found = field_of(name)
    if found is None:
        close = nearest(name, [*every_key(), *RENAMED, *CONVERTED])
        fix = f"did you mean {close}?" if close else "`sft schema` lists every key"
        raise UserError(f"there is no key {key}", fix=fix)
    lines = [f"{name}: {type_in_words(name)}", f"  default: {_default(found)}"]
    if description := description_of(name):
        lines.append(f"  {description}")
    permitted = choices(name)
    if permitted and "one of" not in lines[0]:
        lines.append(f"  choices: {', '.join(permitted)}")
    owner = section_of_key().get(name, "launch")
    annotation: Any = RunConfig.model_fields[owner].annotation
    ours = owner in ("kit", "launch")
    lines.append(f"  from: {'the kit' if ours else f'TRL, {annotation.__name__}'}")
    return "\n".join(lines)


def _default(found: Any) -> str:
    default = found.get_default(call_default_factory=True)
    if default is None:
        return "none"
    return json.dumps(default, default=str) if not isinstance(default, str) else default or '""'
