/* Declarations that the files of the extension module share.
 *
 * This header and the files that include it use the Python API; core/, flat.h and flows.h do not.
 */
#ifndef QLB_BATCH_MODULE_H
#define QLB_BATCH_MODULE_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000 /* CPython 3.11 and every later one */
#endif
#include <Python.h>

#include "flat.h"

/* A table that the module owns: an aligned and validated copy. */
struct qlb_table {
    void *memory;
    struct qlb_view view;
};

/* Copy a table from a buffer. Return 0, or -1 with an exception set: ValueError if the buffer is not a valid table. */
int qlb_table_copy(struct qlb_table *table, const Py_buffer *octets);

/* Free a table. A table that is zero because it was never opened is fine, too. */
void qlb_table_free(struct qlb_table *table);

/* class Router: decides batches of datagrams, with flow tables. */
extern PyType_Spec qlb_router_spec;

/* class Forwarder: the batch plane. Only on Linux. */
extern PyType_Spec qlb_forwarder_spec;

#endif
