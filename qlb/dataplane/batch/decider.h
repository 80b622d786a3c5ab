/* The decider: a table and its flow tables, and how new orders replace both.
 *
 * Router and Forwarder use it. qlb_decider_prepare() runs on a Python thread, where it may take time; it sets a Python
 * exception if it fails. qlb_decider_adopt() runs on the thread that decides, between two packets; it cannot fail and
 * does not call Python.
 */
#ifndef QLB_BATCH_DECIDER_H
#define QLB_BATCH_DECIDER_H

#include "module.h"

#include "flows.h"

struct qlb_decider {
    struct qlb_table table;
    struct qlb_flows flows;
    void *flow_memory; /* malloc'd; a null pointer in a prepared decider: the current flow tables stay */
};

/* Prepare a decider for a table. now_size: entries of the flow tables that it will replace, or -1 if there are none.
 * Return 0, or -1 with an exception set and no memory allocated. */
int qlb_decider_prepare(struct qlb_decider *decider, const Py_buffer *table, unsigned long flow_table_size,
                        uint64_t flow_timeout_ns, int64_t now_size);

/* Replace a decider by a prepared one; the entries of the flow tables are moved. next: empty afterwards. Return the
 * rest of the old decider, which the caller passes to qlb_decider_free() when there is time. */
struct qlb_decider qlb_decider_adopt(struct qlb_decider *decider, struct qlb_decider *next);

/* Free a decider's memory. A decider that is zero is fine, too. */
void qlb_decider_free(struct qlb_decider *decider);

#endif
