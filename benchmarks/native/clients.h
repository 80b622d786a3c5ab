/* The clients: each flow has another address of 127.0.0.0/8. All share one port and one socket.
 *
 * A forwarder sees them as separate clients. With one socket, a whole batch needs only one call, so that one core can
 * keep a forwarder on another core busy.
 */
#ifndef CLIENTS_H
#define CLIENTS_H

#include "traffic.h"

#define CLIENT_BATCH 64
#define FIRST_CLIENT 0x7f010001u /* 127.1.0.1 */

struct clients {
    int fd;
    uint32_t servers;                /* length of to: one forwarder, or all servers */
    struct sockaddr_in *to;
    uint8_t *octets;                 /* one burst per message */
    struct iovec pieces[CLIENT_BATCH];
    struct mmsghdr messages[CLIENT_BATCH];
    _Alignas(struct cmsghdr) uint8_t from[CLIENT_BATCH][CMSG_SPACE(sizeof(struct in_pktinfo))];
};

/* Open the clients' socket. port: of the forwarder; 0 = send directly to the servers, which the flows share evenly. */
static inline void open_clients(struct clients *clients, const struct traffic *traffic, uint16_t port, const uint16_t *servers)
{
    const size_t length = (size_t)traffic->size * traffic->burst;
    const struct sockaddr_in any = {.sin_family = AF_INET};
    clients->fd = open_socket(traffic);
    if (bind(clients->fd, (const struct sockaddr *)&any, sizeof any) < 0)
        fail("bind");
    clients->servers = port ? 1 : traffic->backends;
    clients->to = calloc(clients->servers, sizeof *clients->to);
    clients->octets = calloc(CLIENT_BATCH, length);
    if (!clients->to || !clients->octets)
        fail("calloc");
    for (uint32_t i = 0; i < clients->servers; i++)
        clients->to[i] = loopback(port ? port : servers[i]);
    for (uint32_t i = 0; i < CLIENT_BATCH; i++) {
        struct msghdr *message = &clients->messages[i].msg_hdr;
        clients->pieces[i] = (struct iovec){clients->octets + i * length, length};
        *message = (struct msghdr){.msg_namelen = sizeof *clients->to,
                                   .msg_iov = &clients->pieces[i],
                                   .msg_iovlen = 1,
                                   .msg_control = clients->from[i],
                                   .msg_controllen = sizeof clients->from[i]};
        *CMSG_FIRSTHDR(message) = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO};
    }
}

/* Send the bursts of the next flows, at most one batch. */
static inline void send_bursts(struct clients *clients, struct traffic *traffic, uint32_t count)
{
    const uint64_t now = clock_ns();
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t flow = next_flow(traffic);
        const struct in_pktinfo from = {.ipi_spec_dst.s_addr = htonl(FIRST_CLIENT + flow)};
        struct msghdr *message = &clients->messages[i].msg_hdr;
        message->msg_name = &clients->to[flow % clients->servers];
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(message)), &from, sizeof from);
        fill_burst(traffic, clients->pieces[i].iov_base, now);
    }
    for (uint32_t sent = 0; sent < count;) {
        const int more = sendmmsg(clients->fd, clients->messages + sent, count - sent, MSG_DONTWAIT);
        sent += more > 0 ? (uint32_t)more : 1; /* a message that cannot be sent is dropped */
    }
}

#endif
