"""Settings of Flower: nobody gets in without a password, and no page shows a prompt or an answer.

`freddy-tasks flower` starts Flower with this file; for an app of your own, so does
`celery -A your.app flower --conf=` and the path of this file. Flower runs it (it is not imported) and takes
every name in it that is one of its options. A variable `FLOWER_…` of the same name goes before each of them,
and the command line before both.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from flower import command
from tornado.ioloop import IOLoop
from tornado.options import options

from freddy_tasks.continuation import HIDDEN

tasks_columns = os.environ.get(
    "FLOWER_TASKS_COLUMNS", "name,uuid,state,result,received,runtime,worker,retries,eta,args"
)
address = os.environ.get("FLOWER_ADDRESS", "127.0.0.1")

# Celery makes states of the events `task-polling` and `task-cancelled`, whose results are texts of ours.
_OURS = {"POLLING", "CANCELLED"}
_CREDENTIAL = re.compile(r"[^:\s]+:[!-~]+")  # Flower compares ASCII only, and splits at commas

# `/api/task/result` hands out answers, and Flower needs results for nothing else.
os.environ["CELERY_RESULT_BACKEND"] = "disabled://"


def format_task(task: Any) -> Any:
    """A task as Flower's pages show it: what waits says how, what failed says why, the rest is hidden.

    All tasks alike, as your callbacks have answers for arguments.
    """
    task.args = task.kwargs = HIDDEN
    if task.state == "FAILURE":
        task.result = str(task.exception or "").partition("(")[0]
    elif task.state not in _OURS and task.result is not None:
        task.result = HIDDEN
    return task


def _end_between_two_callbacks(signum: int, _: Any) -> None:
    """Flower's answer to SIGTERM, which ends it wherever it is.

    When that is in the middle of the start of a thread, concurrent.futures never learns of the thread, and
    the process waits for it for ever.
    """
    command.logger.info("%s detected, shutting down", signum)
    IOLoop.current().add_callback_from_signal(sys.exit)


def _check_credentials() -> None:
    """End the process unless somebody has to log in; Flower has read environment and command line by now."""
    if options.auth:  # an OAuth provider does it
        return
    if not options.basic_auth:
        sys.exit("Flower cannot start: FLOWER_BASIC_AUTH is not set. Set it to user:password.")
    if not all(
        credential.isascii() and _CREDENTIAL.fullmatch(credential) for credential in options.basic_auth
    ):
        sys.exit(
            "Flower cannot start: FLOWER_BASIC_AUTH is no user:password, or several with commas between "
            "them, in ASCII without blanks."
        )


command.sigterm_handler = _end_between_two_callbacks
_check_credentials()
