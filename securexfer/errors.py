"""What can go wrong: who must act, the exit code, and the word that names it in logs and reports.

Each class knows its consequences, so there is no mapping table anywhere else:

* ``exit_code`` is the contract of the command line (0 is success and has no class here);
* ``reason`` is the short word written to logs and to ``--json``;
* the docstring is the hint a user reads when the place that raised had no better one.

``except SecurexferError`` catches everything that is ours.
"""

from __future__ import annotations

from typing import ClassVar


class SecurexferError(Exception):
    """Run the command again with --help, or see docs/troubleshooting.md."""

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "ERROR"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self._hint = hint

    @property
    def hint(self) -> str:
        """The next step for whoever reads this: one or two sentences, or a command line."""
        return self._hint if self._hint is not None else (type(self).__doc__ or "")


# -- 2: the command line or the set-up ---------------------------------------------------------------------


class UsageError(SecurexferError):
    """Run the command again with --help to see what it takes."""

    exit_code = 2
    reason = "USAGE"


class ConfigurationError(SecurexferError):
    """Mend the file that is named, then run the command again."""

    exit_code = 2
    reason = "CONFIG"


class SandboxError(ConfigurationError):
    """Nothing that was sent is run without its sandbox. See docs/troubleshooting.md."""

    reason = "SANDBOX"


# -- 3: the server cannot be trusted -----------------------------------------------------------------------


class UntrustedServerError(SecurexferError):
    """Ask whoever runs the server for its fingerprint (`securexfer cert show` there), and trust it anew."""

    exit_code = 3
    reason = "UNTRUSTED"


class WrongNameError(UntrustedServerError):
    """On the server: securexfer cert renew --name NAME. The CA stays, so nobody has to trust again."""

    reason = "WRONG-NAME"


class NotSecurexferError(UntrustedServerError):
    """Check the host and the port: `securexfer serve` prints both where it runs."""

    reason = "VERSION"


# -- 4: login ----------------------------------------------------------------------------------------------


class LoginRefusedError(SecurexferError):
    """Check the user name and the password. Whoever runs the server can set a new one: securexfer user passwd NAME."""

    exit_code = 4
    reason = "AUTH"
    detail: str = ""  # why, on the server and for its log only: every client gets the same answer


# -- 5: refused by the server ------------------------------------------------------------------------------


class RefusedError(SecurexferError):
    """The server did not store it. Its log says why; whoever runs the server can look there."""

    exit_code = 5
    reason = "REFUSED"


class UnsafeNameError(RefusedError):
    """Rename the file: plain relative names made of letters, digits, dots, dashes and underscores always work."""

    reason = "NAME"


class NameTakenError(RefusedError):
    """Other content stands under this name on the server: rename the file, or send it to another directory."""

    reason = "EXISTS"


class QuotaExceededError(RefusedError):
    """Your quota on the server is used up: ask whoever runs it to make room or to raise --quota."""

    reason = "QUOTA"


class NoSpaceError(RefusedError):
    """The server's disk is full down to its reserve: whoever runs it must make room."""

    reason = "NOSPACE"


class LimitExceededError(RefusedError):
    """The server has a limit on this: whoever runs it can raise it."""

    reason = "LIMIT"


class StorageFailedError(RefusedError):
    """The server's disk failed: whoever runs it finds the error in its log."""

    reason = "IO"


class SkippedError(RefusedError):
    """Other content stands under this name on the server, and the policy in force is to leave it there."""

    reason = "SKIPPED"


class PolicyRefusedError(RefusedError):
    """The server does not allow this --on-conflict: leave it out, or ask whoever runs it for --allow-conflict."""

    reason = "POLICY"


class ChangedError(RefusedError):
    """What the server has of it is not the beginning of this file: it has to be sent from the start."""

    reason = "CHANGED"


class AbortedError(RefusedError):
    """The sender broke it off: the reason is given on the sender's side."""

    reason = "ABORTED"


# -- 6: integrity ------------------------------------------------------------------------------------------


class IntegrityError(SecurexferError):
    """Send it again. If it happens again, test the memory, the disk and the network card of both machines."""

    exit_code = 6
    reason = "INTEGRITY"


class DigestMismatchError(IntegrityError):
    """What arrived is not what was sent. Send it again; if it happens again, test both machines' memory."""

    reason = "DIGEST"


class TruncatedError(IntegrityError):
    """The connection ended early: send again. Files already stored are recognised and count as success."""

    reason = "TRUNCATED"


class SessionEndedError(TruncatedError):
    """The server has had enough of this session, and ended it in order: send the rest again."""


# -- 75: try again later -----------------------------------------------------------------------------------


class TryAgainError(SecurexferError):
    """Try again in a minute."""

    exit_code = 75
    reason = "RETRY"


class UnreachableError(TryAgainError):
    """Check that `securexfer serve` is running there, and the host and port it printed."""

    reason = "UNREACHABLE"


class BusyError(TryAgainError):
    """The server has as much to do as it allows itself. Try again in a minute."""

    reason = "BUSY"


class ThrottledError(TryAgainError):
    """Too many failed logins. Wait as long as it says, then try again."""

    reason = "THROTTLED"

    def __init__(self, message: str, *, hint: str | None = None, seconds: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.seconds = seconds  # until then; 0 where that is not known


class PeerTimeoutError(TryAgainError):
    """The other side said nothing for too long: check the network between the two machines, then send again."""

    reason = "TIMEOUT"


class ShuttingDownError(TryAgainError):
    """The server is being shut down. Try again when it runs again."""

    reason = "SHUTDOWN"


# -- the rest ----------------------------------------------------------------------------------------------


class ProtocolError(SecurexferError):
    """The other side does not speak the protocol as docs/PROTOCOL.md gives it. Compare both `securexfer --version`."""

    reason = "PROTO"


class SourceError(SecurexferError):
    """Check the file that is named, then send it again."""

    reason = "SOURCE"


class ResultsError(SecurexferError):
    """What was sent is stored; only what was made of it is not here. Choose another directory, then send it again."""

    reason = "RESULTS"


class PartlyStoredError(SecurexferError):
    """Some files were stored, others failed: each of those is named above, with the reason."""

    exit_code = 7
    reason = "PARTLY"


class InterruptedTransferError(SecurexferError):
    """Send again: files already stored are recognised and count as success."""

    exit_code = 130
    reason = "INTERRUPTED"


# What a server may say of a file or a session. (Nothing that it says can be a fault of ours, or an interrupt.)
_SAID = (RefusedError, LoginRefusedError, IntegrityError, TryAgainError, ProtocolError)


def refusal(reason: str, message: str) -> SecurexferError:
    """Return the error that a reason on the wire stands for; RefusedError for one that is not known here."""
    found: list[type[SecurexferError]] = list(_SAID)
    for kind in found:
        if kind.reason == reason:
            return kind(message)
        found += kind.__subclasses__()
    return RefusedError(message)
