"""Have the kernel kill this process when its parent dies, whatever state this process is in.

Spec: PR_SET_PDEATHSIG in prctl(2). The signal is sent when the thread that started this process ends; the supervisor
starts its workers from its main thread.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> bool:
    """Ask for SIGKILL at the parent's end. Return False if the parent has ended already.

    On systems other than Linux this only looks whether the parent is there.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # Python without ctypes: the channel's end must do
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent  # it may have ended before the kernel was asked
