"""Fetch a model in a process of its own: huggingface_hub reads where its cache and its Hub are when it is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.loopback.files import FilesHub

SCRIPT = """
import json, sys
from pathlib import Path
from sft.data.tokenizer import IGNORED, PATTERNS
from sft.errors import UserError
from sft.hub import client, fetch, refusals
from sft.hub.hashes import Checked
name, revision, code, silence, notes = json.loads(sys.argv[1])
fetch.SILENCE_SECONDS = silence
client.RETRY_WAITS_SECONDS = (0.01, 0.01)
said = []
def say(line):
    said.append(line)
    print(line, file=sys.stderr, flush=True)
def act():
    chosen = fetch.choose_model(name, revision, patterns=PATTERNS, ignored=IGNORED, weights=True, code=code)
    return fetch.bring(chosen, Checked(Path(notes)), say)
try:
    with refusals.refusals(name, "model_name_or_path", revision=revision):
        place = fetch.patiently(act, say)
    print(json.dumps({"place": str(place), "said": said}))
except UserError as error:
    print(json.dumps({"error": str(error), "code": int(error.exit_code), "said": said}))
"""


@dataclass
class Fetched:
    """What one fetch said, and where it put things."""

    place: str = ""
    error: str = ""
    code: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def files(self) -> set[str]:
        """The names of what lies there."""
        root = Path(self.place)
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@dataclass
class Login:
    """A login node: a home of its own, which knows one Hub."""

    hub: FilesHub
    home: Path
    token: str | None = None

    def start(
        self, name: str, revision: str | None = None, *, code: bool = False, silence: float = 20.0
    ) -> subprocess.Popen[str]:
        """Begin to fetch."""
        asked = json.dumps([name, revision, code, silence, str(self.home / "notes")])
        environment = self.hub.environment(self.home, self.token)
        environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, asked],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fetch(self, name: str, revision: str | None = None, **how: float) -> Fetched:
        """Fetch to the end."""
        out, err = self.start(name, revision, **how).communicate(timeout=60)  # type: ignore[arg-type]
        assert "Traceback" not in err, err
        return Fetched(**json.loads(out.strip().splitlines()[-1]))

    def storage(self, name: str) -> Path:
        """The directory of a model in the cache."""
        return self.home / "hub" / f"models--{name.replace('/', '--')}"

    def leads_to(self, name: str, revision: str = "main") -> str | None:
        """The commit that a revision leads to offline."""
        ref = self.storage(name) / "refs" / revision
        return ref.read_text() if ref.exists() else None
