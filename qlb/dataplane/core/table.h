/* The table: one generation of the configuration, compiled by qlb/dataplane/core/table.py, read-only ever after.
 *
 * Flat memory in user space (batch/flat.h), maps of the same structs in the kernel. Layouts stand here and in
 * table.py; tests/dataplane/core/test_layout.py compares them.
 *
 * Byte order and alignment, once: the table never leaves the machine that compiled it, so integers are in the
 * machine's own byte order, and the magic number tells when they are not. Octets of IDs and keys keep the
 * order of the wire. Every struct is a multiple of 8 octets, has no padding that is not named, and lies on a
 * multiple of 8. What is not used is zero.
 */
#ifndef QLB_CORE_TABLE_H
#define QLB_CORE_TABLE_H

#include "aes.h"
#include "types.h"

#define QLB_TABLE_MAGIC 0x54424c51u /* the octets "QLBT" on a little-endian machine */
#define QLB_TABLE_VERSION 1u        /* counts every change of a layout or of what a field means */

#define QLB_TABLE_CONFIGS 8u      /* one for each value of the three config bits; 7 is never configured */
#define QLB_SERVER_PROBES 8u      /* slots that a lookup may visit; table.py grows the table until that is enough */
#define QLB_NOBODY 0xffffffffu    /* the backend index of a server slot that is free */
#define QLB_MAX_BACKENDS 65536u   /* backend indexes that may exist */
#define QLB_MAX_RING_SLOTS (1u << 21)
#define QLB_MAX_SERVER_SLOTS (1u << 24)

/* The first of the table: 240 octets. Offsets are in octets from its start; the kernel plane, whose parts are
 * maps, leaves them unread. */
struct qlb_head {
    uint32_t magic;
    uint32_t version;
    uint64_t generation;
    uint32_t size_bytes;    /* of the whole table */
    uint32_t configs_at;    /* QLB_TABLE_CONFIGS of struct qlb_config */
    uint32_t servers_at;    /* server_slots of struct qlb_server */
    uint32_t backends_at;   /* backend_slots of uint32_t: flags by backend index */
    uint32_t ring_at;       /* ring_slots of uint32_t: backend indexes, each of a backend that takes new connections */
    uint32_t server_slots;  /* a power of two */
    uint32_t backend_slots; /* 0 to QLB_MAX_BACKENDS */
    uint32_t ring_slots;    /* 0 where no backend takes new connections */
    uint64_t server_seed;   /* odd; table.py tries others until QLB_SERVER_PROBES are enough */
    uint64_t unused;
    struct qlb_schedule hash_schedule; /* of the fallback's hash */
};

/* How the connection IDs of a config are read. */
enum {
    QLB_NOT_CONFIGURED,
    QLB_PLAINTEXT,
    QLB_SINGLE_PASS, /* one block */
    QLB_THREE_PASS,  /* four-pass, and the server ID lies in the half that three passes recover */
    QLB_FOUR_PASS,   /* four-pass, and the server ID is longer than the nonce */
};

/* One config: 408 octets. Masks are as struct qlb_block reads octets. */
struct qlb_config {
    uint8_t algorithm;
    uint8_t server_id_len;       /* 1 to 15 octets */
    uint8_t nonce_len;           /* 4 to 18 octets */
    uint8_t length_self_encoded; /* 1: a long header's ID must be as long as its first octet says */
    uint8_t unused[4];
    uint8_t server_id_mask[16];    /* keeps the server ID of a block that begins with it */
    uint8_t left_mask[16];         /* four-pass: keeps the left half's bits of its lane */
    uint8_t right_mask[16];        /* four-pass: the right half's; of odd lengths without the first nibble */
    struct qlb_schedule encrypt_schedule;
    struct qlb_schedule decrypt_schedule;
};

/* A server ID and its backend: 24 octets, a slot of a hash table with open addressing. */
struct qlb_server {
    uint64_t low;  /* octets 0 to 7 of the server ID, zeros after its end; as struct qlb_block reads them */
    uint64_t high; /* octets 8 to 14, and in octet 15 the config ID */
    uint32_t index; /* of the backend, or QLB_NOBODY */
    uint32_t unused;
};

/* Flags of a backend. */
#define QLB_PRESENT 1u     /* it is in the configuration */
#define QLB_HEALTHY 2u     /* the probe's last verdict */
#define QLB_ACCEPTS_NEW 4u /* healthy, active and of some weight */

/* Where a lookup of a server ID begins. table.py computes the same. Multiplications carry differences up and
 * shifts bring them down, twice, since server IDs are often a counter in some of their octets. */
QLB_INLINE uint32_t qlb_server_hash(uint64_t seed, const struct qlb_block *key)
{
    uint64_t hash = key->low ^ key->high * seed;
    hash = (hash ^ hash >> 32) * seed;
    hash = (hash ^ hash >> 32) * seed;
    return (uint32_t)(hash >> 32);
}

#endif
