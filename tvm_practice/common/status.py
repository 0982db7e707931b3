"""What a command's exit status says: nothing is wrong (an unsolved exercise is not wrong), an
answer is wrong, the command could not run, it was interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

NOTHING_WRONG, ANSWER_WRONG, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130


def status_of(command: click.Command, name: str) -> int:
    """Run a click command with the arguments that this process was given. What it cannot help, such
    as a full disk behind its output, is a sentence too."""
    import click

    try:
        command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # what it wrote to has read enough
            return NOTHING_WRONG
        return ended.code if isinstance(ended.code, int) else COULD_NOT_RUN
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        click.echo(f"tvm_practice: {error.strerror or error}{named}.", err=True)
        return COULD_NOT_RUN
    return NOTHING_WRONG
