"""The one exception that a user can cause, and the one way to ask for an optional package."""

import importlib
from types import ModuleType

__all__ = ["UserError", "require"]


class UserError(ValueError):
    """A mistake that the user can mend: one sentence naming the value, what was expected and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise
        name = module.split(".")[0]
        raise UserError(
            f"this needs the package {name!r}, which is not installed: pip install 'infimum[{extra}]'"
        ) from None
