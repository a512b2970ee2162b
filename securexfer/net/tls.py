"""Builds the only TLS contexts there are: TLS 1.3, the private CA alone, names checked, no tickets.

Contexts are built by hand because `ssl.create_default_context` trusts the system's authorities and writes
session keys to a file when SSLKEYLOGFILE is set. There is no option that weakens any of this.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from securexfer.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# From 3.5 on the default offers the hybrid X25519MLKEM768 first, and naming a curve would switch that off.
HYBRID = ssl.OPENSSL_VERSION_INFO >= (3, 5)


def server_context(certificate: Path, key: Path, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return the context of a server that shows `certificate` and speaks `protocols` (ALPN, the preferred first).

    Raises ssl.SSLError or OSError if the two files do not make a pair.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, protocols)
    if not HYBRID:
        # One curve instead of OpenSSL's eight. (Clients offer all of them, so they meet either.)
        try:
            context.set_ecdh_curve("X25519")
        except ssl.SSLError:  # Debian 12's Python, 3.11.2, can name only curves of the older kind here
            context.set_ecdh_curve("prime256v1")
    context.num_tickets = 0  # every session is a full handshake: nothing to steal, nothing to replay
    # An encrypted key would make OpenSSL ask on the terminal; an empty answer makes it fail instead.
    context.load_cert_chain(certificate, key, password="")  # nosec B106 # no password at all
    return context


def client_context(authorities: str, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return the context of a client that trusts exactly the CA certificates in the PEM text `authorities`.

    Raises ConfigurationError, before anything is sent, if the text holds no CA certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # requires a certificate and checks the name
    _restrict(context, protocols)
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError("the CA file holds no certificate", hint=_CA_HINT) from error
    held = context.cert_store_stats()
    if not held["x509_ca"] or held["x509"] != held["x509_ca"]:
        raise ConfigurationError("the CA file holds a certificate that is not a CA's", hint=_CA_HINT)
    return context


def offer() -> str:
    """Return which OpenSSL this is and which key exchange the contexts made here prefer, for people."""
    exchange = "X25519MLKEM768 (hybrid, post-quantum)" if HYBRID else "X25519 (OpenSSL 3.5 would add post-quantum)"
    return f"{ssl.OPENSSL_VERSION}; key exchange {exchange}"


_CA_HINT = "Give the server's ca.pem: `securexfer cert show --pem` prints it there."


def _restrict(context: ssl.SSLContext, protocols: Sequence[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Some builds of Python (Debian 12's 3.11.2) ask OpenSSL to take a cut connection for an orderly end.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols(list(protocols))
