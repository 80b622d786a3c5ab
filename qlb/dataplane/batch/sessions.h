/* Sessions of proxy mode: one connected socket for each client 4-tuple and backend, found by a hash table.
 *
 * A session is not routing state. If it is lost, the client's next packet is routed by its connection ID through a
 * new socket. So the table is bounded. Eviction works as in qlb/dataplane/portable/sessions.py: there are two lists. A session
 * that its client has used in two separate seconds is protected. Unprotected sessions are evicted first, so that a
 * flood of addresses evicts itself and not the calls. Within a list, a clock hand skips sessions that were used
 * since its last visit. The hash is keyed, because clients choose their addresses.
 */
#ifndef QLB_BATCH_SESSIONS_H
#define QLB_BATCH_SESSIONS_H

#include <stddef.h>

#include "addresses.h"

struct qlb_group;

#define QLB_PROTECT_AFTER_NS 1000000000ull /* between a session's first use and the use that protects it */

/* What an event of the loop is about; each such thing begins with this number. */
enum {
    QLB_WATCHED_WAKE,
    QLB_WATCHED_LISTENER,
    QLB_WATCHED_SESSION,
};

/* 48 octets; each is compared. */
struct qlb_session_key {
    struct qlb_endpoint client;
    uint8_t service[16]; /* that the client sent to, of a listener on a wildcard; else zero */
    uint32_t index;      /* of the backend */
    uint16_t listener;   /* which one received it */
    uint16_t unused;
};

/* Four lines of the cache: to find it; forwarding; returning; all that is seldom looked at. */
struct qlb_session {
    uint32_t watched; /* QLB_WATCHED_SESSION */
    int fd;           /* -1: it was closed in this round */
    struct qlb_session_key key;
    struct qlb_session *next; /* in its bucket; after it was closed: in the graveyard */

    struct qlb_endpoint upstream; /* of the backend that its socket is connected to */
    struct qlb_group *group;      /* datagrams that wait to be sent for it in this round, or a null pointer */
    uint64_t first_used_ns;
    uint64_t last_used_ns;
    uint64_t mark_ns;      /* of the last mark: silence.h */
    uint8_t renewed;       /* set on every use but the first, cleared by the clock hand */
    uint8_t is_protected;  /* evicted last: its client has used it in two separate seconds */
    uint8_t is_routable;   /* a packet that was routed by its connection ID has used it */
    uint8_t is_answered;   /* its backend has answered at least once */
    uint8_t is_paused;     /* not read, because the queue towards clients is filling up */
    uint8_t sends_singly;  /* a path on its way takes no pieces of several datagrams */
    uint8_t marks;         /* without an answer */
    uint8_t silences;      /* sockets that it got in a row because no answer came */

    uint64_t window_ns;     /* since when window_bytes is counted */
    uint64_t fast_until_ns; /* its client takes packets quickly: gate.c */
    uint32_t window_bytes;  /* returned to the client */
    uint32_t round;         /* in which its socket was last read */
    union qlb_sockaddr client; /* as the socket calls want it */
    uint8_t client_len;
    uint8_t appetite;  /* receives that one call tries */
    uint8_t shares;    /* its port may be bound again */
    uint8_t hop_limit; /* of what is sent to the backend */
    uint16_t port;     /* local, as a number */
    uint16_t unused;
    uint32_t tried; /* the closing of the gate in which it was tried last */

    struct qlb_session *older;
    struct qlb_session *newer;
    struct qlb_session *port_next;   /* another session on the same local port */
    struct qlb_session *paused_next; /* the next paused session of the listener */
    uint64_t reopen_at_ns;  /* no new socket before this time */
    uint32_t first_mark_ms; /* of the count of marks */
    uint32_t overflow;      /* datagrams that its full receive queue had dropped when last asked */
    uint8_t local[16];      /* the host of its socket's own address */
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct qlb_session, upstream) == 64 && offsetof(struct qlb_session, window_ns) == 128 &&
                   sizeof(struct qlb_session) == 256,
               "fields that are used together share a line");

#define QLB_PORTS 65536u

/* The local ports that sessions have. */
struct qlb_ports {
    struct qlb_session *first[QLB_PORTS]; /* a session on each */
    uint16_t held[QLB_PORTS];             /* those that have one, without gaps */
    uint16_t place[QLB_PORTS];            /* of a held one, in `held` */
    uint32_t count;
    uint32_t cursor; /* the place at which the last search for a port to share ended */
};

/* Sessions in the order of the clock hand. */
struct qlb_session_list {
    struct qlb_session *oldest;
    struct qlb_session *newest;
    uint32_t count;
};

/* At most `limit` sessions. */
struct qlb_sessions {
    struct qlb_session **buckets;
    struct qlb_session_list lists[2]; /* unprotected and protected ones */
    struct qlb_session *sweep;        /* the next one that is looked at for idleness */
    struct qlb_session *graveyard;    /* closed, but events of this round may name them */
    struct qlb_ports *ports;
    uint64_t secret[2];
    uint32_t bucket_mask;
    uint32_t limit;
    uint32_t count;
    uint8_t sweep_list; /* the list that is being looked at for idleness */
};

/* Open an empty table. Return 0, or -1 without memory or chance. */
int qlb_sessions_open(struct qlb_sessions *sessions, uint32_t limit);

/* Free the table, which is empty, and its graveyard. */
void qlb_sessions_close(struct qlb_sessions *sessions);

/* Return the session of a key, or a null pointer. */
struct qlb_session *qlb_session_find(const struct qlb_sessions *sessions, const struct qlb_session_key *key);

/* Make a session, the newest, which has no socket yet. Return a null pointer without memory. */
struct qlb_session *qlb_session_add(struct qlb_sessions *sessions, const struct qlb_session_key *key);

/* Note which local port a session has; the one that it had before, if any, is given up. */
void qlb_session_set_port(struct qlb_sessions *sessions, struct qlb_session *session, uint16_t port);

/* Note that the client has used a session. Return whether it became protected by that. */
int qlb_session_use(struct qlb_sessions *sessions, struct qlb_session *session, uint64_t now_ns);

/* Return the next session to look at for idleness, or a null pointer at the end of a list. */
struct qlb_session *qlb_session_sweep(struct qlb_sessions *sessions);

/* Return any session, or a null pointer. */
struct qlb_session *qlb_session_any(const struct qlb_sessions *sessions);

/* Take a session out, into the graveyard. */
void qlb_session_remove(struct qlb_sessions *sessions, struct qlb_session *session);

/* Free the sessions of the graveyard: no event names them any more. */
void qlb_sessions_bury(struct qlb_sessions *sessions);

/* Return the session to evict: approximately the one that is idle longest, unprotected ones first; a null pointer if
 * there is none. */
struct qlb_session *qlb_session_idlest(struct qlb_sessions *sessions);

/* The same among the sessions to one backend; looks at a bounded number. */
struct qlb_session *qlb_session_idlest_to(struct qlb_sessions *sessions, const struct qlb_endpoint *upstream);

/* Apply another limit to the hash table; the owner evicts the sessions above it. Return 0, or -1 without memory. */
int qlb_sessions_resize(struct qlb_sessions *sessions, uint32_t limit);

#endif
