/* The program's maps, and the functions that the core requires (core/hooks.h).
 *
 * One generation is in one half of each map, the next generation in the other half. For each packet, the program looks
 * up the generation once, through the map of maps `current`, and uses its offsets until the end. So one generation
 * decides each packet. When Python updates `current`, the kernel waits until no running program can still see the old
 * value. After that, Python may write to the other half again.
 */
#ifndef QLB_XDP_MAPS_H
#define QLB_XDP_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../core/route.h"
#include "layout.h"

const volatile struct qlb_settings qlb_settings SEC(".rodata.settings");

#define QLB_MAP(map_name, map_type, key_type, value_type)                                                             \
    struct {                                                                                                          \
        __uint(type, map_type);                                                                                       \
        __uint(max_entries, 1); /* plane.py sets it from the configuration */                                         \
        __type(key, key_type);                                                                                        \
        __type(value, value_type);                                                                                    \
    } map_name SEC(".maps")

struct qlb_generation_map {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, uint32_t);
    __type(value, struct qlb_generation);
} first_generation SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 1);
    __type(key, uint32_t);
    __array(values, struct qlb_generation_map);
} current SEC(".maps") = {.values = {&first_generation}};

QLB_MAP(services, BPF_MAP_TYPE_ARRAY, uint32_t, struct qlb_service);
QLB_MAP(configs, BPF_MAP_TYPE_ARRAY, uint32_t, struct qlb_config);
QLB_MAP(servers, BPF_MAP_TYPE_ARRAY, uint32_t, struct qlb_server);
QLB_MAP(destinations, BPF_MAP_TYPE_ARRAY, uint32_t, struct qlb_destination);
QLB_MAP(backends, BPF_MAP_TYPE_PERCPU_ARRAY, uint32_t, struct qlb_backend); /* by backend index, in every generation */
/* exits.py writes the interfaces that accept redirected packets into it, and updates it. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, QLB_MAX_EXITS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct qlb_exit_key);
    __type(value, struct qlb_exit);
} exits SEC(".maps");
QLB_MAP(ring, BPF_MAP_TYPE_ARRAY, uint32_t, uint32_t);
QLB_MAP(memos, BPF_MAP_TYPE_PERCPU_ARRAY, uint32_t, struct qlb_memo_page);
QLB_MAP(by_source_id, BPF_MAP_TYPE_LRU_HASH, struct qlb_flow_source, struct qlb_known_flow);
QLB_MAP(by_destination_id, BPF_MAP_TYPE_LRU_HASH, struct qlb_flow_id, struct qlb_known_flow);
QLB_MAP(by_four_tuple, BPF_MAP_TYPE_LRU_HASH, struct qlb_four_tuple, struct qlb_known_flow);

/* The generation that decides a packet. */
struct qlb_view {
    const struct qlb_generation *generation;
};

/* The settings of the flow tables for one packet. */
struct qlb_flows {
    uint64_t timeout_ticks;
    uint32_t remember;
};

QLB_INLINE const struct qlb_generation *qlb_current_generation(void)
{
    const uint32_t first = 0;
    void *inner = bpf_map_lookup_elem(&current, &first);
    return inner ? bpf_map_lookup_elem(inner, &first) : 0;
}

QLB_INLINE const struct qlb_head *qlb_head(const struct qlb_view *view) { return &view->generation->head; }

QLB_INLINE const struct qlb_config *qlb_config_at(const struct qlb_view *view, uint32_t config_id)
{
    const uint32_t at = view->generation->head.configs_at + config_id;
    return bpf_map_lookup_elem(&configs, &at);
}

QLB_INLINE const struct qlb_server *qlb_server_slot(const struct qlb_view *view, uint32_t slot)
{
    const struct qlb_head *head = &view->generation->head;
    const uint32_t at = head->servers_at + (slot & (head->server_slots - 1));
    return bpf_map_lookup_elem(&servers, &at);
}

QLB_INLINE const uint32_t *qlb_ring_slot(const struct qlb_view *view, uint32_t slot)
{
    const uint32_t at = view->generation->head.ring_at + slot;
    return bpf_map_lookup_elem(&ring, &at);
}

QLB_INLINE uint32_t qlb_backend_flags(const struct qlb_view *view, uint32_t index)
{
    const struct qlb_head *head = &view->generation->head;
    if (index >= head->backend_slots)
        return 0;
    const uint32_t at = head->backends_at + index;
    const struct qlb_destination *destination = bpf_map_lookup_elem(&destinations, &at);
    return destination ? destination->flags : 0;
}

QLB_INLINE void qlb_aes_encrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block)
{
    (void)view;
    qlb_aes_table_encrypt(schedule, block);
}

QLB_INLINE void qlb_aes_decrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block)
{
    (void)view;
    qlb_aes_table_decrypt(schedule, block);
}

/* Return the two adjacent memos that an ID may use on this CPU. They share one cache line. The hash can be simple,
 * because encrypted IDs are random.
 *
 * Hot: run `python -m benchmarks.xdp` before you change the memo. */
QLB_INLINE struct qlb_memo *qlb_memos_of(const struct qlb_wire_block *wire)
{
    const uint32_t hash = (uint32_t)(wire->start.low >> 32 ^ wire->start.low);
    const uint32_t page = hash / QLB_MEMO_PAGE & (QLB_MEMO_PAGES - 1);
    struct qlb_memo_page *found = bpf_map_lookup_elem(&memos, &page);
    return found ? &found->memos[hash & (QLB_MEMO_PAGE - 2)] : 0;
}

QLB_INLINE int32_t qlb_memo_get(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire)
{
    const struct qlb_memo *memo = qlb_memos_of(wire);
    if (!memo)
        return QLB_MISS;
    for (uint32_t i = 0; i < 2; i++, memo++)
        if (memo->low == wire->start.low && memo->high == wire->start.high &&
            memo->rest == (uint32_t)wire->rest + (config_id << 24) && memo->number == view->generation->number)
            return (int32_t)memo->index;
    return QLB_MISS;
}

/* Store an ID in the first of its two memos; the previous first one moves to the second. */
QLB_INLINE void qlb_memo_put(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire,
                              int32_t index)
{
    struct qlb_memo *memo = qlb_memos_of(wire);
    if (!memo)
        return;
    memo[1] = memo[0];
    memo->low = wire->start.low;
    memo->high = wire->start.high;
    memo->rest = (uint32_t)wire->rest + (config_id << 24);
    memo->index = (uint32_t)index;
    memo->number = view->generation->number;
}

QLB_INLINE struct qlb_known_flow *qlb_flow_entry(uint32_t which, const void *key)
{
    if (which == QLB_FLOWS_BY_SOURCE_ID)
        return bpf_map_lookup_elem(&by_source_id, key);
    if (which == QLB_FLOWS_BY_DESTINATION_ID)
        return bpf_map_lookup_elem(&by_destination_id, key);
    return bpf_map_lookup_elem(&by_four_tuple, key);
}

/* Hot: run `python -m benchmarks.xdp` before you change qlb_flow_get() or qlb_flow_remember(). */
QLB_INLINE int32_t qlb_flow_get(struct qlb_flows *flows, uint32_t which, const void *key, uint64_t now)
{
    const struct qlb_known_flow *flow = flows->timeout_ticks ? qlb_flow_entry(which, key) : 0;
    return flow && flow->expires > now ? (int32_t)flow->index : QLB_MISS;
}

QLB_INLINE void qlb_flow_remember(struct qlb_flows *flows, uint32_t which, const void *key, uint32_t index,
                                  uint64_t now)
{
    if (!flows->timeout_ticks || !flows->remember)
        return;
    const struct qlb_known_flow flow = {now + flows->timeout_ticks, index};
    struct qlb_known_flow *known = qlb_flow_entry(which, key);
    if (known && known->index == index)
        known->expires = flow.expires;
    else if (which == QLB_FLOWS_BY_SOURCE_ID)
        bpf_map_update_elem(&by_source_id, key, &flow, BPF_ANY);
    else if (which == QLB_FLOWS_BY_DESTINATION_ID)
        bpf_map_update_elem(&by_destination_id, key, &flow, BPF_ANY);
    else
        bpf_map_update_elem(&by_four_tuple, key, &flow, BPF_ANY);
}

#endif
