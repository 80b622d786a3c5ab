/* The slots of the counters, for the batch plane and the XDP plane.
 *
 * qlb/routing/counters.py has the same layout and explains each slot. tests/dataplane/core/test_layout.py compares the
 * two.
 */
#ifndef QLB_CORE_COUNTERS_H
#define QLB_CORE_COUNTERS_H

#include "outcomes.h"
#include "table.h"

enum {
    QLB_SLOT_PACKETS_RECEIVED,
    QLB_SLOT_BYTES_RECEIVED,
    QLB_SLOT_SESSIONS,
    QLB_SLOT_SESSIONS_EVICTED,
    QLB_SLOT_RETURN_DROPPED,
    QLB_SLOT_RETURN_OVERFLOWED,
    QLB_SLOT_SEND_ERRORS,
    QLB_SLOT_SESSIONS_REOPENED,
    QLB_SLOT_SESSIONS_PROTECTED,
    QLB_SLOT_RETURN_PAUSES,
    QLB_SLOT_ICMP_FORWARDED = 12,
    QLB_SLOT_ICMP_SENT,
    QLB_SLOT_HEARTBEAT_MS,
};

#define QLB_SLOT_OUTCOME 16
#define QLB_SLOT_CONFIG_LAST_SEEN_MS 80
#define QLB_SLOT_UNCONFIGURED 88
#define QLB_SLOT_UNCONFIGURED_LAST_SEEN_MS 96
#define QLB_SLOT_BACKEND 104
#define QLB_BACKEND_SLOTS 16
#define QLB_BACKEND_RETURNED 3 /* slots 0 to 2: packets forwarded by cid, flow, fallback */
#define QLB_BACKEND_LAST_SEEN_MS 4
#define QLB_BACKEND_TOO_LARGE_BYTES 5
#define QLB_BACKEND_SEND_ERRORS 8
#define QLB_SLOT_SAMPLE (QLB_SLOT_BACKEND + QLB_BACKEND_SLOTS * QLB_MAX_BACKENDS)
#define QLB_SAMPLE_SLOTS 10
#define QLB_SAMPLE_BYTES 64
#define QLB_SLOT_RETURN_SEND_ERRORS (QLB_SLOT_SAMPLE + QLB_SAMPLE_SLOTS * QLB_OUTCOMES)
#define QLB_SEND_ERROR_KINDS 8
#define QLB_COUNTER_SLOTS (QLB_SLOT_RETURN_SEND_ERRORS + QLB_SEND_ERROR_KINDS)

/* Return the route of an outcome that is not a drop: 0 by cid, 1 by flow, 2 by fallback. */
QLB_INLINE uint32_t qlb_route_of(uint32_t outcome)
{
    if (outcome < QLB_CONFIGS)
        return 0;
    return outcome < QLB_UNROUTABLE(QLB_BY_FALLBACK, 0) ? 1 : 2;
}

#endif
