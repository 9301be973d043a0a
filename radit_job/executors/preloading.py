"""What the process does from which stages are forked (forked_process.py), when it starts.

It is not of the controller's process group: a signal to the group, from a terminal or a service manager, is for the
controller, which stops the stages in order and needs this process to learn how they ended. It ends with the controller.
"""

from __future__ import annotations

import importlib
import os
import signal
from contextlib import suppress

# By name: the controller itself never imports them.
LIBRARIES = ("radit_job.models.huggingface", "radit_job.models.sentence_encoder", "peft")


def prepare() -> None:
    """Leave the controller's group, let no signal end this process, and import the libraries."""
    with suppress(OSError):
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for library in LIBRARIES:
        with suppress(Exception):  # a stage that needs it says what is wrong, in its log
            importlib.import_module(library)


prepare()  # importing this module is all that multiprocessing can ask of its server
