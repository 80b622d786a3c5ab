/* The servers behind the forwarder: ports of one process that echo datagrams or only count them.
 *
 * With bursts, a server sends consecutive answers to the same client in one GSO send, as a real server would.
 */
#ifndef SERVERS_H
#define SERVERS_H

#include "tally.h"

#define BATCH 64
#define SINGLE_BYTES 2048
#define MERGED_BYTES 65536
#define MAX_SEGMENTS 64

struct inbox {
    uint32_t stride; /* octets of one buffer */
    uint8_t *octets;
    struct sockaddr_in names[BATCH];
    struct iovec pieces[BATCH], answers[BATCH];
    struct mmsghdr messages[BATCH], replies[BATCH];
};

static inline void inbox_open(struct inbox *inbox, const struct traffic *traffic)
{
    inbox->stride = traffic->burst > 1 ? MERGED_BYTES : SINGLE_BYTES;
    inbox->octets = malloc((size_t)inbox->stride * BATCH);
    if (!inbox->octets)
        fail("malloc");
    for (uint32_t i = 0; i < BATCH; i++) {
        inbox->pieces[i] = (struct iovec){inbox->octets + (size_t)i * inbox->stride, inbox->stride};
        inbox->messages[i].msg_hdr =
            (struct msghdr){.msg_name = &inbox->names[i], .msg_iov = &inbox->pieces[i], .msg_iovlen = 1};
    }
}

/* Receive at most one batch of waiting datagrams. */
static inline int receive(struct inbox *inbox, int fd)
{
    for (int i = 0; i < BATCH; i++)
        inbox->messages[i].msg_hdr.msg_namelen = sizeof inbox->names[i];
    return recvmmsg(fd, inbox->messages, BATCH, MSG_DONTWAIT, NULL);
}

/* Receive and count: on the clients' socket, or on a server that does not answer. */
static inline void receive_and_count(struct inbox *inbox, int fd, struct tally *tally, const struct traffic *traffic)
{
    const int count = receive(inbox, fd);
    for (int i = 0; i < count; i++)
        tally_count(tally, traffic, inbox->pieces[i].iov_base, inbox->messages[i].msg_len);
}

static inline int same_client(const struct sockaddr_in *one, const struct sockaddr_in *other)
{
    return one->sin_port == other->sin_port && one->sin_addr.s_addr == other->sin_addr.s_addr;
}

/* Receive on a server's socket, and send the datagrams back. */
static inline void receive_and_echo(struct inbox *inbox, int fd, const struct traffic *traffic)
{
    const int count = receive(inbox, fd);
    uint32_t replies = 0, merged = 0;
    for (int i = 0; i < count; i++) {
        const uint32_t length = inbox->messages[i].msg_len;
        inbox->answers[i] = (struct iovec){inbox->pieces[i].iov_base, length};
        struct msghdr *last = replies ? &inbox->replies[replies - 1].msg_hdr : NULL;
        if (traffic->burst > 1 && last && same_client(last->msg_name, &inbox->names[i]) &&
            merged + length <= MAX_BURST_BYTES && merged + length <= MAX_SEGMENTS * traffic->size) {
            last->msg_iovlen++;
            merged += length;
            continue;
        }
        inbox->replies[replies++].msg_hdr = (struct msghdr){.msg_name = &inbox->names[i],
                                                            .msg_namelen = sizeof inbox->names[i],
                                                            .msg_iov = &inbox->answers[i],
                                                            .msg_iovlen = 1};
        merged = length;
    }
    for (uint32_t sent = 0; sent < replies;) {
        const int more = sendmmsg(fd, inbox->replies + sent, replies - sent, MSG_DONTWAIT);
        sent += more > 0 ? (uint32_t)more : 1; /* a message that cannot be sent is dropped */
    }
}

/* Bind a port for each backend; return the port numbers. */
static inline uint16_t *open_servers(const struct traffic *traffic, int poller, int *fds)
{
    uint16_t *ports = calloc(traffic->backends, sizeof *ports);
    if (!ports)
        fail("calloc");
    for (uint32_t i = 0; i < traffic->backends; i++) {
        struct sockaddr_in here = loopback(0);
        socklen_t length = sizeof here;
        fds[i] = open_socket(traffic);
        if (bind(fds[i], (const struct sockaddr *)&here, length) < 0 ||
            getsockname(fds[i], (struct sockaddr *)&here, &length) < 0)
            fail("bind");
        watch(poller, fds[i], i);
        ports[i] = ntohs(here.sin_port);
    }
    return ports;
}

#endif
