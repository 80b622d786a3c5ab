/* The sessions' sockets: each is connected to a backend. A client's first packet opens it, and a sweep closes it when
 * it is idle.
 *
 * forward.c opens sessions, outbox.c and forward.c replace dead sockets, loop.c sweeps. These functions evict another
 * session only if descriptors, memory, ports or the limit of the table are used up. When they close a session, they
 * first send the datagrams that wait for it.
 */
#include <linux/sock_diag.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "forwarder.h"

#define QLB_PORTS_RETRY_NS 1000000000ull
#define QLB_SWEEPS_PER_TIMEOUT 1024 /* a sweep checks 1/QLB_SWEEP_SHARES of the sessions: four checks in a timeout */
#define QLB_SWEEP_SHARES 256
#define QLB_SWEEP_LEAST 64 /* sessions that a sweep checks at least; few enough not to delay a round */
#define QLB_MIN_SWEEP_NS 10000000ull

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value); /* forwarding works without each of these options */
}

/* Make a socket that never fragments and that reports the traffic class. Return its descriptor, or -1. */
static int make_socket(const struct qlb_forwarder *forwarder, uint8_t family, int hop_limit)
{
    const int fd = socket(family == 6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (family == 6) {
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
        set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
        set_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, hop_limit);
        set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    } else {
        set_option(fd, IPPROTO_IP, IP_RECVTOS, 1);
        set_option(fd, IPPROTO_IP, IP_TTL, hop_limit);
        set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    }
    if (forwarder->gro)
        set_option(fd, IPPROTO_UDP, UDP_GRO, 1);
    return fd;
}

static int connect_to(int fd, const struct qlb_endpoint *endpoint)
{
    union qlb_sockaddr address;
    const socklen_t len = qlb_endpoint_to(endpoint, &address);
    return connect(fd, &address.any, len);
}

static uint16_t port_of(const struct qlb_endpoint *endpoint)
{
    return (uint16_t)(endpoint->port[0] << 8 | endpoint->port[1]);
}

/* Return the local address of a socket, or zeros if it is not known. */
static struct qlb_endpoint local_of(int fd)
{
    union qlb_sockaddr address;
    struct qlb_endpoint local = {.family = 0};
    socklen_t len = sizeof address;
    if (getsockname(fd, &address.any, &len) == 0)
        qlb_endpoint_from(&local, &address);
    return local;
}

/* Record the local address of a session's socket. */
static void note_local(struct qlb_sessions *sessions, struct qlb_session *session)
{
    const struct qlb_endpoint local = local_of(session->fd);
    memcpy(session->local, local.host, sizeof session->local);
    qlb_session_set_port(sessions, session, port_of(&local));
}

/* Check whether a local port is one that sessions avoid. */
static int is_avoided(const struct qlb_forwarder *forwarder, uint16_t port)
{
    for (uint32_t i = 0; i < forwarder->avoided_count; i++)
        if (forwarder->avoided_ports[i] == port)
            return 1;
    return 0;
}

/* Check whether an error means that descriptors, memory or local ports are used up. Only then may another session be
 * evicted: other errors concern this backend, and would occur again. */
static int is_used_up(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS || error == EAGAIN ||
           error == EADDRINUSE; /* not EADDRNOTAVAIL: there is no source address, and eviction does not add one */
}

/* Open a socket to a backend, on any local port. port: the local one to use, or 0 for any. shares: set to the session's
 * `shares`. Return the descriptor, or -1 with errno set. */
static int open_any(struct qlb_forwarder *forwarder, const struct qlb_endpoint *endpoint, uint8_t hop_limit,
                       uint16_t port, uint8_t *shares)
{
    const int fd = make_socket(forwarder, endpoint->family, hop_limit);
    if (fd < 0)
        return -1;
    const int found = qlb_port_find(forwarder, fd, endpoint, port);
    *shares = found > 0;
    if (found >= 0 && connect_to(fd, endpoint) == 0)
        return fd;
    const int error = errno;
    close(fd);
    if (error == EAGAIN && found == 0) {
        /* The kernel has searched all ports. Do not let it repeat the search for each packet of a flood. */
        forwarder->ports_exhausted_until_ns = forwarder->now_ns + QLB_PORTS_RETRY_NS;
        return open_any(forwarder, endpoint, hop_limit, port, shares);
    }
    errno = error;
    return -1;
}

/* Open a socket to a backend, on a port that is not avoided if a few tries find one. Arguments as of open_any(). */
static int open_socket(struct qlb_forwarder *forwarder, const struct qlb_endpoint *endpoint, uint8_t hop_limit,
                       uint16_t port, uint8_t *shares)
{
    int refused[QLB_PORT_TRIES - 1], count = 0; /* open until the end, so that none gets the same port again */
    int fd = open_any(forwarder, endpoint, hop_limit, port, shares);
    if (fd < 0 || port || !forwarder->avoided_count)
        return fd;
    while (fd >= 0 && count < QLB_PORT_TRIES - 1) {
        const struct qlb_endpoint local = local_of(fd);
        if (!is_avoided(forwarder, port_of(&local)))
            break;
        refused[count++] = fd;
        fd = open_any(forwarder, endpoint, hop_limit, 0, shares);
    }
    if (fd < 0)
        fd = refused[--count];
    while (count)
        close(refused[--count]);
    return fd;
}

/* Count the datagrams that a session's full receive queue has dropped since the last call. */
static void count_overflow(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    uint32_t figures[16] = {0};
    socklen_t len = sizeof figures;
    if (getsockopt(session->fd, SOL_SOCKET, SO_MEMINFO, figures, &len) < 0 || len <= 4 * SK_MEMINFO_DROPS)
        return;
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_RETURN_OVERFLOWED, figures[SK_MEMINFO_DROPS] - session->overflow);
    session->overflow = figures[SK_MEMINFO_DROPS];
}

void qlb_sessions_set_gauges(const struct qlb_forwarder *forwarder)
{
    qlb_set_slot(forwarder->slots, QLB_SLOT_SESSIONS, forwarder->sessions.count);
    qlb_set_slot(forwarder->slots, QLB_SLOT_SESSIONS_PROTECTED, forwarder->sessions.lists[1].count);
}

int qlb_session_watch(const struct qlb_forwarder *forwarder, const struct qlb_session *session)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = (void *)session}};
    return epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, session->fd, &event);
}

void qlb_session_close(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    if (session->group)
        qlb_send_to_backends(forwarder);
    qlb_gate_forget(forwarder, session);
    if (session->fd >= 0) {
        count_overflow(forwarder, session);
        close(session->fd);
    }
    session->fd = -1;
    qlb_session_remove(&forwarder->sessions, session);
    qlb_sessions_set_gauges(forwarder);
}

void qlb_sessions_close_all(struct qlb_forwarder *forwarder)
{
    struct qlb_session *session;
    while ((session = qlb_session_any(&forwarder->sessions)))
        qlb_session_close(forwarder, session);
    qlb_sessions_free_closed(&forwarder->sessions);
}

/* Close a session to make room. A session that was idle for longer than session_timeout is not counted as evicted. */
static void evict(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    const int was_in_time = forwarder->now_ns - session->last_used_ns < forwarder->session_timeout_ns;
    qlb_session_close(forwarder, session);
    if (was_in_time)
        qlb_add_to_slot(forwarder->slots, QLB_SLOT_SESSIONS_EVICTED, 1);
}

void qlb_sessions_evict_above(struct qlb_forwarder *forwarder, uint32_t limit)
{
    while (forwarder->sessions.count > limit)
        evict(forwarder, qlb_session_idlest(&forwarder->sessions));
}

/* Evict a session and open a socket in its place. Call it after an attempt failed with an error of is_used_up(). */
static int open_instead(struct qlb_forwarder *forwarder, const struct qlb_endpoint *endpoint, uint8_t hop_limit,
                        int error, uint8_t *shares)
{
    const int no_port = error == EAGAIN || error == EADDRINUSE;
    struct qlb_session *victim = no_port ? qlb_session_idlest_to(&forwarder->sessions, endpoint)
                                         : qlb_session_idlest(&forwarder->sessions);
    if (!victim)
        return -1;
    const uint16_t port = no_port ? victim->port : 0; /* its port becomes free for this backend */
    evict(forwarder, victim);
    return open_socket(forwarder, endpoint, hop_limit, port, shares);
}

/* Check whether a packet comes from the socket of one of this worker's sessions. If so, a backend is the balancer
 * itself, and the packet would loop. */
static int is_own(const struct qlb_forwarder *forwarder, const struct qlb_endpoint *client)
{
    const struct qlb_session *each = forwarder->sessions.ports->first[port_of(client)];
    for (; each; each = each->port_next)
        if (memcmp(each->local, client->host, sizeof client->host) == 0)
            return 1;
    return 0;
}

struct qlb_session *qlb_session_open(struct qlb_forwarder *forwarder, const struct qlb_session_key *key,
                                      uint8_t hop_limit, uint32_t *outcome)
{
    struct qlb_sessions *sessions = &forwarder->sessions;
    const struct qlb_endpoint *backend = &forwarder->endpoints[key->index];
    uint8_t shares;
    if (hop_limit <= 1 || is_own(forwarder, &key->client)) {
        *outcome = hop_limit <= 1 ? QLB_DROP_HOP_LIMIT : QLB_DROP_BAD_SOURCE;
        return NULL;
    }
    *outcome = QLB_DROP_NO_SESSION;
    int fd = open_socket(forwarder, backend, hop_limit - 1, 0, &shares);
    if (fd < 0 && is_used_up(errno))
        fd = open_instead(forwarder, backend, hop_limit - 1, errno, &shares);
    if (fd < 0 && !is_used_up(errno)) {
        qlb_count_send_error(forwarder->slots, errno, key->index, 0);
        *outcome = QLB_DROP_SEND_FAILED;
    }
    if (fd < 0)
        return NULL;
    /* Not earlier: an unreachable backend must not evict sessions. */
    qlb_sessions_evict_above(forwarder, sessions->limit - 1);
    struct qlb_session *session = qlb_session_add(sessions, key);
    if (!session) {
        close(fd);
        return NULL;
    }
    session->fd = fd;
    session->backend = *backend;
    session->shares = shares;
    session->hop_limit = hop_limit - 1;
    session->first_used_ns = forwarder->now_ns;
    note_local(sessions, session);
    if (qlb_session_watch(forwarder, session) < 0) {
        qlb_session_close(forwarder, session);
        return NULL;
    }
    qlb_sessions_set_gauges(forwarder);
    return session;
}

int qlb_session_reopen(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    uint8_t shares;
    int fd = open_socket(forwarder, &session->backend, session->hop_limit, 0, &shares);
    if (fd < 0 && errno == EAGAIN && session->port) { /* there is no other port: use its own again */
        set_option(session->fd, SOL_SOCKET, SO_REUSEADDR, 1);
        fd = open_socket(forwarder, &session->backend, session->hop_limit, session->port, &shares);
    }
    if (fd < 0)
        return 0;
    count_overflow(forwarder, session);
    close(session->fd);
    session->fd = fd;
    session->shares = shares;
    session->overflow = 0;
    note_local(&forwarder->sessions, session);
    if (!session->is_paused && qlb_session_watch(forwarder, session) < 0)
        session->reopen_at_ns = 0; /* out of memory: the session is not read until the next attempt */
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_SESSIONS_REOPENED, 1);
    return 1;
}

void qlb_session_raise_hop_limit(struct qlb_session *session, uint8_t received)
{
    session->hop_limit = (uint8_t)(received - 1);
    if (session->backend.family == 6)
        set_option(session->fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, session->hop_limit);
    else
        set_option(session->fd, IPPROTO_IP, IP_TTL, session->hop_limit);
}

static uint64_t timeout_of(const struct qlb_forwarder *forwarder, const struct qlb_session *session)
{
    return session->is_routable && forwarder->routable_timeout_ns > forwarder->session_timeout_ns
               ? forwarder->routable_timeout_ns
               : forwarder->session_timeout_ns;
}

/* Check some of the sessions for idleness. Each session is checked four times in a timeout. */
void qlb_sessions_sweep(struct qlb_forwarder *forwarder)
{
    struct qlb_sessions *sessions = &forwarder->sessions;
    const uint64_t pause_ns = forwarder->session_timeout_ns / QLB_SWEEPS_PER_TIMEOUT;
    if (forwarder->now_ns < forwarder->next_sweep_ns)
        return;
    forwarder->next_sweep_ns = forwarder->now_ns + (pause_ns > QLB_MIN_SWEEP_NS ? pause_ns : QLB_MIN_SWEEP_NS);
    const uint32_t share = sessions->count / QLB_SWEEP_SHARES + QLB_SWEEP_LEAST;
    for (uint32_t left = share < sessions->count ? share : sessions->count; left; left--) {
        struct qlb_session *session = qlb_sessions_next_to_sweep(sessions);
        if (!session)
            continue; /* the end of a list; the next call returns from the other one */
        if (session->last_used_ns + timeout_of(forwarder, session) < forwarder->now_ns)
            qlb_session_close(forwarder, session);
        else
            count_overflow(forwarder, session);
    }
}
