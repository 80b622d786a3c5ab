/* The counters of the XDP plane. Each CPU has its own.
 *
 * program.c counts each datagram for a service exactly once. The slots are those of qlb/routing/counters.py, but times
 * are in ticks, and samples and the counters of backends are in separate maps. counters.py combines them.
 *
 * A backend's counters are beside the next hop to it, because a packet needs both.
 */
#ifndef QLB_XDP_COUNTERS_H
#define QLB_XDP_COUNTERS_H

#include "../core/outcomes.h"
#include "frame.h"
#include "maps.h"

#define QLB_OUTCOME_SLOTS 64 /* all that fit before the next slots */
_Static_assert(QLB_SLOT_OUTCOME + QLB_OUTCOME_SLOTS == QLB_SLOT_CONFIG_LAST_SEEN_MS, "outcomes end where times begin");

_Static_assert(QLB_SLOT_UNKNOWN_LAST_SEEN_MS - QLB_SLOT_UNCONFIGURED_LAST_SEEN_MS ==
                   QLB_SLOT_UNKNOWN - QLB_SLOT_UNCONFIGURED,
               "the counters of lost IDs and their times have the same order");

struct qlb_totals {
    uint64_t slots[QLB_SLOT_BACKEND];
};

struct qlb_sample {
    uint64_t seen;
    uint64_t len;
    uint8_t octets[QLB_SAMPLE_BYTES];
};

QLB_MAP(totals, BPF_MAP_TYPE_PERCPU_ARRAY, uint32_t, struct qlb_totals);
QLB_MAP(samples, BPF_MAP_TYPE_PERCPU_ARRAY, uint32_t, struct qlb_sample);

QLB_INLINE struct qlb_totals *qlb_totals(void)
{
    const uint32_t first = 0;
    return bpf_map_lookup_elem(&totals, &first);
}

/* Count a received datagram and its outcome. Hot: run `python -m benchmarks.xdp` before you change it. */
QLB_INLINE void qlb_count(const struct qlb_frame *frame, uint32_t outcome, uint32_t index)
{
    struct qlb_totals *all = qlb_totals();
    if (!all)
        return;
    uint32_t slot = outcome; /* masked below for the verifier, which cannot follow clang's own bounds */
    QLB_AS_WRITTEN(slot);
    all->slots[QLB_SLOT_PACKETS_RECEIVED]++;
    all->slots[QLB_SLOT_BYTES_RECEIVED] += (uint64_t)frame->datagram_len;
    all->slots[QLB_SLOT_OUTCOME + (slot & (QLB_OUTCOME_SLOTS - 1))]++;
    if (outcome >= QLB_DROP_EMPTY)
        return;
    if (outcome < QLB_CONFIGS)
        all->slots[QLB_SLOT_CONFIG_LAST_SEEN_MS + (slot & 7)] = frame->now;
    if (frame->lost_id >= 0) {
        const uint32_t config_id = (uint32_t)frame->lost_id & 7;
        const uint32_t kind = (uint32_t)frame->lost_id & QLB_UNKNOWN_ID ? QLB_SLOT_UNKNOWN - QLB_SLOT_UNCONFIGURED : 0;
        all->slots[QLB_SLOT_UNCONFIGURED + kind + config_id]++;
        all->slots[QLB_SLOT_UNCONFIGURED_LAST_SEEN_MS + kind + config_id] = frame->now;
    }
    struct qlb_backend *backend = bpf_map_lookup_elem(&backends, &index);
    if (!backend)
        return;
    backend->forwarded[qlb_route_of(outcome)]++;
    backend->forwarded_bytes += (uint64_t)frame->datagram_len;
    backend->new_flows += frame->begins_flow;
    backend->last_seen = frame->now;
}

QLB_INLINE void qlb_count_icmp(uint32_t slot)
{
    struct qlb_totals *all = qlb_totals();
    if (all)
        all->slots[slot]++;
}

/* Store the beginning of a dropped datagram as the sample of its outcome. Return 0, because the verifier requires a
 * result. */
QLB_CALL int qlb_store_sample(struct xdp_md *ctx, const struct qlb_frame *frame, uint32_t outcome)
{
    if (!frame)
        return 0;
    const uint8_t *end = qlb_data_end(ctx), *data = qlb_data(ctx);
    const uint32_t offset = frame->payload_at;
    struct qlb_sample *sample = bpf_map_lookup_elem(&samples, &outcome);
    if (!sample || offset > QLB_MAX_HEADERS)
        return 0;
    data = qlb_skip(data, offset, end);
    sample->seen = frame->now;
    sample->len = frame->datagram_len;
    for (uint32_t i = 0; i < QLB_SAMPLE_BYTES; i++) {
        if (!QLB_HAS(data, i + 1, end))
            break;
        sample->octets[i] = data[i];
    }
    return 0;
}

#endif
