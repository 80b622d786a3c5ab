/* What decides: a table and the flow tables beside it, and how both are replaced by new orders.
 *
 * New ones are prepared where there is time (a Python thread), and taken over where packets are decided (between
 * two of them). Preparing sets a Python exception where it fails; taking over cannot fail and knows no Python.
 */
#ifndef QLB_BATCH_DECIDER_H
#define QLB_BATCH_DECIDER_H

#include "module.h"

#include "flows.h"

struct qlb_decider {
    struct qlb_table table;
    struct qlb_flows flows;
    void *flow_memory; /* malloc'd; a null pointer: the flow tables are to be those that there are */
};

/* Make a decider for a table. now_size: entries of the flow tables that it will replace, or -1 where there are
 * none. Return 0, or -1 with an exception set and nothing held. */
int qlb_decider_prepare(struct qlb_decider *decider, const Py_buffer *table, unsigned long flow_table_size,
                        uint64_t flow_timeout_ns, int64_t now_size);

/* Take a prepared decider's place of the one before; what the flow tables hold comes along. next: empty after it.
 * Return what is left over of the old one, to be given to qlb_decider_free() when there is time. */
struct qlb_decider qlb_decider_adopt(struct qlb_decider *decider, struct qlb_decider *next);

/* Free what a decider holds, or one that is zero. */
void qlb_decider_free(struct qlb_decider *decider);

#endif
