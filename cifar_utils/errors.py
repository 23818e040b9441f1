"""The errors meant for the user: what was wrong, what was expected, what to do."""


class CifarUtilsError(Exception):
    """Base class of every error this library raises on purpose."""


class DataError(CifarUtilsError):
    """The images or labels are missing, damaged or not CIFAR-10."""


class ParameterError(CifarUtilsError):
    """A name or value given by the user is unknown or of the wrong type."""


class RunError(CifarUtilsError):
    """A run's artifacts are missing, damaged or belong to another configuration."""


class WeightsError(CifarUtilsError):
    """Pretrained weights are missing or do not fit the network."""


class PictureError(CifarUtilsError):
    """A file or array from outside is no picture that can be read."""


class DivergedError(CifarUtilsError):
    """Training led nowhere, and the weights are of no use."""


def nearest(name: str, choices: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice closest to ``name``, and all the choices."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), choices, n=1, cutoff=0.4) or get_close_matches(
        name.upper(), choices, n=1, cutoff=0.4
    )
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(choices)})"
