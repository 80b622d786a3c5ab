/* The floor of proxy mode: the minimum cost of a user-space forwarder with one socket per client.
 *
 * floor LISTEN_PORT BACKEND_PORT...: forwards on 127.0.0.1 with one thread.
 *
 * Towards backends: recvmmsg on the listener, one send per datagram on the client's connected socket. Towards clients:
 * one recv per readable socket, sendmmsg on the listener. It has no support for QUIC, ECN, GRO or GSO, never closes a
 * session, and chooses a backend by the client's address.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define DATAGRAM_BYTES 2048
#define SLOTS 65536u /* of the session table: a power of two; at most half of them are used */
#define RECEIVE_BUFFER_BYTES (4 << 20)

struct session {
    struct sockaddr_in client;
    int fd; /* connected to a backend; 0 in a free slot */
};

static struct session sessions[SLOTS];
static uint32_t opened;
static struct sockaddr_in backends[4096];
static uint32_t backend_count;
static int poller, listener;

static uint8_t octets[BATCH][DATAGRAM_BYTES];
static struct sockaddr_in names[BATCH];
static struct iovec pieces[BATCH];
static struct mmsghdr messages[BATCH];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void watch(int fd, struct session *session)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = session};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

static uint32_t hash(const struct sockaddr_in *client)
{
    uint64_t key = (uint64_t)client->sin_addr.s_addr << 16 | client->sin_port;
    key *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(key >> 32);
}

/* Return a client's session, and open it if necessary; NULL if the table is full or the socket cannot be opened. */
static struct session *session_of(const struct sockaddr_in *client)
{
    const uint32_t hashed = hash(client);
    struct session *session = &sessions[hashed % SLOTS];
    while (session->fd) {
        if (session->client.sin_port == client->sin_port &&
            session->client.sin_addr.s_addr == client->sin_addr.s_addr)
            return session;
        session = session == &sessions[SLOTS - 1] ? sessions : session + 1;
    }
    if (opened == SLOTS / 2)
        return NULL;
    const struct sockaddr_in *backend = &backends[hashed % backend_count];
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return NULL;
    if (connect(fd, (const struct sockaddr *)backend, sizeof *backend) < 0) {
        close(fd);
        return NULL;
    }
    opened++;
    session->client = *client;
    session->fd = fd;
    watch(fd, session);
    return session;
}

/* Receive at most one batch from clients, and send each datagram to its backend. */
static void forward(void)
{
    for (int i = 0; i < BATCH; i++) {
        pieces[i].iov_len = DATAGRAM_BYTES;
        messages[i].msg_hdr.msg_namelen = sizeof names[i];
    }
    const int count = recvmmsg(listener, messages, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++) {
        const struct session *session = session_of(&names[i]);
        if (session)
            (void)!send(session->fd, octets[i], messages[i].msg_len, MSG_DONTWAIT);
    }
}

/* Send a batch of answers to their clients. */
static void answer(int count)
{
    for (int sent = 0; sent < count;) {
        const int more = sendmmsg(listener, messages + sent, (unsigned)(count - sent), MSG_DONTWAIT);
        sent += more > 0 ? more : 1; /* a message that cannot be sent is dropped */
    }
}

static void open_all(int port)
{
    const struct sockaddr_in here = loopback(port);
    const int room = RECEIVE_BUFFER_BYTES;
    listener = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (listener < 0 || bind(listener, (const struct sockaddr *)&here, sizeof here) < 0)
        fail("bind");
    poller = epoll_create1(0);
    watch(listener, NULL);
    for (int i = 0; i < BATCH; i++) {
        pieces[i].iov_base = octets[i];
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &names[i], .msg_namelen = sizeof names[i], .msg_iov = &pieces[i], .msg_iovlen = 1};
    }
}

int main(int count, char **words)
{
    if (count < 3 || count - 2 > 4096) {
        fprintf(stderr, "floor LISTEN_PORT BACKEND_PORT...\n");
        return 2;
    }
    struct rlimit files = {SLOTS, SLOTS};
    if (setrlimit(RLIMIT_NOFILE, &files) < 0 && !getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    for (int i = 2; i < count; i++)
        backends[backend_count++] = loopback(atoi(words[i]));
    open_all(atoi(words[1]));

    struct epoll_event events[BATCH];
    for (;;) {
        const int ready = epoll_wait(poller, events, BATCH, -1);
        int answers = 0, asked = 0;
        for (int i = 0; i < ready; i++) {
            const struct session *session = events[i].data.ptr;
            if (!session) {
                asked = 1;
                continue;
            }
            const ssize_t length = recv(session->fd, octets[answers], DATAGRAM_BYTES, MSG_DONTWAIT);
            if (length < 0)
                continue;
            pieces[answers].iov_len = (size_t)length;
            names[answers++] = session->client;
        }
        answer(answers);
        if (asked)
            forward();
    }
}
