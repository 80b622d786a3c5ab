/* The sessions' sockets: connected to a backend, opened with a client's first packet, closed when idle.
 *
 * Each has a local port of its own among those of the system, as long as this worker holds few of them: so many
 * that the machine's other programs still find some. From then on a port that this worker holds is used again
 * for other backends; the two ends' addresses together still tell the sockets apart. Who holds a port
 * alone has got it from the kernel, so two workers never share one.
 */
#include <linux/sock_diag.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "forwarder.h"

#define QLB_OWN_PORTS 8192u /* held by a worker before it prefers to share them among backends */
#define QLB_PORT_PROBES 256u
#define QLB_PORTS_RETRY_NS 1000000000ull
#define QLB_SWEEPS_PER_TIMEOUT 1024 /* a sweep looks at one of QLB_SWEEP_SHARES: four visits in a timeout */
#define QLB_SWEEP_SHARES 256
#define QLB_SWEEP_LEAST 64 /* sessions of one visit: what a round may be late for */
#define QLB_MIN_SWEEP_NS 10000000ull

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value); /* all are such that forwarding can do without */
}

/* A socket that never fragments and tells the ECN bits. Return its descriptor, or -1. */
static int make_socket(const struct qlb_forwarder *forwarder, uint8_t family)
{
    const int fd = socket(family == 6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (family == 6) {
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
        set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
        set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    } else {
        set_option(fd, IPPROTO_IP, IP_RECVTOS, 1);
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

/* The local port of a socket, as a number; 0 where it cannot be told. */
static uint16_t local_port(int fd)
{
    union qlb_sockaddr address;
    struct qlb_endpoint endpoint;
    socklen_t len = sizeof address;
    if (getsockname(fd, &address.any, &len) < 0)
        return 0;
    qlb_endpoint_from(&endpoint, &address);
    return (uint16_t)(endpoint.port[0] << 8 | endpoint.port[1]);
}

/* Whether the sessions of a port, of which this is the first, leave it to another one, to this backend. */
static int leaves_port(const struct qlb_session *session, const struct qlb_endpoint *endpoint)
{
    for (; session; session = session->port_next)
        if (session->upstream.family != endpoint->family ||
            memcmp(&session->upstream, endpoint, sizeof *endpoint) == 0)
            return 0;
    return 1;
}

/* Bind a socket to a local port that may have others on it. Return 0, or -1 with errno set. */
static int bind_to(int fd, uint8_t family, uint16_t port)
{
    const struct qlb_endpoint any = {.family = family, .port = {(uint8_t)(port >> 8), (uint8_t)port}};
    union qlb_sockaddr local;
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    const socklen_t len = qlb_endpoint_to(&any, &local);
    return bind(fd, &local.any, len);
}

/* Bind a socket to a port that sessions to other backends hold. Return 0, or -1 where there is none. */
static int share_port(struct qlb_ports *ports, int fd, const struct qlb_endpoint *endpoint)
{
    for (uint32_t i = 0; i < QLB_PORT_PROBES && i < ports->count; i++) {
        ports->cursor = (ports->cursor + 1) % ports->count;
        const uint16_t port = ports->held[ports->cursor];
        struct qlb_session *holder = ports->first[port];
        if (!leaves_port(holder, endpoint))
            continue;
        for (; holder; holder = holder->port_next) {
            if (!holder->shares)
                set_option(holder->fd, SOL_SOCKET, SO_REUSEADDR, 1);
            holder->shares = 1;
        }
        if (bind_to(fd, endpoint->family, port) == 0)
            return 0;
    }
    return -1;
}

/* Find a local port for a socket, if it should not be left to connect(). port: this one, or 0. Return what a
 * session with it must have in `shares`, or -1 with errno set where there is no port. */
static int find_port(struct qlb_forwarder *forwarder, int fd, const struct qlb_endpoint *endpoint, uint16_t port)
{
    const int exhausted = forwarder->ports_exhausted_until_ns > forwarder->now_ns;
    if (port)
        return bind_to(fd, endpoint->family, port) == 0 ? 1 : -1;
    if (!exhausted && forwarder->sessions.ports->count < QLB_OWN_PORTS)
        return 0;
    if (share_port(forwarder->sessions.ports, fd, endpoint) == 0)
        return 1;
    errno = EAGAIN;
    return exhausted ? -1 : 0;
}

/* Open a socket to a backend. port: the local one, or 0 for any. shares: set where it may be bound again.
 * Return its descriptor, or -1 with errno set: EAGAIN where no local port is left. */
static int open_socket(struct qlb_forwarder *forwarder, const struct qlb_endpoint *endpoint, uint16_t port,
                       uint8_t *shares)
{
    const int fd = make_socket(forwarder, endpoint->family);
    if (fd < 0)
        return -1;
    const int found = find_port(forwarder, fd, endpoint, port);
    *shares = found > 0;
    if (found >= 0 && connect_to(fd, endpoint) == 0)
        return fd;
    const int error = errno;
    close(fd);
    if (error == EAGAIN && found == 0) {
        /* To ask again costs a walk over all ports: not for each of a flood. */
        forwarder->ports_exhausted_until_ns = forwarder->now_ns + QLB_PORTS_RETRY_NS;
        return open_socket(forwarder, endpoint, port, shares);
    }
    errno = error;
    return -1;
}

/* Add what a session's full receive queue has cost since it was last asked. */
static void count_overflow(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    uint32_t figures[16] = {0};
    socklen_t len = sizeof figures;
    if (getsockopt(session->fd, SOL_SOCKET, SO_MEMINFO, figures, &len) < 0 || len <= 4 * SK_MEMINFO_DROPS)
        return;
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_RETURN_OVERFLOWED, figures[SK_MEMINFO_DROPS] - session->overflow);
    session->overflow = figures[SK_MEMINFO_DROPS];
}

static void count_sessions(struct qlb_forwarder *forwarder)
{
    qlb_set_slot(forwarder->slots, QLB_SLOT_SESSIONS, forwarder->sessions.count);
}

void qlb_upstream_close(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    if (session->group)
        qlb_send_to_backends(forwarder);
    if (session->fd >= 0) {
        count_overflow(forwarder, session);
        close(session->fd);
    }
    session->fd = -1;
    qlb_session_remove(&forwarder->sessions, session);
    count_sessions(forwarder);
}

void qlb_upstream_close_all(struct qlb_forwarder *forwarder)
{
    while (forwarder->sessions.oldest)
        qlb_upstream_close(forwarder, forwarder->sessions.oldest);
    qlb_sessions_bury(&forwarder->sessions);
}

static void evict(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    qlb_upstream_close(forwarder, session);
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_SESSIONS_EVICTED, 1);
}

void qlb_upstream_evict_above(struct qlb_forwarder *forwarder, uint32_t limit)
{
    while (forwarder->sessions.count > limit)
        evict(forwarder, qlb_session_idlest(&forwarder->sessions));
}

/* Open a socket after another try has failed with this error: in the place of a session that is closed for it. */
static int open_instead(struct qlb_forwarder *forwarder, const struct qlb_endpoint *endpoint, int error,
                        uint8_t *shares)
{
    const int no_port = error == EAGAIN; /* then a session to the same backend must leave its own */
    struct qlb_session *victim = no_port ? qlb_session_idlest_to(&forwarder->sessions, endpoint)
                                         : qlb_session_idlest(&forwarder->sessions);
    if (!victim)
        return -1;
    const uint16_t port = no_port ? victim->port : 0;
    evict(forwarder, victim);
    return open_socket(forwarder, endpoint, port, shares);
}

struct qlb_session *qlb_upstream_open(struct qlb_forwarder *forwarder, const struct qlb_session_key *key)
{
    struct qlb_sessions *sessions = &forwarder->sessions;
    const struct qlb_endpoint *upstream = &forwarder->endpoints[key->index];
    uint8_t shares;
    qlb_upstream_evict_above(forwarder, sessions->limit - 1);
    int fd = open_socket(forwarder, upstream, 0, &shares);
    if (fd < 0)
        fd = open_instead(forwarder, upstream, errno, &shares);
    if (fd < 0)
        return NULL;
    struct qlb_session *session = qlb_session_add(sessions, key);
    if (!session) {
        close(fd);
        return NULL;
    }
    session->fd = fd;
    session->upstream = *upstream;
    session->shares = shares;
    qlb_session_has_port(sessions, session, local_port(fd));
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = session}};
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        qlb_upstream_close(forwarder, session);
        return NULL;
    }
    count_sessions(forwarder);
    return session;
}

/* Look at some of the sessions, so that all are looked at four times in a timeout. */
void qlb_upstream_sweep(struct qlb_forwarder *forwarder)
{
    struct qlb_sessions *sessions = &forwarder->sessions;
    const uint64_t pause_ns = forwarder->session_timeout_ns / QLB_SWEEPS_PER_TIMEOUT;
    if (forwarder->now_ns < forwarder->next_sweep_ns)
        return;
    forwarder->next_sweep_ns = forwarder->now_ns + (pause_ns > QLB_MIN_SWEEP_NS ? pause_ns : QLB_MIN_SWEEP_NS);
    const uint32_t share = sessions->count / QLB_SWEEP_SHARES + QLB_SWEEP_LEAST;
    for (uint32_t left = share < sessions->count ? share : sessions->count; left; left--) {
        struct qlb_session *session = sessions->sweep ? sessions->sweep : sessions->oldest;
        if (!session)
            return;
        sessions->sweep = session->newer;
        if (session->last_used_ns + forwarder->session_timeout_ns < forwarder->now_ns)
            qlb_upstream_close(forwarder, session);
        else
            count_overflow(forwarder, session);
    }
}
