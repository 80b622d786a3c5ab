/* Every outcome of a packet, as a small integer. Each packet that a plane receives has exactly one.
 *
 * qlb/routing/outcomes.py has the same numbers and explains each. tests/dataplane/core/test_layout.py compares the two.
 */
#ifndef QLB_CORE_OUTCOMES_H
#define QLB_CORE_OUTCOMES_H

/* Config IDs 0 to 6; the outcome of a routable ID is its config ID. */
#define QLB_CONFIGS 7
#define QLB_RESERVED_CONFIG_ID 7

/* Why a connection ID is unroutable. */
enum {
    QLB_NO_CONFIG,
    QLB_RESERVED_CONFIG,
    QLB_TOO_SHORT,
    QLB_LENGTH_MISMATCH,
    QLB_UNKNOWN_SERVER_ID,
    QLB_REASONS,
};

/* The draft's forwarding steps 2 to 5. */
enum {
    QLB_BY_SOURCE_ID,
    QLB_BY_DESTINATION_ID,
    QLB_BY_FOUR_TUPLE,
    QLB_BY_FALLBACK,
    QLB_STEPS,
};

/* The outcome of a packet whose ID is unroutable and that this step forwarded. */
#define QLB_UNROUTABLE(step, reason) (QLB_CONFIGS + (step) * QLB_REASONS + (reason))

enum {
    QLB_DROP_EMPTY = QLB_CONFIGS + QLB_STEPS * QLB_REASONS,
    QLB_DROP_TRUNCATED,
    QLB_DROP_VERSION_NEGOTIATION,
    QLB_DROP_NO_BACKEND,
    QLB_DROP_SEND_FAILED, /* from here on: only a plane returns these outcomes, never the core */
    QLB_DROP_NO_SESSION,
    QLB_DROP_WORKER_DIED,
    QLB_DROP_FRAGMENT,
    QLB_DROP_HOP_LIMIT,
    QLB_DROP_TOO_BIG,
    QLB_DROP_NO_ROUTE,
    QLB_DROP_NO_NEIGHBOUR,
    QLB_DROP_BAD_SOURCE,
    QLB_DROP_OVERLOAD,
    QLB_OUTCOMES,
};

#endif
