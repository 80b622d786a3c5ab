/* Layouts that the XDP program and Python share beside the table (core/table.h): constants and map values.
 *
 * Times are in the kernel's ticks (jiffies), because reading them is a single load. counters.py converts them to
 * milliseconds.
 *
 * layout.py defines the same layouts, and batch/layout.c compares them. Byte order and alignment are those of the
 * table. core/constants.h has the numbers.
 */
#ifndef QLB_XDP_LAYOUT_H
#define QLB_XDP_LAYOUT_H

#include "../core/hooks.h"
#include "../core/table.h"

/* Constants that Python sets before it loads the program. The verifier knows their values and removes the code of the
 * other modes. 40 octets. */
struct qlb_settings {
    uint32_t mode;       /* QLB_MODE_L2, QLB_MODE_IPIP or QLB_MODE_GUE */
    uint32_t gue_port;   /* the outer destination port */
    uint32_t service_slots; /* a power of two */
    uint32_t hop_ticks;     /* for this time, the kernel's answer about a next hop is used again */
    uint64_t service_seed; /* of qlb_server_hash() */
    uint64_t service_ports; /* bit n: a service has a port that is n modulo 64 */
    uint32_t redirect_only; /* 1: never use XDP_TX */
    uint32_t unused;
};

/* One generation of the maps' contents: the table's head, and fields that only this plane needs. Each offset in the
 * head is the index of a part's first element in its map. 264 octets. */
struct qlb_generation {
    struct qlb_head head;
    uint64_t flow_timeout_ticks; /* 0: no flow is remembered */
    uint64_t number;             /* of this generation, for the memo and the next hops; never used twice */
    uint64_t unused;
};

/* The address of a backend: 40 octets. */
struct qlb_destination {
    uint32_t flags;     /* as in the table: QLB_PRESENT and so on */
    uint8_t is_ipv6;    /* the family of the addresses below */
    uint8_t unused[3];
    uint32_t address[4]; /* as on the wire; an IPv4 address is the first word */
    uint32_t source[4];  /* of the outer header */
};

/* The data of one CPU about a backend: its counters, and the next hop to it. 80 octets. */
struct qlb_backend {
    uint64_t forwarded[3];    /* by cid, flow, fallback */
    uint64_t forwarded_bytes; /* of UDP payload */
    uint64_t new_flows;       /* datagrams that began a flow */
    uint64_t last_seen;       /* ticks */
    uint32_t hop_expires;  /* ticks, the lower 32 bits */
    uint32_t hop_number;   /* of the destination's generation, the lower 32 bits; 0: no hop is known */
    uint32_t hop_ingress;  /* the interface that packets arrived on */
    uint32_t hop_interface;
    uint32_t hop_macs[3]; /* destination, then source, as on the wire */
    uint16_t hop_mtu;
    uint16_t hop_vlan; /* identifier of the 802.1Q tag to write, 0 for none */
};

/* The key of an exit: the interface that the kernel returned for a next hop, and the interface that the packet arrived
 * on. mac: of the next hop, if the exit depends on it (a bridge); else zero. 16 octets. */
struct qlb_exit_key {
    uint32_t ingress;
    uint32_t interface;
    uint8_t mac[6];
    uint8_t unused[2];
};

/* An exit: how packets leave. The program never redirects to an interface without an exit in the map. 8 octets. */
struct qlb_exit {
    uint32_t interface; /* to redirect to */
    uint32_t vlan;      /* identifier of the 802.1Q tag to write, 0 for none */
};

/* A service address: one slot of a hash table with open addressing, as for server IDs in the core. 24 octets. */
struct qlb_service {
    uint64_t low; /* the address, an IPv4 one IPv4-mapped, in the order of struct qlb_block */
    uint64_t high;
    uint64_t port; /* its two octets, the first one lowest; 0 if the slot is free */
};

/* A question to the program and its answer: 32 octets. A BPF test run asks it, one at a time. */
struct qlb_question {
    uint64_t now;       /* ticks: the time of the decision; 0 means the current time */
    uint32_t remember;  /* 1: store the flow in the flow tables, as for a real packet */
    uint32_t decision;  /* the outcome that the core decided; not written if the packet is not for a service */
    uint32_t outcome;   /* the final outcome */
    int32_t backend;    /* index, or -1 */
    uint32_t interface; /* by which the packet leaves; 0 if it does not */
    uint32_t unused;
};

/* The memo of one decoded connection ID: 32 octets. */
struct qlb_memo {
    uint64_t low;
    uint64_t high;
    uint32_t rest; /* octets 16 to 18 and, in the highest, the config ID */
    uint32_t index;
    uint64_t number; /* of the generation */
};

/* Memos are grouped in pages, because each element of a per-CPU map costs one more pointer. A page is 16 KiB; the
 * kernel allows at most 32 KiB for an element. */
#define QLB_MEMO_PAGE 512u

struct qlb_memo_page {
    struct qlb_memo memos[QLB_MEMO_PAGE];
};

/* The entry of a flow. 16 octets. */
struct qlb_known_flow {
    uint64_t expires; /* ticks */
    uint64_t index;
};

#endif
