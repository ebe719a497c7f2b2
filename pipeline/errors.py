"""Every error of ours, sorted by what the caller does next.

PipelineError
  JobError          exit 2    the job is broken; nothing was sent
  StorageError      exit 1    an answer or the output could not be kept; the run stops
  GuardFailed       exit 6    a guard on the input failed, or consent is missing; nothing was sent
  Stopped           exit 4    a limit of the user's is reached: budget, finish_by; resumable
  RunRejected       exit 5    the API rejects every row alike: key, credit, model
  Unavailable       exit 75   try again later: another run holds the journal, or the API is out
  Interrupted       exit 130  Ctrl-C, or 143 for SIGTERM; resumable
  RowError                    this row fails before it is sent; the others go on
  TransportError              one attempt did not work
    Refused                   the server would say it again: 400, 413
    Busy                      worth another attempt: 408, 409, 429, 5xx, a dropped line
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PassingErrorType = Literal[
    "rate_limit", "overloaded", "server_error", "timeout", "connection", "deadline", "image_fetch"
]
LastingErrorType = Literal[
    "bad_request",
    "too_long",
    "over_limit",
    "schema_mismatch",
    "template",
    "image_missing",
    "image_corrupt",
    "image_unsupported",
    "image_too_large",
    "image_bomb",
    "image_blocked",
]
ErrorType = PassingErrorType | LastingErrorType

PASSING: frozenset[str] = frozenset(get_args(PassingErrorType))
LASTING: frozenset[str] = frozenset(get_args(LastingErrorType))


class PipelineError(Exception):
    """An error whose words are meant for the person who runs the job."""

    exit_code = 1
    reason = "error"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing wrong with a job.

    Attributes:
        where: ``file:line:column``, as far as it is known.
        path: the dotted place in the job file, such as ``prompt.user``; empty for the file itself.
        message: what is wrong, what was found, what would be right; one line, lower case.
    """

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        """Read as ``file:line:column: path: message``, leaving out what is empty."""
        return ": ".join(part for part in (self.where, self.path, self.message) if part)


class JobError(PipelineError):
    """The job is broken; nothing was sent. Carries every complaint, not only the first."""

    exit_code = 2
    reason = "broken_job"

    def __init__(self, *complaints: Complaint | str) -> None:
        self.complaints = tuple(c if isinstance(c, Complaint) else Complaint("", "", c) for c in complaints)
        super().__init__("\n".join(map(str, self.complaints)))


class StorageError(PipelineError):
    """An answer or the output could not be kept; the run stops, and what was committed stays."""


class Stopped(PipelineError):
    """A limit of the user's is reached, and nothing more is sent; a larger one lets the run go on.

    Attributes:
        limit: its name within its section of the job: `run_usd`, `month_usd`, `finish_by`.
    """

    exit_code = 4

    def __init__(self, message: str, reason: Literal["budget", "finish_by"], limit: str) -> None:
        self.reason = reason
        self.limit = limit
        super().__init__(message)


class GuardFailed(PipelineError):
    """A guard on the input failed, or consent is missing; nothing was sent."""

    exit_code = 6
    reason = "guard"


class RunRejected(PipelineError):
    """The API rejects every row alike: the key, the credit, the model or the path. The message says what to do.

    Attributes:
        http_status: of the answer that says so; None where there was none, as with a wrong certificate.
        request_id: of that answer.
    """

    exit_code = 5
    reason = "api_rejected"

    def __init__(self, message: str, *, http_status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.request_id = request_id


class Unavailable(PipelineError):
    """Try again later: another run holds the journal (``locked``), or the API is out (``outage``)."""

    exit_code = 75

    def __init__(self, message: str, reason: Literal["locked", "outage"]) -> None:
        self.reason = reason
        super().__init__(message)


class Interrupted(PipelineError):
    """Somebody stopped the run: Ctrl-C (exit 130) or SIGTERM (exit 143). Running it again goes on."""

    reason = "interrupted"

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__("interrupted" if self.exit_code == 130 else "terminated")


class RowError(PipelineError):
    """This row fails before it is sent; nothing is billed and the others go on."""

    def __init__(self, error_type: ErrorType, message: str) -> None:
        self.error_type = error_type
        super().__init__(message)


class TransportError(PipelineError):
    """One attempt did not work.

    Attributes:
        error_type: one of the closed list above, as it stands in the output's ``error_type``.
        http_status: the status the server gave, if it gave one.
        request_id: the server's name of the call, if it gave one.
        maybe_billed: the call was sent and its fate is unknown, so it may have been billed.
    """

    def __init__(
        self,
        error_type: ErrorType,
        message: str,
        *,
        http_status: int | None = None,
        request_id: str | None = None,
        maybe_billed: bool = False,
    ) -> None:
        self.error_type = error_type
        self.http_status = http_status
        self.request_id = request_id
        self.maybe_billed = maybe_billed
        super().__init__(message)


class Refused(TransportError):
    """The server would say it again; the row fails."""


class Busy(TransportError):
    """Worth another attempt.

    Attributes:
        wait_secs: seconds the server asked to wait, if it did.
        shared: everybody who shares the limit should slow down (429, 529), not this row alone.
        rate: what the server said of its rate limits beside, `records.RateHeaders`, where that was read.
    """

    def __init__(
        self,
        error_type: ErrorType,
        message: str,
        *,
        http_status: int | None = None,
        request_id: str | None = None,
        maybe_billed: bool = False,
        wait_secs: float | None = None,
        shared: bool = False,
    ) -> None:
        self.wait_secs = wait_secs
        self.shared = shared
        self.rate: object = None
        super().__init__(error_type, message, http_status=http_status, request_id=request_id, maybe_billed=maybe_billed)
