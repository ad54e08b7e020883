"""Here: how a function becomes a subcommand: its flags and their help by tyro, and the page of all commands.

Not here: subcommands; which ones there are (cli.py).

tyro's help is the base. What it would print besides is left away: defaults that say nothing (None, an empty
text or list), the `None` that an optional flag could be given, `--no-X` of a switch that is off, and the line
breaks of our docstrings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from barlow.config import Config
from barlow.terminal import unboxed

Command = Callable[..., None]
Hidden = Mapping[type, tuple[str, ...]]
"""Of a dataclass the fields that help leaves out."""
MAX_WIDTH = 100
"""Columns of text: beyond, the eye loses the line."""
_SECTIONS = tuple(type(getattr(Config(), field.name)) for field in dataclasses.fields(Config))
_NOTHING = ("", "None", "''")


def parse(
    command: Command, prog: str, arguments: list[str], hidden: Hidden | None = None
) -> Callable[[], None]:
    """The call that the arguments ask for; errors of parsing and of running stay apart.

    `ValueError` in one line for arguments that can't be meant; `SystemExit(0)` after `--help`, which does
    without the fields in `hidden`.
    """
    errors, asks_help = io.StringIO(), not {"-h", "--help"}.isdisjoint(arguments)
    with _quiet_end():
        if asks_help:  # by tyro its lines would be as long as they are
            print(_filled(_description(command)), end="\n\n")
        try:
            with contextlib.redirect_stderr(errors):
                return tyro.cli(
                    _later(command),
                    prog=prog,
                    description="",
                    args=arguments,
                    registry=_plain_fields(hidden if asks_help and hidden else {}),
                )
        except SystemExit as stop:
            if stop.code:
                raise ValueError(unboxed(errors.getvalue())) from None
            raise


def overview(prog: str, about: str, groups: Mapping[str, Mapping[str, Command]]) -> None:
    """Prints all commands by group, with a sentence for each."""
    width = max(len(name) for commands in groups.values() for name in commands) + 4
    lines = [f"usage: {prog} COMMAND ...", "", _filled(about)]
    for title, commands in groups.items():
        lines += ["", f"{title}:"]
        for name, command in commands.items():
            sentence = " ".join(_description(command).partition("\n\n")[0].split())
            lines.append(_filled(sentence, first=f"  {name}".ljust(width), rest=" " * width))
    with _quiet_end():
        print("\n".join(lines))


def choose(commands: Mapping[str, Command], prog: str, name: str) -> Command:
    """The command of that name; `ValueError` that names the nearest if there is none."""
    if name in commands:
        return commands[name]
    near = difflib.get_close_matches(name, commands, 1)
    perhaps = f" (perhaps {near[0]})" if near else ""
    raise ValueError(f"there is no command {name!r}{perhaps}; `{prog} --help` lists them")


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """For `--help | head`: whoever read has seen enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def _later(command: Command) -> Callable[..., Callable[[], None]]:
    """Has the command's flags but puts the call off."""

    def bind(*positional: Any, **keywords: Any) -> Callable[[], None]:
        return functools.partial(command, *positional, **keywords)

    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    parameters = [
        parameter.replace(annotation=_plain(hints[name], parameter.default, as_switch=True))
        for name, parameter in signature.parameters.items()
    ]
    bind.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
    bind.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    bind.__doc__ = _unbroken(command.__doc__ or "")
    return bind


def _plain(hint: Any, default: object, *, as_switch: bool) -> Any:
    """The type of a flag, with what keeps its help plain."""
    # What a preset may have switched on needs its --no-X; any other flag is off unless asked for.
    if as_switch and default is False:
        marks = (tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint=""))
    else:
        marks = (tyro.conf.DisallowNone, tyro.conf.arg(help_behavior_hint=_default))
    kind, *own = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return Annotated[(kind, *marks, *own)]  # of two that contradict each other the last one counts


def _default(label: str) -> str:
    return "" if label in _NOTHING else f"(default: {label})"


def _plain_fields(hidden: Hidden) -> ConstructorRegistry:
    """Rules for the dataclasses among the flags: tyro's own, and then `_plain`."""
    registry, busy = ConstructorRegistry(), False

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal busy
        if busy or not dataclasses.is_dataclass(info.type):
            return None
        busy = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            busy = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = []
        for field in spec.fields:
            kind = _plain(field.type, field.default, as_switch=info.type not in _SECTIONS)
            if field.name in hidden.get(info.type, ()):
                kind = Annotated[kind, tyro.conf.Suppress]
            fields.append(dataclasses.replace(field, type=kind, helptext=_one_line_of(field.helptext)))
        return dataclasses.replace(spec, fields=tuple(fields))

    return registry


def _one_line_of(text: str | Callable[[], str | None] | None) -> Callable[[], str | None]:
    def told() -> str | None:
        found = text() if callable(text) else text
        return None if found is None else _joined(found)

    return told


def _description(command: Command) -> str:
    """The docstring as far as its arguments, a paragraph a line, with empty lines between."""
    return _joined(inspect.cleandoc(command.__doc__ or "").partition("\nArgs:")[0])


def _unbroken(doc: str) -> str:
    """A docstring whose paragraphs and arguments are one line each."""
    text, _, arguments = inspect.cleandoc(doc).partition("\nArgs:")
    one_line_each = re.sub(r"\n {5,}", " ", arguments)
    return f"{_joined(text)}\n\nArgs:{one_line_each}"


def _joined(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _filled(text: str, *, first: str = "", rest: str = "") -> str:
    """Paragraphs no wider than the terminal."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    return "\n\n".join(
        textwrap.fill(
            paragraph,
            width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for paragraph in text.split("\n\n")
    )
