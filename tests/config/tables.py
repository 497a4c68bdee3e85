"""The tables of docs/run-file.md, made from the code: `python -m tests.config.tables` rewrites them in place."""

from __future__ import annotations

from pathlib import Path

from sft.config.describe import description_of
from sft.config.fields import every_key, field_of, type_in_words
from sft.config.old_names import CONVERTED, RENAMED, RENAMED_VALUES, SILENT
from sft.config.retired import FAMILIES, RETIRED
from sft.config.run import section_of_key

PAGE = Path(__file__).parents[2] / "docs" / "run-file.md"
SAMPLES = {
    "use_flash_attn": "true",
    "use_flash_attention_2": "true",
    "use_reentrant": "false",
    "gradient_checkpointing_use_reentrant": "false",
    "splits": "train,test",
    "warmup_ratio": "0.03",
    "group_by_length": "true",
    "adafactor": "true",
    "include_inputs_for_metrics": "true",
    "split_batches": "true",
    "dispatch_batches": "true",
    "multi_gpu": "true",
    "use_fsdp": "true",
    "fsdp": "full_shard auto_wrap",
    "zero_stage": "3",
    "cpu": "true",
}
"""A value of each converted name to show."""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`"


def _ours() -> list[tuple[str, ...]]:
    rows = []
    for key in every_key():
        if key.startswith("launch.") or section_of_key().get(key) == "kit":
            found = field_of(key)
            assert found is not None
            default = found.get_default(call_default_factory=True)
            text = ", ".join(default) if isinstance(default, list) else str(default).lower()
            shown = "" if default in (None, [], {}, "") else _code(text)
            rows.append((_code(key), type_in_words(key), shown, description_of(key)))
    return rows


def tables() -> dict[str, str]:
    """Return each table by the name of its marker."""
    renamed = [(_code(name), _code(new)) for name, new in RENAMED.items() if name not in SILENT]
    launch = [(_code(name), _code(new)) for name, new in RENAMED.items() if name in SILENT]
    converted = []
    for name, sample in SAMPLES.items():
        read = ", ".join(_code(f"{key}: {value}") for key, value in CONVERTED[name](sample).items())
        converted.append((_code(f"{name}: {sample}"), read))
    values = [(_code(f"{key}: {old}"), _code(f"{key}: {new}")) for (key, old), new in RENAMED_VALUES.items()]
    retired = []
    for name, gone in RETIRED.items():
        anyway = ", ".join(_code(value) for value in sorted(gone.anyway - {""}))
        retired.append((_code(name), anyway or "nothing", gone.why, gone.fix))
    families = [(_code(pattern.pattern.replace("|", r"\|")), why, fix) for pattern, why, fix in FAMILIES]
    return {
        "ours": _table(("key", "takes", "default", "meaning"), _ours()),
        "renamed": _table(("name", "read as"), renamed),
        "converted": _table(("for example", "read as"), converted + values),
        "launch": _table(("name", "read as"), launch),
        "retired": _table(("name", "accepted values", "because", "otherwise"), retired),
        "families": _table(("names (regular expression)", "because", "otherwise"), families),
    }


def with_tables(page: str) -> str:
    """Return the page with every table as the code has it."""
    for name, table in tables().items():
        start, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        assert after, f"the page has no place for {name}"
        page = f"{before}{start}\n{table}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
