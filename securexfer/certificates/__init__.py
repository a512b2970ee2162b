"""The CA and the certificates it issues; the only room that imports `cryptography`.

A server's directory holds four files: `ca.pem` and `ca.key` (the CA, 10 years), `server.pem` and `server.key` (what
`serve` shows, 90 days). The rules kept here:

* A private key is created 0600 and never readable by others, and none is overwritten without a copy being kept.
* The files change as one: killed at any moment, the next command finds the old set or the new one (see `files`).
* Nobody needs `ca.key` to serve: only issuing opens it, so it can live elsewhere in between.
* The server's certificate carries its CA, so that whoever knows the CA's fingerprint can fetch the CA from the server
  (see `embedded_ca`).

`making` makes keys and certificates and says what is in them, `reading` reads the directory and judges it, `changing`
changes it.
"""

from securexfer.certificates.changing import Issued, initialise, initialising, renew
from securexfer.certificates.making import embedded_ca, fingerprint, names_of
from securexfer.certificates.reading import ServerCertificate, ca_pem, describe, load
from securexfer.hosts import default_names, parse_name

__all__ = [
    "Issued",
    "ServerCertificate",
    "ca_pem",
    "default_names",
    "describe",
    "embedded_ca",
    "fingerprint",
    "initialise",
    "initialising",
    "load",
    "names_of",
    "parse_name",
    "renew",
]
