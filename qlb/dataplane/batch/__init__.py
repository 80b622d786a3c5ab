"""The batch plane: a loop in C that receives, decides and sends many datagrams with few system calls, without the GIL.

plane.py is its Python side. forwarder.h describes the C files. flat.h, flows.h and aes_native.h supply the functions
that the core needs in user space. module.c, router.c and plane.c define the extension for Python.
"""

import importlib


def what_lacks() -> str:
    """Return what this machine lacks to run the batch plane; empty if it lacks nothing."""
    try:
        core = importlib.import_module("qlb.dataplane._core")
    except ImportError:
        return "the C extension was not built when qlb was installed (this needs a C compiler and Python's headers)"
    return "" if hasattr(core, "Forwarder") else "this system is not Linux"
