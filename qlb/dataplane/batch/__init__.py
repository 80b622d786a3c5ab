"""The batch plane: a loop in C that receives, decides and sends many datagrams with few system calls, without the GIL.

plane.py is its Python side. forwarder.h says how the C files divide the work; flat.h, flows.h and aes_native.h
are what user space supplies to the core. module.c, router.c and plane.c are spoken to by Python.
"""
