"""The help of the program: each command has examples, and they can be typed as they stand."""

import shlex

import click
import pytest

from signal_ledger_adapters.cli.program import program

PROGRAM = "signal-ledger"


def commands(group, *before):
    """All commands with the words that lead to them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*before, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)


COMMANDS = dict(commands(program))


def examples(command):
    """The lines of a help that are typed."""
    told = command.get_help(click.Context(command, terminal_width=80, info_name=PROGRAM))
    _, found, below = told.partition("\n  Examples:\n")
    assert found, told
    assert max(map(len, below.splitlines())) < 80
    return [line.strip() for line in below.splitlines()]


def parse(words):
    """Read words as the program does, and run nothing."""
    context, command = click.Context(program, info_name=PROGRAM), program
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=name)
    command.make_context(name, words, parent=context)


def typed(line):
    """The words behind the name of the program, up to what belongs to the shell; None if it stands elsewhere."""
    words = shlex.split(line, comments=True)
    end = next((place for place, word in enumerate(words) if word in ("|", ">")), len(words))
    return words[1:end] if words[0] == PROGRAM else None


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_each_command_has_examples_that_can_be_typed(names):
    lines = examples(COMMANDS[names])
    calls = [words for words in map(typed, lines) if words is not None]
    assert calls
    for words in calls:
        parse(words)
    if not isinstance(COMMANDS[names], click.Group):
        assert any(tuple(words[: len(names)]) == names for words in calls)


@pytest.mark.parametrize("group", [program, COMMANDS[("workflow",)]], ids=lambda group: group.name)
def test_no_summary_of_a_command_is_cut_where_the_column_ends(group):
    told = group.get_help(click.Context(group, terminal_width=80, info_name=PROGRAM))
    assert "..." not in told.partition("\nCommands:\n")[2]
