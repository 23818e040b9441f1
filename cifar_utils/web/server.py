"""The application behind a server that is fit for people."""

import socket
from collections.abc import Sequence

from cifar_utils.errors import ParameterError
from cifar_utils.predict import Source
from cifar_utils.web.app import Limits, create

LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(sources: Sequence[Source], host: str, port: int, limits: Limits | None = None) -> None:
    """Serve until interrupted.

    Args:
        sources: See ``app.create``.
        host: Address to listen at; others than this machine can reach it only if it is not one of
            ``LOCAL``.
        port: Where; 0 for any that is free.
        limits: See ``app.Limits``.

    Raises:
        ParameterError: The address cannot be listened at.
    """
    import waitress

    limits = limits or Limits()
    app = create(sources, limits)
    try:
        listening = socket.create_server((host, port), family=_family(host), backlog=256)
    except OSError as error:
        raise ParameterError(
            f"cannot listen at {host}:{port} ({error.strerror}); choose another with --port"
        ) from error
    port = listening.getsockname()[1]
    print(f"serving {sources[0].name} at http://{f'[{host}]' if ':' in host else host}:{port}/")
    if host not in LOCAL:
        print(
            "Note: everybody who can reach this machine can use the page, without a password or "
            "encryption; put a proxy with both before it"
        )
    waitress.serve(
        app,
        sockets=[listening],
        threads=2 * (limits.inside + limits.waiting),
        channel_timeout=30,
        max_request_body_size=limits.body,
        inbuf_overflow=limits.body + 1,  # above which it would write a file
        ident=None,
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
