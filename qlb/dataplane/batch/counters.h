/* The shared counters of a worker, written: slots and their meanings are those of core/counters.h.
 *
 * One writer, this worker; readers in another process take what is there. Relaxed stores of 64 bits: no locks,
 * and no reader sees half a number.
 */
#ifndef QLB_BATCH_COUNTERS_H
#define QLB_BATCH_COUNTERS_H

#include <errno.h>
#include <string.h>

#include "../core/counters.h"

/* Why the system refused a send; slots from QLB_SLOT_SEND_ERRORS on. */
enum {
    QLB_SEND_ERROR_WOULD_BLOCK,
    QLB_SEND_ERROR_NO_BUFFERS,
    QLB_SEND_ERROR_REFUSED,
    QLB_SEND_ERROR_TOO_LARGE,
    QLB_SEND_ERROR_UNREACHABLE,
    QLB_SEND_ERROR_OTHER,
    QLB_SEND_ERROR_KINDS,
};

QLB_INLINE void qlb_set_slot(uint64_t *slots, uint32_t slot, uint64_t value)
{
    __atomic_store_n(&slots[slot], value, __ATOMIC_RELAXED);
}

QLB_INLINE void qlb_add_to_slot(uint64_t *slots, uint32_t slot, uint64_t more)
{
    qlb_set_slot(slots, slot, slots[slot] + more);
}

/* Count a packet that was sent to a backend. */
QLB_INLINE void qlb_count_forwarded(uint64_t *slots, uint32_t outcome, uint32_t index, uint64_t now_ms)
{
    const uint32_t backend = QLB_SLOT_BACKEND + QLB_BACKEND_SLOTS * index;
    qlb_add_to_slot(slots, QLB_SLOT_OUTCOME + outcome, 1);
    qlb_add_to_slot(slots, backend + qlb_route_of(outcome), 1);
    qlb_set_slot(slots, backend + QLB_BACKEND_LAST_SEEN_MS, now_ms);
    if (outcome < QLB_CONFIGS)
        qlb_set_slot(slots, QLB_SLOT_CONFIG_LAST_SEEN_MS + outcome, now_ms);
}

/* Count a short header whose ID carries a config ID that no configuration has. */
QLB_INLINE void qlb_count_unconfigured(uint64_t *slots, uint32_t config_id, uint64_t now_ms)
{
    qlb_add_to_slot(slots, QLB_SLOT_UNCONFIGURED + config_id, 1);
    qlb_set_slot(slots, QLB_SLOT_UNCONFIGURED_LAST_SEEN_MS + config_id, now_ms);
}

/* Count a packet that was dropped, and keep its beginning in place of the one before it. */
QLB_INLINE void qlb_count_dropped(uint64_t *slots, uint32_t outcome, const uint8_t *octets, uint64_t len,
                                  uint64_t now_ms)
{
    const uint32_t sample = QLB_SLOT_SAMPLE + QLB_SAMPLE_SLOTS * outcome;
    qlb_add_to_slot(slots, QLB_SLOT_OUTCOME + outcome, 1);
    qlb_set_slot(slots, sample, now_ms);
    qlb_set_slot(slots, sample + 1, len);
    memcpy(&slots[sample + 2], octets, len < QLB_SAMPLE_BYTES ? len : QLB_SAMPLE_BYTES);
}

/* Count a send that the system refused. */
QLB_INLINE void qlb_count_send_error(uint64_t *slots, int error)
{
    uint32_t kind = QLB_SEND_ERROR_OTHER;
    if (error == EAGAIN || error == EWOULDBLOCK)
        kind = QLB_SEND_ERROR_WOULD_BLOCK;
    else if (error == ENOBUFS || error == ENOMEM)
        kind = QLB_SEND_ERROR_NO_BUFFERS;
    else if (error == ECONNREFUSED)
        kind = QLB_SEND_ERROR_REFUSED;
    else if (error == EMSGSIZE)
        kind = QLB_SEND_ERROR_TOO_LARGE;
    else if (error == ENETUNREACH || error == EHOSTUNREACH || error == ENETDOWN || error == EHOSTDOWN)
        kind = QLB_SEND_ERROR_UNREACHABLE;
    qlb_add_to_slot(slots, QLB_SLOT_SEND_ERRORS + kind, 1);
}

#endif
