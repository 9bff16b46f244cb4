"""How a command line is read and how a failure is told: one line, and a documented exit code.

The exit codes are listed in docs/commands.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from flow.cli.invocation import Invocation
from flow.errors import FlowError, UsageError, nearest

#: 128 + SIGINT and 128 + SIGPIPE, as a shell reports a process that a signal ended.
INTERRUPTED = 130
BROKEN_PIPE = 141

Function = TypeVar("Function", bound=Callable[..., Any])


class Group(click.Group):
    """A noun. A verb it does not have is answered with the nearest one it has."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # Left to click, a noun alone would print its whole help as an error.
        settings |= {
            "no_args_is_help": False,
            "invoke_without_command": True,
            "subcommand_metavar": "COMMAND [ARGS]...",
        }
        super().__init__(*args, **settings)
        self.callback = self._require_command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            remedy = nearest(name, self.commands) or f"; expected {self._choices()}"
            raise UsageError(f"{_where(ctx)}unknown command {name!r}{remedy}")
        return super().resolve_command(ctx, args)

    def _require_command(self) -> None:
        ctx = click.get_current_context()
        if ctx.invoked_subcommand is None:
            raise UsageError(
                f"{_where(ctx)}expected a command ({self._choices()}), got none; "
                f"see `{ctx.command_path} --help`"
            )

    def _choices(self) -> str:
        *rest, last = sorted(self.commands)
        return f"{', '.join(rest)} or {last}" if rest else last


class Command(click.Command):
    """A verb. It takes the options of the whole program too, since people write them last."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += [_config_option(), _verbose_option()]


def global_options(function: Function) -> Function:
    """``--config`` and ``-v`` for the program itself."""
    return click.option(*_CONFIG, **_CONFIG_SETTINGS)(
        click.option(*_VERBOSE, **_VERBOSE_SETTINGS)(function)
    )


def output_option(function: Function) -> Function:
    """``--output table|json`` for every listing and ``show``."""
    return click.option(
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="A table to read, or JSON to process.",
    )(function)


def run(root: click.Command, program: str, argv: Sequence[str] | None) -> int:
    """Carry a command line out and return the exit code.

    Every :class:`~flow.errors.FlowError` and everything click refuses becomes one line on stderr;
    any other exception is a bug in flow and passes through.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    invocation = Invocation(program)
    try:
        code = _carry_out(root, program, arguments, invocation)
        sys.stdout.flush()
    except FlowError as error:
        _complain(program, error, verbose=invocation.verbose)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return BROKEN_PIPE
    finally:
        invocation.close()
    return code


def _carry_out(root: click.Command, program: str, argv: list[str], invocation: Invocation) -> int:
    # Not root.main(): it turns an interrupt into a message and a broken pipe into status 1.
    try:
        with root.make_context(program, argv, obj=invocation) as ctx:
            result = root.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        raise UsageError(_explain(error)) from None
    return result if isinstance(result, int) else 0


def _explain(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    where = _where(ctx)
    match error:
        case click.NoSuchOption():
            known = [] if ctx is None else _options(ctx.command)
            remedy = nearest(error.option_name, known) or f"; see `{_path(ctx)} --help`"
            return f"{where}unknown option {error.option_name!r}{remedy}"
        case click.MissingParameter():
            return f"{where}expected {_label(error)}, got none; see `{_path(ctx)} --help`"
        case click.BadParameter():
            return f"{where}{_label(error)}: {_lower(error.message)}"
        case _:
            return f"{where}{_lower(error.format_message())}"


def _where(ctx: click.Context | None) -> str:
    words = _path(ctx).split()[1:]
    return f"{' '.join(words)}: " if words else ""


def _path(ctx: click.Context | None) -> str:
    return "" if ctx is None else ctx.command_path


def _label(error: click.BadParameter) -> str:
    if error.param is None:
        return str(error.param_hint or "value")
    if isinstance(error.param, click.Argument):
        return error.param.make_metavar(error.ctx) if error.ctx else error.param.human_readable_name
    return max(error.param.opts, key=len)


def _options(command: click.Command) -> Iterator[str]:
    for param in command.params:
        if isinstance(param, click.Option):
            yield from param.opts
    yield "--help"


def _lower(message: str) -> str:
    """click's sentences as clauses: they follow a colon here."""
    text = message.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _complain(program: str, error: FlowError, *, verbose: bool) -> None:
    # One line each: settings are refused all at once.
    for line in str(error).splitlines():
        print(f"{program}: {line}", file=sys.stderr)
    cause = _cause(error)
    while verbose and cause is not None:
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        print(f"{program}:   caused by {text}", file=sys.stderr)
        cause = _cause(cause)


def _cause(error: BaseException) -> BaseException | None:
    """What a traceback would show as the cause."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _discard_stdout() -> None:
    """Let the interpreter's last flush succeed: whoever read the output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _set_config(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).config_path = value


def _set_verbose(ctx: click.Context, _: click.Parameter, value: object) -> None:
    if value:
        ctx.ensure_object(Invocation).verbose = True


_CONFIG = ("--config",)
_CONFIG_SETTINGS: dict[str, Any] = {
    "metavar": "PATH",
    "expose_value": False,
    "callback": _set_config,
    "help": "Settings file (default: $FLOW_CONFIG, then /etc/flow/flow.toml).",
}
_VERBOSE = ("-v", "--verbose")
_VERBOSE_SETTINGS: dict[str, Any] = {
    "is_flag": True,
    "expose_value": False,
    "callback": _set_verbose,
    "help": "Tell more on stderr, with the causes of a failure.",
}


def _config_option() -> click.Option:
    return click.Option(_CONFIG, **_CONFIG_SETTINGS)


def _verbose_option() -> click.Option:
    return click.Option(_VERBOSE, **_VERBOSE_SETTINGS)
