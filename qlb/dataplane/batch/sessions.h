/* Proxy mode's ways back: one connected socket for each client 4-tuple and backend, found by a hash table.
 *
 * A session is no routing state: lose it and the client's next packet is routed by its connection ID all the
 * same, through a new socket. Hence the bound and the eviction, which is that of qlb/dataplane/sessions.py: a
 * clock hand passes over sessions that were used since its last visit, so that a flood of addresses, each seen
 * once, pushes out itself and not the calls. The hash is keyed, because clients choose their addresses.
 */
#ifndef QLB_BATCH_SESSIONS_H
#define QLB_BATCH_SESSIONS_H

#include "addresses.h"

struct qlb_group;

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

struct qlb_session {
    uint32_t watched; /* QLB_WATCHED_SESSION */
    int fd;           /* -1: it was closed in this round */
    struct qlb_session_key key;
    struct qlb_endpoint upstream; /* what its socket is connected to */
    struct qlb_session *next; /* in its bucket; after it was closed: in the graveyard */
    struct qlb_session *older;
    struct qlb_session *newer;
    struct qlb_session *port_next; /* another session on the same local port */
    struct qlb_group *group;       /* datagrams that wait to be sent for it in this round, or a null pointer */
    uint64_t last_used_ns;
    uint32_t overflow; /* datagrams that its full receive queue had cost when last asked */
    uint16_t port;     /* local, as a number */
    uint8_t renewed;   /* set on every use but the first, cleared by the clock hand */
    uint8_t shares;    /* its port may be bound again */
    uint8_t appetite;  /* receives that one call tries */
    uint32_t round;    /* in which its socket was last read */
    uint8_t client_len;
    union qlb_sockaddr client; /* as the socket calls want it */
};

#define QLB_PORTS 65536u

/* The local ports that sessions have. */
struct qlb_ports {
    struct qlb_session *first[QLB_PORTS]; /* a session on each */
    uint16_t held[QLB_PORTS];             /* those that have one, without gaps */
    uint16_t place[QLB_PORTS];            /* of a held one, in `held` */
    uint32_t count;
    uint32_t cursor; /* the place at which the last search for a port to share ended */
};

/* At most `limit` sessions. */
struct qlb_sessions {
    struct qlb_session **buckets;
    struct qlb_session *oldest;
    struct qlb_session *newest;
    struct qlb_session *sweep;     /* the next one that is looked at for idleness */
    struct qlb_session *graveyard; /* closed, but events of this round may name them */
    struct qlb_ports *ports;
    uint64_t secret[2];
    uint32_t bucket_mask;
    uint32_t limit;
    uint32_t count;
};

/* Open an empty table. Return 0, or -1 without memory or chance. */
int qlb_sessions_open(struct qlb_sessions *sessions, uint32_t limit);

/* Free the table, which is empty, and its graveyard. */
void qlb_sessions_close(struct qlb_sessions *sessions);

/* Return the session of a key, or a null pointer. */
struct qlb_session *qlb_session_find(const struct qlb_sessions *sessions, const struct qlb_session_key *key);

/* Make a session, the newest, which has no socket yet. Return a null pointer without memory. */
struct qlb_session *qlb_session_add(struct qlb_sessions *sessions, const struct qlb_session_key *key);

/* Set down which local port a session has got. */
void qlb_session_has_port(struct qlb_sessions *sessions, struct qlb_session *session, uint16_t port);

/* Take a session out, into the graveyard. */
void qlb_session_remove(struct qlb_sessions *sessions, struct qlb_session *session);

/* Free the sessions of the graveyard: no event names them any more. */
void qlb_sessions_bury(struct qlb_sessions *sessions);

/* Return the session that has been idle longest, approximately; a null pointer where there is none. */
struct qlb_session *qlb_session_idlest(struct qlb_sessions *sessions);

/* The same among those to one backend, roughly and within bounds. */
struct qlb_session *qlb_session_idlest_to(struct qlb_sessions *sessions, const struct qlb_endpoint *upstream);

/* Apply another limit to the hash table; who is above it is evicted by its owner. Return 0, or -1 without memory. */
int qlb_sessions_resize(struct qlb_sessions *sessions, uint32_t limit);

#endif
