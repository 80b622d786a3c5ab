/* Outcomes as C computes them. qlb/routing/outcomes.py explains each; constants.h has their numbers.
 *
 * Each packet that a plane receives has exactly one outcome. The outcome of a routable ID is its config ID. From
 * QLB_DROP_SEND_FAILED on, only a plane returns the outcome, never the core.
 */
#ifndef QLB_CORE_OUTCOMES_H
#define QLB_CORE_OUTCOMES_H

#include "constants.h"
#include "types.h"

/* The outcome of a packet whose ID is unroutable and that this step forwarded. */
#define QLB_UNROUTABLE(step, reason) (QLB_CONFIGS + (step) * QLB_REASONS + (reason))

/* Return the route of an outcome that is not a drop: 0 by cid, 1 by flow, 2 by fallback. */
QLB_INLINE uint32_t qlb_route_of(uint32_t outcome)
{
    if (outcome < QLB_CONFIGS)
        return 0;
    return outcome < QLB_UNROUTABLE(QLB_BY_FALLBACK, 0) ? 1 : 2;
}

#endif
