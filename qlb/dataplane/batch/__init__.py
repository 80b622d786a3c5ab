"""The batch plane: a loop in C that receives, decides and sends many datagrams with few system calls, without the GIL.

plane.py is its Python side. forwarder.h says how the C files divide the work; flat.h, flows.h and aes_native.h
are what user space supplies to the core. module.c, router.c and plane.c are spoken to by Python.
"""

import importlib


def what_lacks() -> str:
    """Return what this machine lacks to run it; empty where it has all."""
    try:
        core = importlib.import_module("qlb.dataplane._core")
    except ImportError:
        return "the C extension was not built when qlb was installed (it wants a C compiler and Python's headers)"
    return "" if hasattr(core, "Forwarder") else "this system is not Linux"
