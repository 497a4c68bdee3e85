"""What `datasets` would download for a data set of the Hub, before it does."""

from __future__ import annotations

import re

from sft.data.hub import refusals
from sft.data.locate import Wanted

ON_HUB = re.compile(r"hf://datasets/[^@]+@[^/]+/(.+)")


def remote_files(wanted: Wanted) -> tuple[list[str], int | None]:
    """Name the files of the repository that the data set is made of, and its size as Arrow where its card tells it.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    import datasets

    given = wanted.data_files
    with refusals(wanted.path, wanted.key):
        builder = datasets.load_dataset_builder(
            wanted.path,
            name=wanted.configuration,
            data_dir=wanted.data_dir,
            data_files=given if given is None or isinstance(given, (str, dict)) else list(given),
        )
    files = getattr(builder.config, "data_files", None) or {}
    found = [ON_HUB.fullmatch(str(file)) for split in files.values() for file in split]
    return [match[1] for match in found if match], builder.info.dataset_size
