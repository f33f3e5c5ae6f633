"""How the command ends: words and an exit code for whatever went wrong, and for Ctrl-C."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any

import typer
from typer.core import TyperGroup

from contextae.errors import UserError

EXIT_USER, EXIT_BUG, EXIT_INTERRUPTED = 2, 70, 130


class Verbs(TyperGroup):
    """The verbs, where Ctrl-C is answered in words: Typer itself would end without any."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("\nStopped at once. What had been saved before is still there.", err=True)
            sys.exit(EXIT_INTERRUPTED)


class Reported:
    """Turns what went wrong into one paragraph and an exit code; `--debug` shows the traceback as well."""

    debug = False

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or isinstance(error, SystemExit):
            return
        if Reported.debug:
            traceback.print_exception(error)
        if isinstance(error, UserError):
            typer.echo(f"Error: {error}", err=True)
            sys.exit(EXIT_USER)
        if not Reported.debug:
            traceback.print_exception(error)
        typer.echo("This is a defect of contextae, not of your input; please report it with the lines above.", err=True)
        sys.exit(EXIT_BUG)
