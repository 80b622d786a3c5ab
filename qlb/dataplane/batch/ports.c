/* Local ports of the sessions' sockets.
 *
 * session_sockets.c calls qlb_port_find() for each new socket. Each session gets its own local port while this worker
 * uses few ports. Later, sessions to other backends share a port that this worker already uses: the addresses of the
 * two ends still distinguish the sockets. The kernel gives the port to the first session exclusively, so two workers
 * never share one.
 *
 * A worker never uses more ports than its orders allow, so that all workers together leave some for health probes and
 * for the machine's other programs.
 */
#include <unistd.h>

#include "forwarder.h"

#define QLB_OWN_PORTS 8192u /* ports that a worker uses before sessions to different backends share them */
#define QLB_PORT_PROBES 256u

/* Check whether a new session to a backend may share the port of these sessions: none of them goes to that backend. */
static int is_free_for(const struct qlb_session *session, const struct qlb_endpoint *endpoint)
{
    for (; session; session = session->port_next)
        if (session->backend.family != endpoint->family ||
            memcmp(&session->backend, endpoint, sizeof *endpoint) == 0)
            return 0;
    return 1;
}

static int reuse_address(int fd)
{
    const int on = 1;
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

/* Bind a socket to a local port that other sockets may use, too. Return 0, or -1 with errno set. */
static int bind_to(int fd, uint8_t family, uint16_t port)
{
    const struct qlb_endpoint any = {.family = family, .port = {(uint8_t)(port >> 8), (uint8_t)port}};
    union qlb_sockaddr local;
    (void)reuse_address(fd); /* without it, bind() fails */
    const socklen_t len = qlb_endpoint_to(&any, &local);
    return bind(fd, &local.any, len);
}

/* Bind a socket to a port that only sessions to other backends use. Return 0, or -1 if there is none. */
static int share_port(struct qlb_ports *ports, int fd, const struct qlb_endpoint *endpoint)
{
    for (uint32_t i = 0; i < QLB_PORT_PROBES && i < ports->count; i++) {
        ports->cursor = (ports->cursor + 1) % ports->count;
        const uint16_t port = ports->used[ports->cursor];
        struct qlb_session *holder = ports->first[port];
        if (!is_free_for(holder, endpoint))
            continue;
        for (; holder; holder = holder->port_next) {
            if (!holder->shares)
                (void)reuse_address(holder->fd);
            holder->shares = 1;
        }
        if (bind_to(fd, endpoint->family, port) == 0)
            return 0;
    }
    return -1;
}

int qlb_port_find(struct qlb_forwarder *forwarder, int fd, const struct qlb_endpoint *endpoint, uint16_t port)
{
    struct qlb_ports *ports = forwarder->sessions.ports;
    const uint32_t half = forwarder->max_ports / 2;
    const int is_exhausted =
        forwarder->ports_exhausted_until_ns > forwarder->now_ns || ports->count >= forwarder->max_ports;
    if (port)
        return bind_to(fd, endpoint->family, port) == 0 ? 1 : -1;
    if (!is_exhausted && ports->count < (half < QLB_OWN_PORTS ? half : QLB_OWN_PORTS))
        return 0;
    if (share_port(ports, fd, endpoint) == 0)
        return 1;
    errno = EAGAIN;
    return is_exhausted ? -1 : 0;
}
