"""TLS of a node: what it shows, and whom it trusts."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Credentials:
    """Files in PEM.

    Args:
        certificate: the node's own, with those that lead to the authority, if need be.
        key: the private key of it.
        authority: certificates that peers' must be signed by.
    """

    certificate: Path
    key: Path
    authority: Path

    def server(self) -> ssl.SSLContext:
        """Return what takes connections, from those alone who show a certificate of the authority.

        Raises:
            OSError: a file cannot be read, or does not hold what it should.
        """
        context = self._of(ssl.Purpose.CLIENT_AUTH)
        # pynetdicom wraps a connection where it accepts them: the handshake is left to the connection's own thread, so
        # that one who says nothing keeps nobody else out.
        context.wrap_socket = functools.partial(context.wrap_socket, do_handshake_on_connect=False)  # type: ignore[method-assign]
        return context

    def client(self) -> ssl.SSLContext:
        """Return what makes connections, to hosts alone that a certificate of the authority names.

        Raises:
            OSError: a file cannot be read, or does not hold what it should.
        """
        return self._of(ssl.Purpose.SERVER_AUTH)

    def _of(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        context = ssl.create_default_context(purpose, cafile=str(self.authority))
        context.load_cert_chain(str(self.certificate), str(self.key))
        context.verify_mode = ssl.CERT_REQUIRED
        return context
