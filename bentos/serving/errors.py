"""The errors every room builds on.

    ShipwayError
    ├── TransientError   trying the same call again may succeed; tasks retry only these
    └── PermanentError   the same call will fail again until something is changed

Each room subclasses these with its own noun. A message names the object, what was found, what was expected, and what
to do next.
"""


class ShipwayError(Exception):
    """Base of every error that Shipway raises on purpose."""


class TransientError(ShipwayError):
    """The same call may succeed later: a part is away, busy or still starting."""


class PermanentError(ShipwayError):
    """The same call fails until its input, the policy or the world is changed."""


def brief(error: BaseException) -> str:
    """Somebody else's *error* in one line of a message: its class, and 300 characters of its words at most."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
