"""Every command of the shell, from its own help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from docs.generate.tables import cell, code, table
from zofo.cli.main import app


def verbs() -> Iterator[tuple[str, Any]]:
    """(name, command), those of a group by both names, in the order of the help."""
    group: Any = typer.main.get_command(app)  # typer's own copy of click, or click's, by its version
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", one) for each, one in inner.items())


def describe(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=f"zofo {name}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## zofo {name}\n", f"{(command.help or '').strip()}\n", f"```text\n{usage}\n```\n"]
    for kind, head in (("argument", "argument"), ("option", "option")):
        params = (each for each in command.params if each.param_type_name == kind)
        records = [record for each in params if (record := each.get_help_record(context))]
        if records:
            parts.append(table((head, "what"), [(code(left), cell(right)) for left, right in records]))
    return "\n".join(parts)


def page() -> str:
    """The text of commands.md."""
    head = """# Commands

What `zofo VERB --help` prints. Every verb ends with exit code 0; with 2 where what was given cannot be used, in one
line that names the place and the fix; with 1 where a run failed; with 130 after Ctrl-C. Settings (`section.key=value`)
are in [settings.md](settings.md); what the verbs are for, in [tour.md](tour.md).
"""
    return "\n".join([head, *(describe(name, command) for name, command in verbs())])
