"""The command line: the only room that prints, prompts or chooses an exit code.

`send` must start fast: a small file should cost no more than with scp. So `main` imports what it runs by itself, with
the garbage collector at rest (imports make no garbage; looking for it takes a tenth of their time).
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and leave with the exit code that its outcome has."""
    gc.disable()
    from securexfer.cli.app import build
    from securexfer.cli.terminal import show_error
    from securexfer.dumps import forbid_core_files
    from securexfer.errors import SecurexferError

    forbid_core_files()  # every command may have a password or a key in its memory
    arguments = sys.argv[1:]
    try:
        app = build(arguments)
        gc.enable()
        app(args=arguments, prog_name="securexfer")
    except SecurexferError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has left (`| head`). Point stdout elsewhere so that the flush at exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # no traceback reaches a user unless they ask for it
        if os.environ.get("SECUREXFER_DEBUG"):
            raise
        show_error(
            SecurexferError(
                f"an error inside securexfer: {type(error).__name__}: {error}",
                hint="Please report it, with what SECUREXFER_DEBUG=1 prints for the same command.",
            )
        )
        sys.exit(1)
    finally:
        # Python's last act is to look for garbage in all that was imported, and it takes its time. What is frozen is
        # not looked through.
        gc.freeze()
        try:
            sys.stderr.flush()
        except OSError:  # what could not be said must not become the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
