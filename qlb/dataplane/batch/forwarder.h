/* The batch plane: the declarations that its files share, and the path of a datagram through them.
 *
 * loop.c waits for sockets. forward.c receives from clients, decides (core/route.h) and finds the session;
 * sources.c recognises addresses that no client has. reply.c receives from backends, unless gate.c pauses the session
 * because the queue towards clients is full; shown.c checks the IDs of the servers. outbox.c sends the collected datagrams, many with one call if they have
 * the same destination. session_sockets.c opens and closes the sessions' sockets, ports.c finds local ports for them,
 * silence.h recognises sessions that no longer get answers. latency.c measures some datagrams. plane.c is the Python
 * class.
 *
 * One thread runs all of it without the GIL. Other threads pass new orders to it in `pending`. Every datagram that is
 * received from a client is counted as received, and then as forwarded or as dropped, exactly once.
 */
#ifndef QLB_BATCH_FORWARDER_H
#define QLB_BATCH_FORWARDER_H

#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "control.h"
#include "counters.h"
#include "../core/route.h"
#include "decider.h"
#include "sessions.h"

#define QLB_BATCH 64              /* receives of one call */
#define QLB_GROUP_DATAGRAMS 64    /* datagrams in one send: UDP_MAX_SEGMENTS of older kernels */
#define QLB_GROUP_BYTES 65000u    /* less than the largest IP packet without its headers */
#define QLB_BUFFER_BYTES 65536    /* the largest datagram, or the largest piece that UDP_GRO makes */
#define QLB_BUFFER_STRIDE (QLB_BUFFER_BYTES + 21 * 64) /* so that the buffers begin in different sets of a cache */
#define QLB_MAX_LISTENERS 250
#define QLB_DEFERRED 4096  /* deferred datagrams of one batch; more are dropped */
#define QLB_AVOIDED_PORTS 16
#define QLB_PORT_TRIES 4   /* sockets to open until one has a port that is not avoided; the last one is used anyway */
#define QLB_OWN_HOSTS 1024 /* addresses of this machine that are remembered */
#define QLB_BEGINS_FLOW 128u /* added to the outcome of a datagram that began a flow */
_Static_assert(QLB_OUTCOMES <= QLB_BEGINS_FLOW, "an outcome and the mark fit into one octet");

/* A listener: the socket of one service address. */
struct qlb_listener {
    uint32_t watched; /* QLB_WATCHED_LISTENER */
    int fd;
    uint8_t family;
    uint8_t wildcard;
    struct qlb_endpoint endpoint;
    /* The send queue towards clients (gate.c). */
    uint32_t queue_limit; /* octets */
    uint32_t queued;      /* octets when last measured */
    uint32_t unchecked;   /* octets sent since then */
    uint32_t closings;    /* how often the limit was reached */
    uint8_t is_closed;    /* 1: the limit is reached now */
    struct qlb_session *paused_first;
    struct qlb_session *paused_last;
    struct qlb_session *trial; /* the session that is being tried, or a null pointer */
    uint64_t trial_ns;         /* when the trial began */
    uint32_t trial_queued;     /* octets in the queue when the trial began */
    uint32_t trial_bytes;      /* octets that the session has returned since then */
};

/* Datagrams of one length (the last may be shorter) that one call sends. */
struct qlb_group {
    struct qlb_session *session;
    uint32_t bytes;
    uint16_t size; /* octets of each datagram but the last */
    uint8_t count; /* datagrams */
    uint8_t parts_count;
    uint8_t traffic_class;
    uint8_t full; /* 1: no datagram may follow */
    uint8_t outcomes[QLB_GROUP_DATAGRAMS]; /* as decided, perhaps with QLB_BEGINS_FLOW; not used towards clients */
    struct iovec parts[QLB_GROUP_DATAGRAMS]; /* datagrams that are adjacent in memory are one part */
};

/* Groups that wait to be sent, in the order in which they were started. */
struct qlb_outbox {
    uint32_t count;
    struct qlb_group groups[QLB_BATCH];
};

/* A datagram that waits until those of open sessions are served, because it would open a session under overload. */
struct qlb_deferred {
    uint32_t receive; /* slot of the inbox */
    uint32_t at;      /* offset in it */
    uint32_t len;
    struct qlb_decision decision;
};

/* The buffers for received packets. */
struct qlb_inbox {
    uint8_t *octets; /* QLB_BATCH buffers */
    struct mmsghdr messages[QLB_BATCH];
    struct iovec buffers[QLB_BATCH];
    union qlb_sockaddr senders[QLB_BATCH];
    uint8_t control[QLB_BATCH][QLB_CONTROL_BYTES] __attribute__((aligned(8)));
};

/* Addresses of this machine, as last read. */
struct qlb_own_hosts {
    uint64_t read_ns; /* 0: never read */
    uint32_t count;
    uint8_t hosts[QLB_OWN_HOSTS][16];
};

/* The sample of one direction. */
struct qlb_latency {
    uint32_t batches;  /* received so far */
    uint64_t began_ns; /* the arrival of the measured datagram, on the wall clock; 0: none is being measured */
};

/* New orders for the plane. After it has adopted them, this struct contains the old ones, to be freed. */
struct qlb_orders {
    struct qlb_decider decider;
    struct qlb_endpoint *endpoints; /* malloc'd; one for each backend index of the table */
    uint32_t max_sessions;
    uint32_t max_ports;
    uint64_t session_timeout_ns;
    uint64_t routable_timeout_ns;
    int dscp; /* -1: as received */
    int gso_to_backends;
};

/* One batch plane: all its state. */
struct qlb_forwarder {
    uint32_t watched; /* QLB_WATCHED_WAKE */
    struct qlb_decider decider;
    struct qlb_sessions sessions;
    struct qlb_endpoint *endpoints;
    uint64_t session_timeout_ns;
    uint64_t routable_timeout_ns;
    uint32_t max_ports; /* local ports that this worker may use */
    uint32_t avoided_count;
    uint16_t avoided_ports[QLB_AVOIDED_PORTS]; /* local ports that sessions do not use */
    int dscp; /* of the packets that are sent; -1: as received */
    uint64_t ports_exhausted_until_ns;
    uint64_t next_sweep_ns;
    uint64_t now_ns; /* the start of this round, monotonic */
    uint32_t round;
    uint64_t *slots; /* shared counters */
    int epoll;
    int wake; /* an eventfd */
    int gro;  /* 1: UDP_GRO is requested */
    int gso;  /* 1: UDP_SEGMENT works, or has not failed yet */
    int gso_to_backends;     /* 1: use UDP_SEGMENT towards backends, too */
    int has_paused_sessions; /* 1: gate.c has paused sessions, or is trying one */
    uint32_t listeners_count;
    struct qlb_listener listeners[QLB_MAX_LISTENERS];
    struct qlb_inbox inbox;
    struct qlb_outbox outbox;
    struct qlb_own_hosts own_hosts;
    struct qlb_latency latency[2]; /* QLB_LATENCY_TO_BACKEND, QLB_LATENCY_TO_CLIENT */
    uint64_t opens_refilled_ns;
    uint32_t opens[2]; /* sessions that full batches may open: forward.c */
    uint32_t deferred_count;
    struct qlb_deferred deferred[QLB_DEFERRED];

    pthread_mutex_t mutex; /* protects the fields below */
    pthread_cond_t taken;  /* the loop has handled `pending` and `pause_wanted` */
    struct qlb_orders *pending;
    int running;
    int stopping;
    int pause_wanted; /* 1: do not read from clients; replies continue */
    int is_paused;    /* 1: the listeners are paused */
    int error;        /* why is_paused differs from pause_wanted: an errno, or 0 */
};

/* loop.c: prepare; run until stopped; submit orders and wait until the loop has adopted them; pause or resume reading
 * from clients, and wait until it has taken effect; request a stop; close everything. */
int qlb_forwarder_open(struct qlb_forwarder *forwarder);
int qlb_forwarder_run(struct qlb_forwarder *forwarder); /* returns 0, or an errno */
void qlb_forwarder_submit(struct qlb_forwarder *forwarder, struct qlb_orders *orders);
int qlb_forwarder_pause(struct qlb_forwarder *forwarder, int pause_wanted); /* returns 0, or an errno */
void qlb_forwarder_stop(struct qlb_forwarder *forwarder);
void qlb_forwarder_close(struct qlb_forwarder *forwarder);

/* inbox.c: receive up to `most` messages from a socket into the inbox, from slot `first` on, with their senders if
 * `named`. Return the number of messages, or -1 for an error. */
int qlb_inbox_open(struct qlb_inbox *inbox);
int qlb_inbox_receive(struct qlb_inbox *inbox, int fd, uint32_t first, uint32_t most, int named);

/* latency.c: ask the kernel to stamp the datagrams that arrive at a socket; receive as qlb_inbox_receive() does, and
 * measure the first datagram of some batches; count the sample when the datagrams of a direction have been sent, or
 * forget it if there were none. session: the one with this socket, or a null pointer for a listener. */
void qlb_latency_ask(int fd);
int qlb_latency_receive(struct qlb_forwarder *forwarder, int fd, const struct qlb_session *session, uint32_t first,
                        uint32_t most);
void qlb_latency_end(struct qlb_forwarder *forwarder, uint32_t direction, uint32_t sent);

/* forward.c: receive one batch from clients and send it on. */
void qlb_forward(struct qlb_forwarder *forwarder, uint32_t listener);

/* reply.c: receive from a backend and add the datagrams to the outbox. `used`: slots of the inbox that the outbox still
 * refers to. */
void qlb_reply(struct qlb_forwarder *forwarder, struct qlb_session *session, uint32_t *used);

/* shown.c: check the connection ID that a backend shows in a long header. len: octets of the datagram, at least 1. */
void qlb_check_shown(struct qlb_forwarder *forwarder, struct qlb_session *session, const uint8_t *octets, uint32_t len);

/* sources.c: return 1 if no client can have this address, else 0. service: the address that the datagram was sent to.
 * */
int qlb_is_bad_source(struct qlb_forwarder *forwarder, const struct qlb_endpoint *client, const uint8_t *service);

/* gate.c: control the send queue towards clients, which all clients of a listener share. */
void qlb_gate_open_listener(struct qlb_listener *listener);
int qlb_gate_admits(struct qlb_forwarder *forwarder, struct qlb_session *session);
void qlb_gate_note_received(struct qlb_forwarder *forwarder, struct qlb_session *session, uint32_t bytes);
void qlb_gate_note_sent(struct qlb_listener *listener, uint32_t bytes, int error);
void qlb_gate_forget(struct qlb_forwarder *forwarder, struct qlb_session *session);
int qlb_gate_resume(struct qlb_forwarder *forwarder); /* returns 1 if it has to be called again soon, else 0 */

/* outbox.c: add a datagram for a session; send all waiting datagrams to the backends, or to the clients. */
void qlb_outbox_add(struct qlb_forwarder *forwarder, struct qlb_session *session, const uint8_t *octets,
                    uint32_t len, uint8_t traffic_class, uint32_t outcome, void (*flush)(struct qlb_forwarder *));
void qlb_send_to_backends(struct qlb_forwarder *forwarder);
void qlb_send_to_clients(struct qlb_forwarder *forwarder);

/* ports.c: bind a socket to a local port, unless connect() may choose one. port: the port to use, or 0 for any. Return
 * the session's `shares`, or -1 with errno set if there is no port. */
int qlb_port_find(struct qlb_forwarder *forwarder, int fd, const struct qlb_endpoint *endpoint, uint16_t port);

/* session_sockets.c: the sessions' sockets. qlb_session_open() returns a null pointer and sets *outcome if it fails;
 * hop_limit: of the packet that opens the session. qlb_session_reopen() replaces a session's socket and returns 1; if
 * that fails, it returns 0 and the session still has the old one. */
struct qlb_session *qlb_session_open(struct qlb_forwarder *forwarder, const struct qlb_session_key *key,
                                      uint8_t hop_limit, uint32_t *outcome);
int qlb_session_reopen(struct qlb_forwarder *forwarder, struct qlb_session *session);
/* Raise the hop limit of a session to one less than that of a packet from its client. */
void qlb_session_raise_hop_limit(struct qlb_session *session, uint8_t received);
void qlb_sessions_set_gauges(const struct qlb_forwarder *forwarder);
int qlb_session_watch(const struct qlb_forwarder *forwarder, const struct qlb_session *session);
void qlb_session_close(struct qlb_forwarder *forwarder, struct qlb_session *session);
void qlb_sessions_close_all(struct qlb_forwarder *forwarder);
void qlb_sessions_evict_above(struct qlb_forwarder *forwarder, uint32_t limit);
void qlb_sessions_sweep(struct qlb_forwarder *forwarder);

#endif
