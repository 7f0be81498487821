"""Many prompts at once: a chord underneath, a handle on top, and every answer accounted for, in order."""

from . import watch as watch  # its step joins every worker
from .handle import Batch, process_batch
from .progress import Progress
from .result import BatchItem, BatchResult, Outcome

__all__ = ["Batch", "BatchItem", "BatchResult", "Outcome", "Progress", "process_batch"]
