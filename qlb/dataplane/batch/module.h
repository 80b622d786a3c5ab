/* What the files of the extension module share. Python is spoken here; core/, flat.h and flows.h know none. */
#ifndef QLB_BATCH_MODULE_H
#define QLB_BATCH_MODULE_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000 /* CPython 3.11 and every later one */
#endif
#include <Python.h>

#include "flat.h"

/* A table of our own: a copy, aligned and checked. */
struct qlb_table {
    void *memory;
    struct qlb_view view;
};

/* Copy a table out of a buffer. Return 0, or -1 with ValueError set where it is not one. */
int qlb_table_copy(struct qlb_table *table, const Py_buffer *octets);

/* Forget a table, or one that was never opened and is zero. */
void qlb_table_free(struct qlb_table *table);

/* layout() -> dict: sizes, offsets and constants, for the test that compares them with Python's. */
PyObject *qlb_layout(PyObject *module, PyObject *unused);

/* class Router: decisions over batches, with flow tables. */
extern PyType_Spec qlb_router_spec;

/* class Forwarder: the batch plane. Linux alone. */
extern PyType_Spec qlb_forwarder_spec;

#endif
