/* The batch plane: what its files share, and the way of a datagram through them.
 *
 * loop.c waits for sockets. forward.c receives from clients, decides (core/route.h) and finds the session;
 * reply.c receives from backends; outbox.c sends what both have put together, many datagrams with one call
 * where they go the same way. upstream.c opens and closes the sessions' sockets. plane.c is the Python class.
 *
 * One thread runs all of it without the GIL; what another thread wants is handed over in `pending`.
 */
#ifndef QLB_BATCH_FORWARDER_H
#define QLB_BATCH_FORWARDER_H

#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "control.h"
#include "counters.h"
#include "decider.h"
#include "sessions.h"

#define QLB_BATCH 64              /* receives of one call */
#define QLB_GROUP_DATAGRAMS 64    /* that one send may carry: UDP_MAX_SEGMENTS of older kernels */
#define QLB_GROUP_BYTES 65000u    /* below what an IP packet holds, headers and all */
#define QLB_BUFFER_BYTES 65536    /* the largest datagram, or the largest piece that UDP_GRO makes */
#define QLB_BUFFER_STRIDE (QLB_BUFFER_BYTES + 21 * 64) /* so that the buffers' beginnings use all sets of a cache */
#define QLB_MAX_LISTENERS 250

/* A service address. */
struct qlb_listener {
    uint32_t watched; /* QLB_WATCHED_LISTENER */
    int fd;
    uint8_t family;
    uint8_t wildcard;
    struct qlb_endpoint endpoint;
};

/* Datagrams of one length, the last may be shorter, that leave by one call. */
struct qlb_group {
    struct qlb_session *session;
    uint32_t bytes;
    uint16_t size; /* of each but the last */
    uint8_t count; /* datagrams */
    uint8_t parts_count;
    uint8_t ecn;
    uint8_t full; /* nothing may follow */
    uint8_t outcomes[QLB_GROUP_DATAGRAMS]; /* as decided; not used on the way back */
    struct iovec parts[QLB_GROUP_DATAGRAMS]; /* datagrams that lie side by side are one part */
};

/* Groups that wait to be sent, in the order in which they were begun. */
struct qlb_outbox {
    uint32_t count;
    struct qlb_group groups[QLB_BATCH];
};

/* Where receives put what came. */
struct qlb_inbox {
    uint8_t *octets; /* QLB_BATCH buffers */
    struct mmsghdr messages[QLB_BATCH];
    struct iovec buffers[QLB_BATCH];
    union qlb_sockaddr senders[QLB_BATCH];
    uint8_t control[QLB_BATCH][QLB_CONTROL_BYTES] __attribute__((aligned(8)));
};

/* What the plane is to do from now on. When it was taken over, it holds what it has replaced. */
struct qlb_orders {
    struct qlb_decider decider;
    struct qlb_endpoint *endpoints; /* malloc'd; of every backend index that the table names */
    uint32_t max_sessions;
    uint64_t session_timeout_ns;
    int gso_to_backends;
};

struct qlb_forwarder {
    uint32_t watched; /* QLB_WATCHED_WAKE */
    struct qlb_decider decider;
    struct qlb_sessions sessions;
    struct qlb_endpoint *endpoints;
    uint64_t session_timeout_ns;
    uint64_t ports_exhausted_until_ns;
    uint64_t next_sweep_ns;
    uint64_t now_ns; /* since when this round is under way, monotonic */
    uint32_t round;
    uint64_t *slots; /* shared counters */
    int epoll;
    int wake; /* an eventfd */
    int gro;  /* whether UDP_GRO is asked for */
    int gso;  /* whether UDP_SEGMENT works, as far as is known */
    int gso_to_backends; /* whether to use it towards them, too */
    uint32_t listeners_count;
    struct qlb_listener listeners[QLB_MAX_LISTENERS];
    struct qlb_inbox inbox;
    struct qlb_outbox outbox;

    pthread_mutex_t mutex; /* over what follows */
    pthread_cond_t taken;
    struct qlb_orders *pending;
    int running;
    int stopping;
    int hold; /* whether listeners are to be left unread; replies go on */
    int held; /* whether they are */
    int error; /* why they are not as wanted, an errno */
};

/* loop.c: prepare, run until stopped, hand over orders (waits until they are taken), leave listeners unread or read
 * them again (waits until that is so), ask to stop. */
int qlb_forwarder_open(struct qlb_forwarder *forwarder);
int qlb_forwarder_run(struct qlb_forwarder *forwarder); /* returns 0, or an errno */
void qlb_forwarder_submit(struct qlb_forwarder *forwarder, struct qlb_orders *orders);
int qlb_forwarder_hold(struct qlb_forwarder *forwarder, int hold); /* returns 0, or an errno */
void qlb_forwarder_stop(struct qlb_forwarder *forwarder);
void qlb_forwarder_close(struct qlb_forwarder *forwarder);

/* inbox.c: receive up to `most` messages of a socket into the inbox from slot `first` on, their senders too if
 * `named`; return how many came, -1 for an error. */
int qlb_inbox_open(struct qlb_inbox *inbox);
int qlb_inbox_receive(struct qlb_inbox *inbox, int fd, uint32_t first, uint32_t most, int named);

/* forward.c: receive one batch from clients and send it on. */
void qlb_forward(struct qlb_forwarder *forwarder, uint32_t listener);

/* reply.c: receive from a backend; what came waits in the outbox. `used`: slots of the inbox that wait. */
void qlb_reply(struct qlb_forwarder *forwarder, struct qlb_session *session, uint32_t *used);

/* outbox.c: add a datagram for a session; send all that waits to the backends, or to the clients. */
void qlb_outbox_add(struct qlb_forwarder *forwarder, struct qlb_session *session, const uint8_t *octets,
                    uint32_t len, uint8_t ecn, uint32_t outcome, void (*flush)(struct qlb_forwarder *));
void qlb_send_to_backends(struct qlb_forwarder *forwarder);
void qlb_send_to_clients(struct qlb_forwarder *forwarder);

/* upstream.c: the sessions' sockets. */
struct qlb_session *qlb_upstream_open(struct qlb_forwarder *forwarder, const struct qlb_session_key *key);
void qlb_upstream_close(struct qlb_forwarder *forwarder, struct qlb_session *session);
void qlb_upstream_close_all(struct qlb_forwarder *forwarder);
void qlb_upstream_evict_above(struct qlb_forwarder *forwarder, uint32_t limit);
void qlb_upstream_sweep(struct qlb_forwarder *forwarder);

#endif
