/* What the program and Python tell each other beside the table (core/table.h): its constants and its maps' values.
 *
 * Layouts stand here and in layout.py; tests/dataplane/core/test_layout.py compares them. Byte order and alignment
 * are the table's.
 */
#ifndef QLB_XDP_LAYOUT_H
#define QLB_XDP_LAYOUT_H

#include "../core/hooks.h"
#include "../core/table.h"

/* How a packet reaches its backend. */
enum {
    QLB_MODE_L2,   /* as it is, to the backend's MAC address */
    QLB_MODE_IPIP, /* inside another IP header (RFC 2003, RFC 2473, RFC 4213) */
    QLB_MODE_GUE,  /* inside IP and UDP, without a header between (draft-ietf-intarea-gue, variant 1) */
};

/* Constants, set before the program is loaded: the verifier sees their values, and of the modes only the chosen
 * one. 24 octets. */
struct qlb_settings {
    uint32_t mode;
    uint32_t gue_port;   /* the outer destination port */
    uint32_t memo_slots; /* of each CPU, a power of two; 0 = none */
    uint32_t service_slots; /* a power of two */
    uint64_t service_seed; /* of qlb_server_hash() */
};

/* One generation of the configuration: the table's head, whose offsets are here the first elements of its
 * parts in their maps, and what only this plane needs. 264 octets. */
struct qlb_generation {
    struct qlb_head head;
    uint64_t flow_timeout_ns; /* 0 = remember no flows */
    uint64_t number;          /* of the contents of the maps, for the memo; never the same again */
    uint64_t unused;
};

/* Where a backend is: 40 octets. */
struct qlb_destination {
    uint32_t flags;     /* as in the table: QLB_PRESENT and so on */
    uint8_t is_ipv6;    /* the family of what follows */
    uint8_t unused[3];
    uint8_t address[16]; /* IPv4: the first four octets */
    uint8_t source[16];  /* of the outer header */
};

/* A service address: a slot of a hash table with open addressing, as a server ID in the core. 24 octets. */
struct qlb_service {
    uint64_t low; /* the address, IPv4-mapped, as struct qlb_block reads it */
    uint64_t high;
    uint64_t port; /* its two octets, the first one lowest; 0 where the slot is free */
};

/* A question to the program and its answer: 32 octets. Asked by BPF test-run, one at a time. */
struct qlb_question {
    uint64_t now_ns;    /* the time to decide at, or 0 for the clock's */
    uint32_t remember;  /* 1: flow tables learn from it, as from a packet */
    uint32_t decision;  /* outcome: what the core has decided; left as it is for what is not for a service */
    uint32_t outcome;   /* and what has become of it */
    int32_t backend;    /* index, or -1 */
    uint32_t interface; /* that it leaves by, 0 where it does not */
    uint32_t unused;
};

/* A memo of one decoded connection ID: 32 octets. */
struct qlb_memo {
    uint64_t low;
    uint64_t high;
    uint32_t rest; /* octets 16 to 18 and, in the highest, the config ID */
    uint32_t index;
    uint64_t number; /* of the generation */
};

/* A flow's entry. 16 octets. */
struct qlb_known_flow {
    uint64_t expires_ns;
    uint64_t index;
};

#endif
