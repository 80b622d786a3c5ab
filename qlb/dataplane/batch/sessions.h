/* The table of sessions of proxy mode: one connected socket for each client 4-tuple and backend, in a hash table.
 *
 * forward.c finds sessions, session_sockets.c adds and removes them together with their sockets. The table never grows
 * above its limit, and a removed session stays in memory until the end of the round.
 *
 * A session is not routing state. If it is lost, the client's next packet is routed by its connection ID through a
 * new socket. So the table can be bounded. Eviction works as in portable/sessions.py: there are two lists. A session is
 * protected once its client has used it again at least one second after the first use. Unprotected sessions
 * are evicted first, so that a flood of addresses evicts its own sessions and not the calls. Within a list, a clock
 * hand skips sessions that were used since its last visit. The hash is keyed, because clients choose their addresses.
 */
#ifndef QLB_BATCH_SESSIONS_H
#define QLB_BATCH_SESSIONS_H

#include <stddef.h>

#include "addresses.h"

struct qlb_group;

#define QLB_PROTECT_AFTER_NS 1000000000ull /* from a session's first use to a use that protects it, at least */

/* The kinds of structs that an event of the loop may point to. Each of them begins with its kind. */
enum {
    QLB_WATCHED_WAKE,
    QLB_WATCHED_LISTENER,
    QLB_WATCHED_SESSION,
};

/* The key of a session. 48 octets; a lookup compares each of them. */
struct qlb_session_key {
    struct qlb_endpoint client;
    uint8_t service[16]; /* the address that the client sent to, if the listener's is a wildcard; else zero */
    uint32_t index;      /* of the backend */
    uint16_t listener;   /* that received the packets */
    uint16_t unused;
};

/* A session. Four cache lines: for lookups; for forwarding; for returning; for fields that are seldom used. */
struct qlb_session {
    uint32_t watched; /* QLB_WATCHED_SESSION */
    int fd;           /* -1: it was closed in this round */
    struct qlb_session_key key;
    struct qlb_session *next; /* in its bucket; after it was closed: in the list of closed sessions */

    struct qlb_endpoint backend; /* the address that its socket is connected to */
    struct qlb_group *group;     /* its open group in the outbox, or a null pointer */
    uint64_t first_used_ns;
    uint64_t last_used_ns;
    uint64_t mark_ns;      /* the time of the last mark: silence.h */
    uint8_t renewed;       /* set by every use but the first, cleared by the clock hand */
    uint8_t is_protected;  /* evicted last: its client has used it again QLB_PROTECT_AFTER_NS after the first use */
    uint8_t is_routable;   /* a packet that was routed by its connection ID has used it */
    uint8_t is_answered;   /* its backend has answered at least once */
    uint8_t is_paused;     /* its socket is not read, because the queue towards clients is filling up */
    uint8_t sends_singly;  /* its path does not accept pieces of several datagrams */
    uint8_t marks;         /* marks without an answer */
    uint8_t silences;      /* sockets in a row that were replaced because no answer came */

    uint64_t window_ns;     /* the beginning of the window of window_bytes */
    uint64_t fast_until_ns; /* its client is fast: gate.c */
    uint32_t window_bytes;  /* octets returned to the client in this window */
    uint32_t round;         /* in which its socket was last read */
    union qlb_sockaddr client; /* in the form that the socket calls need */
    uint8_t client_len;
    uint8_t receives;  /* receives that the next call tries */
    uint8_t shares;    /* its port may be bound again */
    uint8_t hop_limit; /* of packets to the backend */
    uint16_t port;     /* local, in host byte order */
    uint16_t shown; /* of the last ID that its backend showed in a long header: shown.c; 0 = it has shown none */
    uint32_t tried; /* the number of the gate's closing in which it was tried last */

    struct qlb_session *older;
    struct qlb_session *newer;
    struct qlb_session *port_next;   /* another session on the same local port */
    struct qlb_session *paused_next; /* the next paused session of the listener */
    uint64_t reopen_at_ns;  /* no new socket before this time */
    uint32_t first_mark_ms; /* the time of the first of `marks` */
    uint32_t overflow;      /* datagrams that its full receive queue had dropped when last read */
    uint8_t local[16];      /* the host of its socket's local address */
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct qlb_session, backend) == 64 && offsetof(struct qlb_session, window_ns) == 128 &&
                   sizeof(struct qlb_session) == 256,
               "fields that are used together share a cache line");

#define QLB_PORTS 65536u

/* The local ports that sessions use. */
struct qlb_ports {
    struct qlb_session *first[QLB_PORTS]; /* the first session on each port, or a null pointer */
    uint16_t used[QLB_PORTS];             /* the ports that sessions use, without gaps */
    uint16_t index_of[QLB_PORTS];         /* the index of a used port in `used` */
    uint32_t count;
    uint32_t cursor; /* the index in `used` at which the last search for a port to share ended */
};

/* Sessions in the order of the clock hand. */
struct qlb_session_list {
    struct qlb_session *oldest;
    struct qlb_session *newest;
    uint32_t count;
};

/* The table: at most `limit` sessions. */
struct qlb_sessions {
    struct qlb_session **buckets;
    struct qlb_session_list lists[2]; /* unprotected, then protected */
    struct qlb_session *sweep;        /* the next one to check for idleness */
    struct qlb_session *closed;       /* closed, but events of this round may still point to them */
    struct qlb_ports *ports;
    uint64_t secret[2];
    uint32_t bucket_mask;
    uint32_t limit;
    uint32_t count;
    uint8_t sweep_list; /* the list that is being checked for idleness */
};

/* Initialize an empty table. Return 0, or -1 if there is no memory or no random secret. */
int qlb_sessions_init(struct qlb_sessions *sessions, uint32_t limit);

/* Free the table, which is empty, and its closed sessions. */
void qlb_sessions_free(struct qlb_sessions *sessions);

/* Return the session of a key, or a null pointer.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
struct qlb_session *qlb_session_find(const struct qlb_sessions *sessions, const struct qlb_session_key *key);

/* Add a session without a socket, as the newest. Return a null pointer if there is no memory. */
struct qlb_session *qlb_session_add(struct qlb_sessions *sessions, const struct qlb_session_key *key);

/* Record a session's local port, or none if port is 0. The session releases the port that it had before, if any. */
void qlb_session_set_port(struct qlb_sessions *sessions, struct qlb_session *session, uint16_t port);

/* Record that the client has used a session. Return 1 if the session became protected by this use, else 0.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
int qlb_session_use(struct qlb_sessions *sessions, struct qlb_session *session, uint64_t now_ns);

/* Return the next session to check for idleness, or a null pointer at the end of a list. */
struct qlb_session *qlb_sessions_next_to_sweep(struct qlb_sessions *sessions);

/* Return any session, or a null pointer. */
struct qlb_session *qlb_session_any(const struct qlb_sessions *sessions);

/* Remove a session from the table and put it on the list of closed sessions. */
void qlb_session_remove(struct qlb_sessions *sessions, struct qlb_session *session);

/* Free the closed sessions. Call it when no event points to them any more. */
void qlb_sessions_free_closed(struct qlb_sessions *sessions);

/* Return the session to evict: approximately the one that has been idle longest, unprotected ones first. Return a null
 * pointer if there is none. */
struct qlb_session *qlb_session_idlest(struct qlb_sessions *sessions);

/* Do the same among the sessions to one backend. It checks a bounded number of sessions. */
struct qlb_session *qlb_session_idlest_to(struct qlb_sessions *sessions, const struct qlb_endpoint *backend);

/* Apply another limit to the hash table. The caller evicts the sessions above it. Return 0, or -1 if there is no
 * memory. */
int qlb_sessions_resize(struct qlb_sessions *sessions, uint32_t limit);

#endif
