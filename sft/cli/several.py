"""What `sft launch` does with more than one run file: all are checked first, then one after another, or as one job array."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from sft.cli.launch import (
    checked_run,
    launch_here,
    overrides_of,
    prove_offline,
    say_submitted,
    submit_run,
    tell,
    written_by_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sft.launch import several
    from sft.launch.platform import Platform


def run_several(arguments: argparse.Namespace, extra: list[str], asked: Platform | None) -> int:
    """Launch several run files, once all of them are found to be right."""
    from sft.launch import several
    from sft.launch.results import result_of, table

    members = _all_checked(arguments, extra, asked)
    several.refuse_shared(members)
    codes: list[int | None]
    if arguments.on == "slurm":
        codes = [_submit_array(members, arguments, extra, asked)] * len(members)
    elif asked is not None or arguments.dry_run:
        codes = _one_by_one(members, arguments, extra, asked)
    else:
        options = overrides_of(arguments)
        options += [flag for flag in ("--fresh", "--no-check") if vars(arguments)[flag[2:].replace("-", "_")]]
        codes = several.in_turn(members, options, extra, lambda line: print(line, file=sys.stderr))
    if not arguments.dry_run:
        results = [result_of(str(member.path), member.run) for member in members]
        if asked is None:
            results = [result.ended(code) for result, code in zip(results, codes, strict=True)]
        lines = table(results)
        # What was submitted has told its jobs on stdout, and has nothing to show yet.
        print("\n".join(lines), file=sys.stdout if asked is None else sys.stderr)
    return several.code_of(codes)


def _all_checked(
    arguments: argparse.Namespace, extra: list[str], asked: Platform | None
) -> list[several.Member]:
    """Check every run file, and tell the problems of all that are refused."""
    from sft.errors import Problem, UserError
    from sft.launch.several import Member

    members, refused, problems = list[Member](), list[UserError](), list[Problem]()
    for path in arguments.run_files:
        try:
            checked = checked_run(path, arguments, extra, asked)
        except UserError as error:
            refused.append(error)
            problems += [Problem(f"{path}: {item.what}", item.where, item.fix) for item in error.problems]
            continue
        members.append(Member(path, checked.loaded, checked.plan))
        print(f"checked: {path}", file=sys.stderr)
        if asked is not None or arguments.dry_run:
            tell(checked)  # elsewhere; here each launch says it when its turn comes
    if refused:
        raise UserError.of(problems, exit_code=refused[0].exit_code)
    return members


def _one_by_one(
    members: Sequence[several.Member], arguments: argparse.Namespace, extra: list[str], asked: Platform | None
) -> list[int | None]:
    """Submit each, or show what it would start; a wish to stop one that is waited for ends the row."""
    from sft.errors import ExitCode

    codes: list[int | None] = [None] * len(members)
    for number, member in enumerate(members):
        codes[number] = _one_of_several(member, arguments, extra, asked)
        if codes[number] == ExitCode.STOPPED:
            break
    return codes


def _one_of_several(
    member: several.Member, arguments: argparse.Namespace, extra: list[str], asked: Platform | None
) -> int:
    """Submit one of several run files, or show what it would start; a refusal is not the others'."""
    from sft.check.run import CheckedRun
    from sft.errors import UserError

    checked = CheckedRun(member.loaded, member.plan, (), ())
    try:
        if asked is None:
            return launch_here(member.path, arguments, extra, checked)
        return submit_run(member.path, arguments, extra, checked, asked)
    except UserError as error:
        print(f"{member.path}: {error}", file=sys.stderr)
        return int(error.exit_code)


def _submit_array(
    members: Sequence[several.Member], arguments: argparse.Namespace, extra: list[str], asked: Platform | None
) -> int:
    """Submit several run files as one job array."""
    from sft.errors import UserError
    from sft.launch import several
    from sft.launch.command import one_line
    from sft.launch.submit import submission_of, submit, write_script, write_submitted

    assert asked is not None
    if arguments.chain != 1:
        raise UserError("--chain is for one run file", "--chain", "launch each by itself, or leave it out")
    for member in members:
        if member.loaded.config.launch.offline:
            prove_offline(member.path, extra)
    paths = [member.path for member in members]
    submissions = [
        submission_of(
            member.loaded,
            member.plan,
            asked,
            title=one_line(", ".join(map(str, paths))),
            written_by=written_by_of(paths, arguments, extra),
            overrides=overrides_of(arguments),
        )
        for member in members
    ]
    array = several.array_of(members, submissions)
    for member, submission in zip(members, submissions, strict=True):
        write_submitted(member.loaded, submission)
    script = write_script(array, asked)
    if arguments.dry_run:
        print(script.read_text(encoding="utf-8"), end="")
        return 0
    jobs = submit(array, script, asked, arguments.on, fresh=arguments.fresh)
    for member in members:
        say_submitted(script, member.run)
    print("\n".join(jobs))
    return 0
