"""The application behind a server that is fit for people."""

import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from cifar_utils.errors import ParameterError
from cifar_utils.predict import Source
from cifar_utils.web.app import Limits, create

LOCAL = ("127.0.0.1", "::1", "localhost")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Address of this machine, or a name of it.
        port: 0 for any that is free.

    Raises:
        ParameterError: The address cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ParameterError(
            f"cannot listen at {host}:{port} ({error}); choose another with --host and --port"
        ) from error


def make(
    sources: Sequence[Source], listening: socket.socket, limits: Limits, *, framed: bool = False
) -> Any:
    """Return a waitress server; its ``run`` serves until its ``close`` is called.

    Args:
        sources: See ``app.create``.
        listening: See ``listen``.
        limits: See ``app.Limits``.
        framed: See ``app.create``.

    Raises:
        CifarUtilsError: There is no model, or the first cannot be loaded.
    """
    from waitress import server

    above = limits.max_bytes + 1_000_000  # so that the application refuses, which says why
    return server.create_server(
        create(sources, limits, framed=framed),
        sockets=[listening],
        # Each that works or waits has a thread, and a few are left to turn others away.
        threads=limits.concurrency + limits.queue + 4,
        channel_timeout=30,
        max_request_body_size=above,
        inbuf_overflow=above + 1,  # above which it would write a file
        ident=None,
    )


def serve(
    sources: Sequence[Source], host: str, port: int, limits: Limits, *, framed: bool = False
) -> None:
    """Serve until interrupted or terminated.

    Args:
        sources: See ``app.create``.
        host: Address to listen at; others than this machine can reach it only if it is not one of
            ``LOCAL``.
        port: Where; 0 for any that is free.
        limits: See ``app.Limits``.
        framed: See ``app.create``.

    Raises:
        ParameterError: The address cannot be listened at.
        CifarUtilsError: There is no model, or the first cannot be loaded.
    """
    listening = listen(host, port)
    server = make(sources, listening, limits, framed=framed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {sources[0].name} at http://{shown}:{listening.getsockname()[1]}/", flush=True)
    who = (
        "only this machine can reach it"
        if host in LOCAL
        else "everybody who can reach this machine can use it, without a password or encryption; "
        "put a proxy with both before it"
    )
    print(f"{who}; Ctrl-C ends it", flush=True)
    try:
        server.run()
    finally:
        server.close()
