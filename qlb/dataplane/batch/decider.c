/* Prepare, replace and free a decider. decider.h explains it. */
#include "decider.h"

#include <stdlib.h>
#ifdef __APPLE__
#include <sys/random.h>
#else
#include <unistd.h>
#endif

/* Allocate empty flow tables. Return 0, or -1 with an exception set. */
static int flows_new(struct qlb_decider *decider, unsigned long size, uint64_t timeout_ns)
{
    uint64_t secret[2];
    if (size > QLB_MAX_FLOWS) {
        PyErr_Format(PyExc_ValueError, "flow_table_size is %lu, but must be at most %lu entries", size,
                     (unsigned long)QLB_MAX_FLOWS);
        return -1;
    }
    if (getentropy(secret, sizeof secret) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    decider->flow_memory = malloc((size_t)qlb_flows_bytes((uint32_t)size));
    if (!decider->flow_memory) {
        PyErr_NoMemory();
        return -1;
    }
    qlb_flows_open(&decider->flows, decider->flow_memory, (uint32_t)size, timeout_ns, secret);
    return 0;
}

int qlb_decider_prepare(struct qlb_decider *decider, const Py_buffer *table, unsigned long flow_table_size,
                        uint64_t flow_timeout_ns, int64_t now_size)
{
    struct qlb_decider next = {.flows = {.timeout_ns = flow_timeout_ns}};
    if (qlb_table_copy(&next.table, table) < 0)
        return -1;
    if ((int64_t)flow_table_size != now_size && flows_new(&next, flow_table_size, flow_timeout_ns) < 0) {
        qlb_decider_free(&next);
        return -1;
    }
    *decider = next;
    return 0;
}

struct qlb_decider qlb_decider_adopt(struct qlb_decider *decider, struct qlb_decider *next)
{
    struct qlb_decider old = *decider;
    if (!next->flow_memory) {
        next->flow_memory = old.flow_memory;
        const uint64_t timeout_ns = next->flows.timeout_ns;
        next->flows = old.flows;
        next->flows.timeout_ns = timeout_ns;
        old.flow_memory = NULL;
    } else if (old.flow_memory) {
        qlb_flows_move(&next->flows, &old.flows);
    }
    *decider = *next;
    *next = (struct qlb_decider){.flow_memory = NULL};
    return old;
}

void qlb_decider_free(struct qlb_decider *decider)
{
    qlb_table_free(&decider->table);
    free(decider->flow_memory);
    decider->flow_memory = NULL;
}
