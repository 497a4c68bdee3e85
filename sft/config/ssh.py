"""The machines of a run that is started over ssh."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from sft.config.section import Section


class SshConfig(Section):
    """Where there is no scheduler: machines that see one file system, for `sft launch --on ssh`."""

    hosts: list[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_@.:\[\]%][A-Za-z0-9_@.:\[\]%-]*$")]
    ] = Field(default_factory=list)
    """The machines as ssh names them, machine 0 first: the others have to reach it by that name, unless
    main_process_ip says another."""
    command: str = Field(
        default="ssh -o BatchMode=yes -o ServerAliveInterval=15", pattern=r"^[^\x00-\x1f\x7f]+$"
    )
    """How to connect: a port, a key, a jump host."""
