/* What the program and Python tell each other beside the table (core/table.h): its constants and its maps' values.
 *
 * Times are in ticks of the kernel, jiffies: reading them is one load. clock.py makes milliseconds of them.
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
 * one. 40 octets. */
struct qlb_settings {
    uint32_t mode;
    uint32_t gue_port;   /* the outer destination port */
    uint32_t service_slots; /* a power of two */
    uint32_t hop_ticks;     /* how long the kernel's answer about a next hop is good for */
    uint64_t service_seed; /* of qlb_server_hash() */
    uint64_t service_ports; /* bit n: some service's port is n modulo 64 */
    uint32_t redirect_only; /* 1: never XDP_TX */
    uint32_t unused;
};

/* One generation of the configuration: the table's head, whose offsets are here the first elements of its
 * parts in their maps, and what only this plane needs. 264 octets. */
struct qlb_generation {
    struct qlb_head head;
    uint64_t flow_timeout_ticks; /* 0 = remember no flows */
    uint64_t number;          /* of the contents of the maps, for the memo; never the same again */
    uint64_t unused;
};

/* Where a backend is: 40 octets. */
struct qlb_destination {
    uint32_t flags;     /* as in the table: QLB_PRESENT and so on */
    uint8_t is_ipv6;    /* the family of what follows */
    uint8_t unused[3];
    uint32_t address[4]; /* as on the wire; IPv4: the first of them */
    uint32_t source[4];  /* of the outer header */
};

/* What a CPU knows of a backend: its counts, and the next hop to it. One line of its cache, 64 octets. */
struct qlb_backend {
    uint64_t forwarded[3]; /* by cid, flow, fallback */
    uint64_t last_seen;    /* ticks */
    uint32_t hop_expires;  /* ticks, the lower 32 bits */
    uint32_t hop_number;   /* of the generation that the destination is of, the lower 32 bits; 0: no hop is known */
    uint32_t hop_ingress;  /* interface that packets came in by */
    uint32_t hop_interface;
    uint32_t hop_macs[3]; /* destination, then source, as on the wire */
    uint16_t hop_mtu;
    uint16_t hop_vlan; /* identifier of the 802.1Q tag to write, 0 for none */
};

/* A way out: the interface that the kernel names for a next hop, as seen from the interface that a packet came in at.
 * mac: of the next hop, where it decides (a bridge); else zero. 16 octets. */
struct qlb_exit_key {
    uint32_t ingress;
    uint32_t interface;
    uint8_t mac[6];
    uint8_t unused[2];
};

#define QLB_MAX_EXITS 16384u

/* How the packet leaves there. A way out that is not in the map accepts no packets from this program. 8 octets. */
struct qlb_exit {
    uint32_t interface; /* to redirect to */
    uint32_t vlan;      /* identifier of the 802.1Q tag to write, 0 for none */
};

/* A service address: a slot of a hash table with open addressing, as a server ID in the core. 24 octets. */
struct qlb_service {
    uint64_t low; /* the address, IPv4-mapped, as struct qlb_block reads it */
    uint64_t high;
    uint64_t port; /* its two octets, the first one lowest; 0 where the slot is free */
};

/* A question to the program and its answer: 32 octets. Asked by BPF test-run, one at a time. */
struct qlb_question {
    uint64_t now;       /* ticks: the time to decide at; 0 becomes the clock's */
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

/* Memos lie together in pages, since each element of a per-CPU map is another step away. A page is 16 KiB; the most that
 * the kernel gives to an element is 32. */
#define QLB_MEMO_PAGE 512u
#define QLB_MEMO_PAGES 16u

struct qlb_memo_page {
    struct qlb_memo memos[QLB_MEMO_PAGE];
};

/* A flow's entry. 16 octets. */
struct qlb_known_flow {
    uint64_t expires; /* ticks */
    uint64_t index;
};

#endif
