/* Local ports of the sessions' sockets.
 *
 * A session has a local port of its own as long as this worker holds few of them. Beyond that, a port that this worker
 * holds is used again for other backends: the addresses of the two ends still tell the sockets apart. The first
 * holder of a port gets it from the kernel alone, so two workers never share one.
 *
 * A worker never holds more ports than its orders allow, so that all workers together leave some for health probes and
 * for the machine's other programs.
 */
#include <unistd.h>

#include "forwarder.h"

#define QLB_OWN_PORTS 8192u /* held by a worker before it prefers to share them among backends */
#define QLB_PORT_PROBES 256u

/* Whether a new session to a backend may use the port of these sessions: none of them goes to that backend. */
static int is_free_for(const struct qlb_session *session, const struct qlb_endpoint *endpoint)
{
    for (; session; session = session->port_next)
        if (session->upstream.family != endpoint->family ||
            memcmp(&session->upstream, endpoint, sizeof *endpoint) == 0)
            return 0;
    return 1;
}

static int reuse_address(int fd)
{
    const int on = 1;
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

/* Bind a socket to a local port that may have others on it. Return 0, or -1 with errno set. */
static int bind_to(int fd, uint8_t family, uint16_t port)
{
    const struct qlb_endpoint any = {.family = family, .port = {(uint8_t)(port >> 8), (uint8_t)port}};
    union qlb_sockaddr local;
    (void)reuse_address(fd); /* without it, bind() fails */
    const socklen_t len = qlb_endpoint_to(&any, &local);
    return bind(fd, &local.any, len);
}

/* Bind a socket to a port that sessions to other backends hold. Return 0, or -1 if there is none. */
static int share_port(struct qlb_ports *ports, int fd, const struct qlb_endpoint *endpoint)
{
    for (uint32_t i = 0; i < QLB_PORT_PROBES && i < ports->count; i++) {
        ports->cursor = (ports->cursor + 1) % ports->count;
        const uint16_t port = ports->held[ports->cursor];
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
