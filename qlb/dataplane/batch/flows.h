/* The flow tables in user space: three bounded tables in one piece of memory that the caller provides.
 *
 * core/route.h calls qlb_flow_get() and qlb_flow_remember(); decider.c opens and moves the tables. The functions
 * neither allocate nor call libc, and no table has more than `size` entries.
 *
 * The twin of qlb/routing/flows.py: remembering an entry again renews it, an entry that is idle for the timeout
 * expires, and a full table removes the least recently used one. Entries are in chained buckets, and in a list by last
 * use. SipHash-1-3 with the caller's secret selects the bucket, because clients choose their IDs and could otherwise
 * fill one chain.
 */
#ifndef QLB_BATCH_FLOWS_H
#define QLB_BATCH_FLOWS_H

#include "../core/hooks.h"
#include "siphash.h"

#define QLB_MAX_FLOWS (1u << 24) /* entries of one table; 1.6 GB */
#define QLB_NO_FLOW 0xffffffffu

#define QLB_FLOW_KEY_WORDS (sizeof(struct qlb_flow_source) / 8)

/* An entry. 96 octets. */
struct qlb_flow {
    uint64_t key[QLB_FLOW_KEY_WORDS]; /* the table's key struct; the words after it are not used */
    uint64_t expires_ns;
    uint32_t index; /* of the backend */
    uint32_t next;  /* in its bucket, or in the list of free entries */
    uint32_t older; /* by last use */
    uint32_t newer;
};

struct qlb_flow_table {
    struct qlb_flow *entries;
    uint32_t *buckets;
    uint32_t key_words; /* of 8 octets */
    uint32_t bucket_mask;
    uint32_t count;
    uint32_t touched; /* entries that were ever used; the memory after them has never been written */
    uint32_t free;    /* the first entry that was used and is free again */
    uint32_t oldest;
    uint32_t newest;
};

struct qlb_flows {
    struct qlb_flow_table tables[QLB_FLOW_TABLES];
    uint64_t secret[2];
    uint64_t timeout_ns;
    uint32_t size; /* entries of each table; 0: no flow is remembered */
};

/* Return the number of buckets for a size: the smallest power of two that is not below it. */
static inline uint32_t qlb_flow_buckets(uint32_t size)
{
    uint32_t buckets = 1;
    while (buckets < size)
        buckets *= 2;
    return buckets;
}

/* Return the octets of memory that qlb_flows_open() needs for a size. size: at most QLB_MAX_FLOWS. */
static inline uint64_t qlb_flows_bytes(uint32_t size)
{
    return QLB_FLOW_TABLES * ((uint64_t)size * sizeof(struct qlb_flow) + 8ull * ((qlb_flow_buckets(size) + 1) / 2));
}

/* Open empty tables in the caller's memory. memory: qlb_flows_bytes(size) octets, aligned to 8. Only the buckets are
 * written now, so that unused entries need no physical memory. secret: random. */
static inline void qlb_flows_open(struct qlb_flows *flows, void *memory, uint32_t size, uint64_t timeout_ns,
                                  const uint64_t secret[2])
{
    static const uint32_t key_bytes[QLB_FLOW_TABLES] = {
        [QLB_FLOWS_BY_SOURCE_ID] = sizeof(struct qlb_flow_source),
        [QLB_FLOWS_BY_DESTINATION_ID] = sizeof(struct qlb_flow_id),
        [QLB_FLOWS_BY_FOUR_TUPLE] = sizeof(struct qlb_four_tuple),
    };
    const uint32_t buckets = qlb_flow_buckets(size);
    uint8_t *at = memory;
    flows->size = size;
    flows->timeout_ns = timeout_ns;
    flows->secret[0] = secret[0];
    flows->secret[1] = secret[1];
    for (uint32_t which = 0; which < QLB_FLOW_TABLES; which++) {
        struct qlb_flow_table *table = &flows->tables[which];
        table->entries = (void *)at;
        at += (uint64_t)size * sizeof(struct qlb_flow);
        table->buckets = (void *)at;
        at += 8ull * ((buckets + 1) / 2);
        table->key_words = key_bytes[which] / 8;
        table->bucket_mask = buckets - 1;
        table->count = table->touched = 0;
        table->free = table->oldest = table->newest = QLB_NO_FLOW;
        for (uint32_t i = 0; i < buckets; i++)
            table->buckets[i] = QLB_NO_FLOW;
    }
}

QLB_INLINE uint32_t qlb_flow_hash(const struct qlb_flows *flows, const struct qlb_flow_table *table, const void *key)
{
    return qlb_siphash(flows->secret, key, table->key_words);
}

QLB_INLINE int qlb_flow_has_key(const struct qlb_flow_table *table, uint32_t at, const void *key)
{
    const uint8_t *kept = (const uint8_t *)table->entries[at].key, *wanted = key;
    uint64_t differences = 0;
    for (uint32_t i = 0; i < table->key_words; i++)
        differences |= qlb_load64(kept + 8 * i) ^ qlb_load64(wanted + 8 * i);
    return !differences;
}

/* Return the link to a key's entry: the bucket or the `next` that refers to it. If there is no entry, return the end of
 * the chain. */
static inline uint32_t *qlb_flow_link(const struct qlb_flows *flows, const struct qlb_flow_table *table,
                                      const void *key)
{
    uint32_t *link = &table->buckets[qlb_flow_hash(flows, table, key) & table->bucket_mask];
    while (*link != QLB_NO_FLOW && !qlb_flow_has_key(table, *link, key))
        link = &table->entries[*link].next;
    return link;
}

/* Remove an entry from the list by last use. */
static inline void qlb_flow_unlist(struct qlb_flow_table *table, const struct qlb_flow *flow)
{
    *(flow->older == QLB_NO_FLOW ? &table->oldest : &table->entries[flow->older].newer) = flow->newer;
    *(flow->newer == QLB_NO_FLOW ? &table->newest : &table->entries[flow->newer].older) = flow->older;
}

/* Add an entry to the list by last use, as the newest. */
static inline void qlb_flow_list(struct qlb_flow_table *table, uint32_t at)
{
    struct qlb_flow *flow = &table->entries[at];
    flow->older = table->newest;
    flow->newer = QLB_NO_FLOW;
    *(table->newest == QLB_NO_FLOW ? &table->oldest : &table->entries[table->newest].newer) = at;
    table->newest = at;
}

/* Remove the least recently used entry. The table must not be empty. */
static inline void qlb_flow_drop_oldest(const struct qlb_flows *flows, struct qlb_flow_table *table)
{
    const uint32_t at = table->oldest;
    struct qlb_flow *flow = &table->entries[at];
    *qlb_flow_link(flows, table, flow->key) = flow->next;
    qlb_flow_unlist(table, flow);
    flow->next = table->free;
    table->free = at;
    table->count--;
}

/* Make room for one entry. Remove up to two expired entries for each new one, so that a table shrinks without a sweep.
 * */
static inline void qlb_flow_make_room(const struct qlb_flows *flows, struct qlb_flow_table *table, uint64_t now_ns)
{
    for (uint32_t i = 0; i < 2; i++)
        if (table->count && table->entries[table->oldest].expires_ns <= now_ns)
            qlb_flow_drop_oldest(flows, table);
    if (table->count >= flows->size)
        qlb_flow_drop_oldest(flows, table);
}

/* Add an entry as the newest. The key must not be in the table, and the table must have room. */
static inline struct qlb_flow *qlb_flow_add(const struct qlb_flows *flows, struct qlb_flow_table *table,
                                            const void *key)
{
    const uint8_t *octets = key;
    uint32_t at = table->free;
    if (at != QLB_NO_FLOW)
        table->free = table->entries[at].next;
    else
        at = table->touched++;
    table->count++;
    struct qlb_flow *flow = &table->entries[at];
    uint32_t *bucket = &table->buckets[qlb_flow_hash(flows, table, key) & table->bucket_mask];
    uint8_t *kept = (uint8_t *)flow->key;
    for (uint32_t i = 0; i < 8 * table->key_words; i++)
        kept[i] = octets[i];
    flow->next = *bucket;
    *bucket = at;
    qlb_flow_list(table, at);
    return flow;
}

/* Hot: run `python -m benchmarks.core` before you change qlb_flow_get() or qlb_flow_remember(). hooks.h describes them.
 * */
QLB_INLINE int32_t qlb_flow_get(struct qlb_flows *flows, uint32_t which, const void *key, uint64_t now_ns)
{
    struct qlb_flow_table *table = &flows->tables[which];
    if (!table->count)
        return QLB_MISS;
    const uint32_t at = *qlb_flow_link(flows, table, key);
    if (at == QLB_NO_FLOW || table->entries[at].expires_ns <= now_ns)
        return QLB_MISS;
    return (int32_t)table->entries[at].index;
}

QLB_INLINE void qlb_flow_remember(struct qlb_flows *flows, uint32_t which, const void *key, uint32_t index,
                                  uint64_t now_ns)
{
    struct qlb_flow_table *table = &flows->tables[which];
    if (!flows->size)
        return;
    const uint32_t at = *qlb_flow_link(flows, table, key);
    struct qlb_flow *flow;
    if (at == QLB_NO_FLOW) {
        qlb_flow_make_room(flows, table, now_ns);
        flow = qlb_flow_add(flows, table, key);
    } else {
        flow = &table->entries[at];
        qlb_flow_unlist(table, flow);
        qlb_flow_list(table, at);
    }
    flow->index = index;
    flow->expires_ns = now_ns + flows->timeout_ns;
}

/* Copy the entries to tables of another size. If not all fit, copy the most recently used ones. to: empty. */
static inline void qlb_flows_move(struct qlb_flows *to, const struct qlb_flows *from)
{
    for (uint32_t which = 0; which < QLB_FLOW_TABLES; which++) {
        const struct qlb_flow_table *table = &from->tables[which];
        uint32_t surplus = table->count > to->size ? table->count - to->size : 0;
        for (uint32_t at = table->oldest; at != QLB_NO_FLOW; at = table->entries[at].newer) {
            if (surplus) {
                surplus--;
                continue;
            }
            const struct qlb_flow *old = &table->entries[at];
            struct qlb_flow *flow = qlb_flow_add(to, &to->tables[which], old->key);
            flow->index = old->index;
            flow->expires_ns = old->expires_ns;
        }
    }
}

#endif
