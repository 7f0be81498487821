"""Freddy's background mode as Celery tasks: submit once, wait without a worker, answer in the AsyncResult."""

from .batch import Batch, BatchItem, BatchResult, process_batch
from .errors import (
    AccessDenied,
    BatchFailed,
    ConfigurationError,
    FreddyError,
    InvalidRequest,
    LedgerLost,
    OutcomeUnknown,
    ResponseCancelled,
    ResponseError,
    ResponseExpired,
    ResponseFailed,
    ResponseIncomplete,
    ResponseLost,
    ResponseTimeout,
    ServiceUnavailable,
    SpendingLimitReached,
    UnsupportedByServer,
    from_result,
)
from .models import ResponseResult
from .tasks import cancel_response, poll_response, process_ai_response

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Batch",
    "BatchFailed",
    "BatchItem",
    "BatchResult",
    "ConfigurationError",
    "FreddyError",
    "InvalidRequest",
    "LedgerLost",
    "OutcomeUnknown",
    "ResponseCancelled",
    "ResponseError",
    "ResponseExpired",
    "ResponseFailed",
    "ResponseIncomplete",
    "ResponseLost",
    "ResponseResult",
    "ResponseTimeout",
    "ServiceUnavailable",
    "SpendingLimitReached",
    "UnsupportedByServer",
    "cancel_response",
    "from_result",
    "poll_response",
    "process_ai_response",
    "process_batch",
]
