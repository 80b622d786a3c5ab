/* The table as flat memory in user space: validated once when it arrives, then read by pointer arithmetic.
 *
 * module.c opens a view of each table that Python compiled; core/ reads the table through the hooks in this file.
 * qlb_view_open() guarantees that the core never reads outside the table, whatever the octets are: a wrong value in the
 * table may misroute packets, but cannot cause an invalid read. The caller still owns the memory, which must outlive
 * the view.
 */
#ifndef QLB_BATCH_FLAT_H
#define QLB_BATCH_FLAT_H

#include "../core/hooks.h"
#include "../core/outcomes.h"
#include "aes_native.h"

struct qlb_view {
    const struct qlb_head *head;
    const struct qlb_config *configs;
    const struct qlb_server *servers;
    const uint32_t *backends;
    const uint32_t *ring;
    int aes_native; /* 1: use the CPU's AES instructions; a caller may set it to 0 to use the tables */
};

QLB_INLINE const struct qlb_head *qlb_head(const struct qlb_view *view) { return view->head; }

QLB_INLINE const struct qlb_config *qlb_config_at(const struct qlb_view *view, uint32_t config_id)
{
    return &view->configs[config_id & (QLB_TABLE_CONFIGS - 1)];
}

QLB_INLINE const struct qlb_server *qlb_server_slot(const struct qlb_view *view, uint32_t slot)
{
    return &view->servers[slot & (view->head->server_slots - 1)];
}

QLB_INLINE const uint32_t *qlb_ring_slot(const struct qlb_view *view, uint32_t slot) { return &view->ring[slot]; }

QLB_INLINE uint32_t qlb_backend_flags(const struct qlb_view *view, uint32_t index)
{
    return index < view->head->backend_slots ? view->backends[index] : 0;
}

/* Hot: run `python -m benchmarks.core` before you change qlb_aes_encrypt() or qlb_aes_decrypt(). */
QLB_INLINE void qlb_aes_encrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block)
{
    if (view->aes_native)
        qlb_aes_native_encrypt(schedule, block);
    else
        qlb_aes_table_encrypt(schedule, block);
}

QLB_INLINE void qlb_aes_decrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block)
{
    if (view->aes_native)
        qlb_aes_native_decrypt(schedule, block);
    else
        qlb_aes_table_decrypt(schedule, block);
}

/* User space has no memo: with AES instructions, decoding an ID again is as fast as a lookup. */
QLB_INLINE int32_t qlb_memo_get(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire)
{
    (void)view, (void)config_id, (void)wire;
    return QLB_MISS;
}

QLB_INLINE void qlb_memo_put(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire,
                              int32_t index)
{
    (void)view, (void)config_id, (void)wire, (void)index;
}

/* Check that `count` items at an offset are aligned, and lie between the head and the end of the table. */
QLB_INLINE int qlb_part_fits(const struct qlb_head *head, uint32_t at, uint64_t count, uint64_t item_bytes)
{
    return at % 8 == 0 && at >= sizeof *head && at <= head->size_bytes &&
           count * item_bytes <= head->size_bytes - at;
}

/* Check whether a CID config has only values that the core can handle. */
QLB_INLINE int qlb_config_is_legal(const struct qlb_config *config, uint32_t config_id)
{
    const uint32_t plaintext_len = (uint32_t)config->server_id_len + config->nonce_len;
    if (config->algorithm == QLB_NOT_CONFIGURED)
        return 1;
    if (config_id >= QLB_CONFIGS || config->algorithm > QLB_FOUR_PASS || config->server_id_len < 1 ||
        config->server_id_len > 15 || config->nonce_len < 4 || plaintext_len > 19)
        return 0;
    if (config->algorithm == QLB_PLAINTEXT)
        return 1;
    if (config->algorithm == QLB_SINGLE_PASS)
        return plaintext_len == 16;
    return plaintext_len != 16 && (config->algorithm == QLB_FOUR_PASS) == (config->server_id_len > config->nonce_len);
}

/* Return why a head does not fit a table of `size` octets, or a null pointer if it does. */
QLB_INLINE const char *qlb_head_problem(const struct qlb_head *head, uint64_t size)
{
    if (size < sizeof *head)
        return "shorter than a table's head";
    if (head->magic != QLB_TABLE_MAGIC)
        return "not a table of this machine's byte order";
    if (head->version != QLB_TABLE_VERSION)
        return "a table of another version";
    if (head->size_bytes != size)
        return "its length differs from the one in its head";
    if (!head->server_slots || (head->server_slots & (head->server_slots - 1)) ||
        head->server_slots > QLB_MAX_SERVER_SLOTS || head->backend_slots > QLB_MAX_BACKENDS ||
        head->ring_slots > QLB_MAX_RING_SLOTS)
        return "a number of slots is out of range";
    if (!qlb_part_fits(head, head->configs_at, QLB_TABLE_CONFIGS, sizeof(struct qlb_config)) ||
        !qlb_part_fits(head, head->servers_at, head->server_slots, sizeof(struct qlb_server)) ||
        !qlb_part_fits(head, head->backends_at, head->backend_slots, sizeof(uint32_t)) ||
        !qlb_part_fits(head, head->ring_at, head->ring_slots, sizeof(uint32_t)))
        return "a part does not lie inside the table";
    return 0;
}

/* Validate a table and open a view of it. Return a null pointer, or why the table is not valid.
 * memory: aligned to 8. This takes a millisecond for each million of slots. */
static inline const char *qlb_view_open(struct qlb_view *view, const void *memory, uint64_t size)
{
    const uint8_t *octets = memory;
    const struct qlb_head *head = memory;
    if ((uintptr_t)memory % 8)
        return "its memory is not aligned to 8";
    const char *problem = qlb_head_problem(head, size);
    if (problem)
        return problem;
    const struct qlb_view wanted = {
        .head = head,
        .configs = (const void *)(octets + head->configs_at),
        .servers = (const void *)(octets + head->servers_at),
        .backends = (const void *)(octets + head->backends_at),
        .ring = (const void *)(octets + head->ring_at),
        .aes_native = qlb_aes_native_probe(),
    };
    for (uint32_t i = 0; i < QLB_TABLE_CONFIGS; i++)
        if (!qlb_config_is_legal(&wanted.configs[i], i))
            return "a CID config is not valid";
    for (uint32_t i = 0; i < head->server_slots; i++)
        if (wanted.servers[i].index != QLB_NO_BACKEND && wanted.servers[i].index >= head->backend_slots)
            return "a server ID belongs to a backend that does not exist";
    for (uint32_t i = 0; i < head->ring_slots; i++)
        if (wanted.ring[i] >= head->backend_slots)
            return "a slot of the ring belongs to a backend that does not exist";
    *view = wanted;
    return 0;
}

#endif
