"""What a command's exit status says: nothing is wrong (an unsolved exercise is not wrong), an
answer is wrong, the command could not run, it was interrupted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

NOTHING_WRONG, ANSWER_WRONG, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130


def status_of(command: click.Command, name: str, **given: Any) -> int:
    """Run a click command with the arguments that this process was given. What it cannot help, such
    as a full disk behind its output, is a sentence too.

    given: for click's own `main`.
    """
    import click

    stdout = sys.stdout
    try:
        status = command.main(prog_name=name, standalone_mode=False, **given)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except SystemExit as ended:
        # What it wrote to has read enough: `| head`. click changes stdout, rich raises from the
        # error.
        if sys.stdout is not stdout or isinstance(ended.__context__, BrokenPipeError):
            return NOTHING_WRONG
        return ended.code if isinstance(ended.code, int) else COULD_NOT_RUN
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        click.echo(f"tvm-practice: {error.strerror or error}{named}", err=True)
        return COULD_NOT_RUN
    return status if isinstance(status, int) else NOTHING_WRONG  # click returns what it exits with
