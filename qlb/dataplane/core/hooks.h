/* The functions that each plane supplies to core/: access to the table, AES, and the flow tables.
 *
 * decode.h and route.h call them. User space implements them with pointer arithmetic, AES instructions and its own flow
 * tables (batch/flat.h, batch/flows.h); BPF with map lookups, AES by tables, a memo and LRU maps (xdp/maps.h).
 *
 * A plane defines `struct qlb_view`, `struct qlb_flows` and each of these functions, before or after it includes
 * decode.h and route.h. The core only passes the two pointers on, so a plane chooses the fields. The compiler reports a
 * missing function. A returned pointer is valid until the decision is made. A lookup that fails returns a null pointer;
 * the core then continues as if there were no entry.
 */
#ifndef QLB_CORE_HOOKS_H
#define QLB_CORE_HOOKS_H

#include "constants.h"
#include "table.h"
#include "types.h"

struct qlb_view;
struct qlb_flows;

/* The 4-tuple of a datagram, in octets as on the wire. An IPv4 address is in its IPv4-mapped IPv6 form
 * (::ffff:0:0/96). `unused` is zero. 40 octets. */
struct qlb_four_tuple {
    uint8_t client[16];
    uint8_t service[16];
    uint8_t ports[4]; /* the client's, then the service's */
    uint8_t unused[4];
} __attribute__((aligned(8)));

/* A connection ID in a flow's key. 32 octets. */
struct qlb_flow_id {
    uint64_t octets[QLB_FLOW_ID_BYTES / 8]; /* the ID's first 24, as qlb_load64 reads them; zeros after its end */
    uint64_t len;                           /* of the whole ID, 0 to 255 octets */
};

/* The key of a flow by source connection ID. 72 octets. */
struct qlb_flow_source {
    struct qlb_four_tuple four_tuple;
    struct qlb_flow_id scid;
};

/* The three flow tables, named after their keys. A lookup compares every octet of a key. */
enum {
    QLB_FLOWS_BY_SOURCE_ID,      /* struct qlb_flow_source */
    QLB_FLOWS_BY_DESTINATION_ID, /* struct qlb_flow_id */
    QLB_FLOWS_BY_FOUR_TUPLE,     /* struct qlb_four_tuple */
    QLB_FLOW_TABLES,
};

#define QLB_MISS (-1)

/* Return the table's head. */
QLB_INLINE const struct qlb_head *qlb_head(const struct qlb_view *view);

/* Return the CID config of a config ID. config_id: 0 to 7. */
QLB_INLINE const struct qlb_config *qlb_config_at(const struct qlb_view *view, uint32_t config_id);

/* Return a slot of the hash table of server IDs. slot: any number; the plane masks it with server_slots - 1. */
QLB_INLINE const struct qlb_server *qlb_server_slot(const struct qlb_view *view, uint32_t slot);

/* Return a slot of the ring. slot: below ring_slots. */
QLB_INLINE const uint32_t *qlb_ring_slot(const struct qlb_view *view, uint32_t slot);

/* Return the flags of a backend, or 0 if there is no such backend. index: any number. */
QLB_INLINE uint32_t qlb_backend_flags(const struct qlb_view *view, uint32_t index);

/* Encrypt or decrypt one block in place, as qlb_aes_table_encrypt and qlb_aes_table_decrypt do. */
QLB_INLINE void qlb_aes_encrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block);
QLB_INLINE void qlb_aes_decrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block);

/* The wire block of an ID: up to 19 octets after the first one. It may contain octets of the packet after the ID's end;
 * masks remove them. */
struct qlb_wire_block {
    struct qlb_block start; /* octets 0 to 15 */
    uint64_t rest;          /* octets 16 to 18 */
};

/* Return the backend index that the memo stores for an encrypted ID, or QLB_MISS. A plane without a memo always returns
 * QLB_MISS. wire: zeros after the ID's end. */
QLB_INLINE int32_t qlb_memo_get(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire);

/* Store the backend index of an encrypted ID in the memo, if there is one. */
QLB_INLINE void qlb_memo_put(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire,
                              int32_t index);

/* Return the backend index of an entry that has not expired, or QLB_MISS. This does not renew the entry. */
QLB_INLINE int32_t qlb_flow_get(struct qlb_flows *flows, uint32_t which, const void *key, uint64_t now_ns);

/* Set an entry, and let it expire one full timeout from now. */
QLB_INLINE void qlb_flow_remember(struct qlb_flows *flows, uint32_t which, const void *key, uint32_t index,
                                  uint64_t now_ns);

#endif
