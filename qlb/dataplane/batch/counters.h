/* Write the counters of a worker, in the slots of qlb/routing/counters.py.
 *
 * The batch plane calls these functions for each packet. This worker is the only writer of its counters; other
 * processes read them at any time. Stores are relaxed and have 64 bits, so there are no locks and no reader sees half a
 * number.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change them.
 */
#ifndef QLB_BATCH_COUNTERS_H
#define QLB_BATCH_COUNTERS_H

#include <errno.h>
#include <string.h>

#include "../core/outcomes.h"

#define QLB_TO_CLIENT UINT32_MAX /* in place of a backend's index */

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

/* Count the octets of datagrams that were sent to a backend, and how many of these datagrams began a flow. */
QLB_INLINE void qlb_count_sent(uint64_t *slots, uint32_t index, uint32_t bytes, uint32_t new_flows)
{
    const uint32_t backend = QLB_SLOT_BACKEND + QLB_BACKEND_SLOTS * index;
    qlb_add_to_slot(slots, backend + QLB_BACKEND_FORWARDED_BYTES, bytes);
    if (new_flows)
        qlb_add_to_slot(slots, backend + QLB_BACKEND_NEW_FLOWS, new_flows);
}

/* Count datagrams that were sent from a backend to its client, and their octets. */
QLB_INLINE void qlb_count_returned(uint64_t *slots, uint32_t index, uint32_t packets, uint32_t bytes)
{
    const uint32_t backend = QLB_SLOT_BACKEND + QLB_BACKEND_SLOTS * index;
    qlb_add_to_slot(slots, backend + QLB_BACKEND_RETURNED, packets);
    qlb_add_to_slot(slots, backend + QLB_BACKEND_RETURNED_BYTES, bytes);
}

/* Count a short header whose connection ID has a config ID that is not configured. */
QLB_INLINE void qlb_count_unconfigured(uint64_t *slots, uint32_t config_id, uint64_t now_ms)
{
    qlb_add_to_slot(slots, QLB_SLOT_UNCONFIGURED + config_id, 1);
    qlb_set_slot(slots, QLB_SLOT_UNCONFIGURED_LAST_SEEN_MS + config_id, now_ms);
}

/* Count a short header whose connection ID decodes to a server ID of no backend. */
QLB_INLINE void qlb_count_unknown(uint64_t *slots, uint32_t config_id, uint64_t now_ms)
{
    qlb_add_to_slot(slots, QLB_SLOT_UNKNOWN + config_id, 1);
    qlb_set_slot(slots, QLB_SLOT_UNKNOWN_LAST_SEEN_MS + config_id, now_ms);
}

/* Count the same for the backend that has answered this client before. */
QLB_INLINE void qlb_count_unknown_of(uint64_t *slots, uint32_t index)
{
    qlb_add_to_slot(slots, QLB_SLOT_SHOWN + QLB_SHOWN_SLOTS * index + QLB_SHOWN_UNKNOWN, 1);
}

/* Count the ID of a new connection in a backend's answer. kind: QLB_SHOWN_RIGHT to QLB_SHOWN_UNROUTABLE. */
QLB_INLINE void qlb_count_shown(uint64_t *slots, uint32_t kind, uint32_t index, const uint8_t *id, uint32_t id_len)
{
    const uint32_t at = QLB_SLOT_SHOWN + QLB_SHOWN_SLOTS * index;
    qlb_add_to_slot(slots, at + kind, 1);
    if (kind != QLB_SHOWN_WRONG)
        return;
    qlb_add_to_slot(slots, QLB_SLOT_WRONG_IDS, 1);
    qlb_set_slot(slots, at + QLB_SHOWN_LENGTH, id_len);
    memcpy(&slots[at + QLB_SHOWN_ID], id, id_len < QLB_SHOWN_ID_BYTES ? id_len : QLB_SHOWN_ID_BYTES);
}

/* Count a packet that was dropped. Its beginning replaces the sample of this outcome. */
QLB_INLINE void qlb_count_dropped(uint64_t *slots, uint32_t outcome, const uint8_t *octets, uint64_t len,
                                  uint64_t now_ms)
{
    const uint32_t sample = QLB_SLOT_SAMPLE + QLB_SAMPLE_SLOTS * outcome;
    qlb_add_to_slot(slots, QLB_SLOT_OUTCOME + outcome, 1);
    qlb_set_slot(slots, sample, now_ms);
    qlb_set_slot(slots, sample + 1, len);
    memcpy(&slots[sample + 2], octets, len < QLB_SAMPLE_BYTES ? len : QLB_SAMPLE_BYTES);
}

/* Return the cause of a failed send. */
QLB_INLINE uint32_t qlb_send_error_kind(int error)
{
    switch (error) {
    case EAGAIN:
        return QLB_SEND_ERROR_WOULD_BLOCK;
    case ENOBUFS:
    case ENOMEM:
        return QLB_SEND_ERROR_NO_BUFFERS;
    case ECONNREFUSED:
        return QLB_SEND_ERROR_REFUSED;
    case EMSGSIZE:
        return QLB_SEND_ERROR_TOO_LARGE;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case ENONET:
        return QLB_SEND_ERROR_UNREACHABLE;
    case EPERM:
    case EACCES:
        return QLB_SEND_ERROR_NOT_PERMITTED;
    case EINVAL:
    case EADDRNOTAVAIL:
    case ENODEV:
    case ENXIO:
        return QLB_SEND_ERROR_INVALID;
    default:
        return QLB_SEND_ERROR_OTHER;
    }
}

/* Count a failed send. index: of the backend, or QLB_TO_CLIENT. len: octets of the datagram, 0 if not known. */
QLB_INLINE void qlb_count_send_error(uint64_t *slots, int error, uint32_t index, uint32_t len)
{
    const uint32_t kind = qlb_send_error_kind(error);
    qlb_add_to_slot(slots, QLB_SLOT_SEND_ERRORS, 1);
    if (index == QLB_TO_CLIENT) {
        qlb_add_to_slot(slots, QLB_SLOT_RETURN_SEND_ERRORS + kind, 1);
        return;
    }
    const uint32_t backend = QLB_SLOT_BACKEND + QLB_BACKEND_SLOTS * index;
    qlb_add_to_slot(slots, backend + QLB_BACKEND_SEND_ERRORS + kind, 1);
    if (kind == QLB_SEND_ERROR_TOO_LARGE && len)
        qlb_set_slot(slots, backend + QLB_BACKEND_TOO_LARGE_BYTES, len);
}

/* Count the error of a receive from a backend, if it is the error of an earlier send, which the receive has cleared. */
QLB_INLINE void qlb_count_receive_error(uint64_t *slots, int error, uint32_t index)
{
    if (error != EAGAIN && error != EINTR)
        qlb_count_send_error(slots, error, index, 0);
}

#endif
