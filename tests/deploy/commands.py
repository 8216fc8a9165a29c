"""Whether a command in a deployment file is one that the code knows: program, subcommand and every option."""

from collections.abc import Sequence
from typing import Any

import typer
from celery.bin.celery import celery
from tornado.options import options as flower_options

from nexus_tasks.cli import cli
from tests.deploy.files import DEPLOY, IN_IMAGE


def unknown_words(command: Sequence[str]) -> list[str]:
    """What the code does not know in it; nothing when all is well."""
    program, *rest = command
    if program == "celery":
        return _unknown(celery, rest)
    if program == "nexus-tasks":
        return _unknown(typer.main.get_command(cli), rest)
    if program.startswith(f"{IN_IMAGE}/"):
        return [] if (DEPLOY / program.removeprefix(f"{IN_IMAGE}/")).is_file() else [program]
    return [program]


def options_of(command: Sequence[str]) -> dict[str, str]:
    """Option → value, of a command whose options all have one or follow each other."""
    found: dict[str, str] = {}
    for word, after in zip(command, [*command[1:], "-"], strict=True):
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            found[name] = value if equals else ("" if after.startswith("-") else after)
    return found


def _unknown(group: Any, words: list[str]) -> list[str]:
    """Walk down the groups, Click's or those of Typer's own Click, looking up each option on the way."""
    known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for position, word in enumerate(words):
        if word.startswith("-"):
            name = word.partition("=")[0]
            if name not in known and not _of_flower(group, name):
                return [word]
        elif hasattr(group, "commands") and (position == 0 or not words[position - 1].startswith("-")):
            below = group.commands.get(word)
            return [word] if below is None else _unknown(below, words[position + 1 :])
    return []


def _of_flower(group: Any, name: str) -> bool:
    """Flower hands its options to Tornado."""
    if group.name != "flower":
        return False
    import flower.options  # noqa: F401 - defines them

    return name.removeprefix("--").replace("-", "_") in {each.replace("-", "_") for each in flower_options}
