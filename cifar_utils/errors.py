"""The errors meant for the user: what was wrong, what was expected, what to do."""


class CifarUtilsError(Exception):
    """Base class of every error this library raises on purpose.

    Attributes:
        status: Exit status of the command ``cifar`` that ends with it.
    """

    status = 1


class DataError(CifarUtilsError):
    """The images or labels are missing, damaged or not CIFAR-10."""


class ParameterError(CifarUtilsError):
    """A name or value given by the user is unknown or of the wrong type."""

    status = 2


class RunError(CifarUtilsError):
    """A run's artifacts are missing, damaged or belong to another configuration."""


class CellError(RunError):
    """A cell of a notebook failed."""

    status = 3


class KernelDiedError(RunError):
    """The process that ran a notebook ended by itself or was killed."""

    status = 4


class MemoryRanOutError(RunError):
    """A notebook needed more memory than there was."""

    status = 5


class CellTimeoutError(RunError):
    """A cell took longer than was allowed."""

    status = 6


class UpstreamError(RunError):
    """A stage builds on one that has not finished, or whose files are damaged."""

    status = 7


class DiskFullError(RunError):
    """There is no room left for what a run writes."""

    status = 8


class NoGpuError(RunError):
    """A GPU was asked for and there is none that the backend can use."""

    status = 9


class DifferentError(RunError):
    """A rerun did not give what the run gave that it repeats."""

    status = 10


class StoppedError(RunError):
    """The user stopped a run."""

    status = 130


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
