"""The command line. The first word is dispatched by hand, so that ``list`` and ``--help`` import nothing heavy."""

import importlib
import io
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {
    "list": ("infimum.cli.listing", "recipes: paper, task, embedded data, minutes"),
    "run": ("infimum.cli.run", "train and evaluate a recipe: infimum run NAME [--flags]"),
    "evidence": ("infimum.cli.evidence", "held-out log-evidence of a checkpoint, with error and certificate"),
    "sample": ("infimum.cli.sample", "draw items from a checkpoint"),
    "select": ("infimum.cli.select", "number of components or clusters of a table: infimum select FILE"),
    "compare": ("infimum.cli.compare", "which of two runs has the higher evidence: better, worse or undecided"),
    "report": ("infimum.cli.report", "one page of a run, or of several side by side: infimum report RUN..."),
    "doctor": ("infimum.cli.doctor", "what is installed, and whether the engine gives exact answers here"),
}


def usage() -> str:
    """The root help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: infimum COMMAND [options]        infimum COMMAND --help",
            "",
            "Train, estimate and compare latent-variable models by their evidence bounds.",
            "",
            *lines,
        ]
    )


def _refuse(sentence: str) -> int:
    """Say it in one line, whatever the user's strings hold; the exit code of a user's mistake."""
    text = " ".join(sentence.split("\n")).encode("utf-8", "backslashreplace").decode()
    if len(text) > 1500:
        text = f"{text[:700]} [...] {text[-700:]}"
    print(f"infimum: {text}", file=sys.stderr)
    return 2


def _print_anything() -> None:
    """Characters that standard output has no bytes for, such as those of a text where the terminal is ASCII, are escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _machine(error: BaseException) -> str | None:
    """One sentence for what the machine refused: a path, or memory; None for anything else, which is a fault of ours."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}: choose a path that can be written and read"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return f"the machine ran out of memory ({text}): lower the number of draws or --rows"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a mistake of the user is one sentence on standard error and exit code 2."""
    from infimum import __version__
    from infimum.errors import UserError

    _print_anything()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any("\0" in word for word in words):
        return _refuse("an argument holds a NUL character, which no name or number has: leave it out")
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"infimum {__version__}")
        return 0
    if words[0] not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ":"
        return _refuse(f"there is no command {words[0]!r}{hint} use one of {', '.join(COMMANDS)}")
    try:
        command = importlib.import_module(COMMANDS[words[0]][0])
        return int(command.main(words[1:]))
    except UserError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError, RuntimeError) as error:
        sentence = _machine(error)
        if sentence is None:
            raise
        return _refuse(sentence)
    except KeyboardInterrupt:
        print("infimum: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
