/* The layout of the table: one snapshot of the configuration, compiled by qlb/dataplane/core/table.py.
 *
 * The decision code in core/ reads the table and never writes to it. In user space the table is flat memory
 * (batch/flat.h); in the kernel the same structs are in maps (xdp/maps.h). table.py defines the same layouts, and
 * batch/layout.c compares them. constants.h has the numbers.
 *
 * Byte order and alignment: the table never leaves the machine that compiled it, so integers are in the machine's own
 * byte order. The magic number shows if they are not. Octets of IDs and keys are in the order of the wire. The size of
 * every struct is a multiple of 8 octets, every padding has a name, and every struct is aligned to 8 octets. Unused
 * fields are zero.
 */
#ifndef QLB_CORE_TABLE_H
#define QLB_CORE_TABLE_H

#include "aes.h"
#include "constants.h"
#include "types.h"

#define QLB_MAX_RING_SLOTS (1u << 21)

/* The beginning of the table: 240 octets. Offsets are in octets from the start of the table. In the XDP plane they are
 * the index of a part's first element in its map (xdp/layout.h). */
struct qlb_head {
    uint32_t magic;
    uint32_t version;
    uint64_t generation;
    uint32_t size_bytes;    /* of the whole table */
    uint32_t configs_at;    /* QLB_TABLE_CONFIGS of struct qlb_config */
    uint32_t servers_at;    /* server_slots of struct qlb_server */
    uint32_t backends_at;   /* backend_slots of uint32_t: flags by backend index */
    uint32_t ring_at;       /* ring_slots of uint32_t: indexes of backends that accept new connections */
    uint32_t server_slots;  /* a power of two */
    uint32_t backend_slots; /* 0 to QLB_MAX_BACKENDS */
    uint32_t ring_slots;    /* 0 if no backend accepts new connections */
    uint64_t server_seed;   /* odd; table.py tries seeds until QLB_SERVER_PROBES slots are enough */
    uint64_t unused;
    struct qlb_schedule hash_schedule; /* of the fallback's hash */
};

/* One CID config: 408 octets. Masks are in the octet order of struct qlb_block. */
struct qlb_config {
    uint8_t algorithm;           /* QLB_NOT_CONFIGURED to QLB_FOUR_PASS */
    uint8_t server_id_len;       /* 1 to 15 octets */
    uint8_t nonce_len;           /* 4 to 18 octets */
    uint8_t length_self_encoded; /* 1: a long header's ID must have the length that its first octet gives */
    uint8_t unused[4];
    uint8_t server_id_mask[16]; /* selects the server ID of a block that begins with it */
    uint8_t left_mask[16];      /* four-pass: selects the left half's bits of its lane */
    uint8_t right_mask[16];     /* four-pass: selects the right half's; without the first nibble if the length is odd */
    struct qlb_schedule encrypt_schedule;
    struct qlb_schedule decrypt_schedule;
};

/* A server ID and its backend: one slot of a hash table with open addressing. 24 octets. */
struct qlb_server {
    uint64_t low;  /* octets 0 to 7 of the server ID, in the order of struct qlb_block; zeros after its end */
    uint64_t high; /* octets 8 to 14; octet 15 is the config ID */
    uint32_t index; /* of the backend, or QLB_NO_BACKEND */
    uint32_t unused;
};

/* Return the hash that selects the first slot of a server ID. table.py computes the same. Multiplications move
 * differences to higher bits and shifts move them to lower bits. Both happen twice, because server IDs often contain a
 * counter.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE uint32_t qlb_server_hash(uint64_t seed, const struct qlb_block *key)
{
    uint64_t hash = key->low ^ key->high * seed;
    hash = (hash ^ hash >> 32) * seed;
    hash = (hash ^ hash >> 32) * seed;
    return (uint32_t)(hash >> 32);
}

#endif
