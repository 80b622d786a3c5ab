/* What the includer of core/ supplies: where the table is, which AES there is, what the flow tables remember.
 *
 * User space answers with pointer arithmetic, AES instructions and its own flow tables (batch/flat.h,
 * batch/flows.h); BPF with map lookups, AES by tables, a memo and LRU maps (xdp/maps.h). An includer defines
 * `struct qlb_view` and `struct qlb_flows` as it likes (the core only passes the pointers on) and each of these
 * functions, before or after it includes decode.h and route.h; the compiler names what is missing. A pointer that
 * is returned is good until the decision is made; a lookup that cannot answer returns a null pointer, and the core
 * then goes on as if nothing were there.
 */
#ifndef QLB_CORE_HOOKS_H
#define QLB_CORE_HOOKS_H

#include "table.h"
#include "types.h"

struct qlb_view;
struct qlb_flows;

/* The 4-tuple of a datagram, in octets as on the wire; an IPv4 address in its IPv4-mapped IPv6 form
 * (::ffff:0:0/96), zeros in unused. 40 octets. */
struct qlb_four_tuple {
    uint8_t client[16];
    uint8_t service[16];
    uint8_t ports[4]; /* the client's, then the service's */
    uint8_t unused[4];
} __attribute__((aligned(8)));

#define QLB_FLOW_ID_BYTES 24

/* An ID in a flow's key: 32 octets. */
struct qlb_flow_id {
    uint64_t octets[QLB_FLOW_ID_BYTES / 8]; /* as qlb_load64 reads them: the ID's first 24, zeros after its end */
    uint64_t len;                           /* of the whole ID, 0 to 255 */
};

/* 72 octets. */
struct qlb_flow_source {
    struct qlb_four_tuple four_tuple;
    struct qlb_flow_id scid;
};

/* The three flow tables, by what a flow is known by in them. Every octet of a key is compared. */
enum {
    QLB_FLOWS_BY_SOURCE_ID,      /* struct qlb_flow_source */
    QLB_FLOWS_BY_DESTINATION_ID, /* struct qlb_flow_id */
    QLB_FLOWS_BY_FOUR_TUPLE,     /* struct qlb_four_tuple */
    QLB_FLOW_TABLES,
};

#define QLB_MISS (-1)

QLB_INLINE const struct qlb_head *qlb_head(const struct qlb_view *view);

/* config_id: 0 to 7. */
QLB_INLINE const struct qlb_config *qlb_config_at(const struct qlb_view *view, uint32_t config_id);

/* slot: any number; the includer masks it with server_slots - 1. */
QLB_INLINE const struct qlb_server *qlb_server_slot(const struct qlb_view *view, uint32_t slot);

/* slot: below ring_slots. */
QLB_INLINE const uint32_t *qlb_ring_slot(const struct qlb_view *view, uint32_t slot);

/* Flags by backend index; index: any number. 0 where there is no such backend. */
QLB_INLINE uint32_t qlb_backend_flags(const struct qlb_view *view, uint32_t index);

/* One block of AES-128 in place; as qlb_aes_table_encrypt and qlb_aes_table_decrypt. */
QLB_INLINE void qlb_aes_encrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block);
QLB_INLINE void qlb_aes_decrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block);

/* The wire block of an ID: up to 19 octets after the first one. What follows it in the packet may come along;
 * masks cut it off. */
struct qlb_wire_block {
    struct qlb_block start; /* octets 0 to 15 */
    uint64_t rest;          /* octets 16 to 18 */
};

/* The backend index that an encrypted ID was found to be of, or QLB_MISS: always, where there is no memo. wire: zeros
 * after the ID's end. */
QLB_INLINE int32_t qlb_memo_get(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire);

QLB_INLINE void qlb_memo_keep(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire,
                              int32_t index);

/* The backend index that a flow table remembers, or QLB_MISS; not a use of the entry. */
QLB_INLINE int32_t qlb_flow_get(struct qlb_flows *flows, uint32_t which, const void *key, uint64_t now_ns);

/* Set an entry, or renew it for a whole timeout. */
QLB_INLINE void qlb_flow_remember(struct qlb_flows *flows, uint32_t which, const void *key, uint32_t index,
                                  uint64_t now_ns);

#endif
