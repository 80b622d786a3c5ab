/* The load's traffic: flows of clients, their connection IDs, and their datagrams.
 *
 * A datagram consists of the first octet 0x40, a connection ID, the number of the run (4 octets), the time of sending
 * (8 octets, ns), and zeros. The file of connection IDs consists of laps: each lap has one ID for each flow.
 */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define MAX_CID_BYTES 20
#define STAMP_BYTES 12
#define MAX_SIZE_BYTES 2048
#define MAX_BURST_BYTES 65000
#define BUFFER_BYTES (4 << 20)

struct traffic {
    uint32_t flows, backends, size, burst;
    int answered;         /* servers echo; otherwise they only count */
    const uint8_t *cids;  /* laps * flows of cid_bytes each, without the first octet */
    uint32_t cid_bytes, laps;
    uint64_t bursts;      /* sent so far, in all runs */
    uint32_t run;
};

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

static inline uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Raise this process's limit of open files, or end with a message. */
static inline void raise_file_limit(uint32_t wanted)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        fail("getrlimit");
    if (files.rlim_cur >= wanted)
        return;
    files.rlim_cur = wanted;
    if (files.rlim_max < wanted)
        files.rlim_max = wanted;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0) {
        fprintf(stderr, "%u descriptors are needed (ulimit -n): %s\n", wanted, strerror(errno));
        exit(1);
    }
}

/* Return a non-blocking UDP socket. With bursts, it sends by GSO in segments of one datagram, and receives by GRO. */
static inline int open_socket(const struct traffic *traffic)
{
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1, room = BUFFER_BYTES, size = (int)traffic->size;
    if (fd < 0)
        fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    if (traffic->burst > 1 && (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof size) < 0 ||
                               setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) < 0))
        fail("UDP_SEGMENT, UDP_GRO");
    return fd;
}

static inline uint32_t next_flow(const struct traffic *traffic)
{
    return (uint32_t)(traffic->bursts % traffic->flows);
}

static inline void watch(int poller, int fd, uint32_t index)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

/* Read the connection IDs from a file, and compute the number of complete laps. */
static inline void read_cids(struct traffic *traffic, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) < 0)
        fail(path);
    const size_t size = (size_t)ftell(file), lap = (size_t)traffic->flows * traffic->cid_bytes;
    rewind(file);
    uint8_t *cids = malloc(size + 1);
    if (!cids || size < lap || fread(cids, 1, size, file) != size)
        fail(path);
    fclose(file);
    traffic->cids = cids;
    traffic->laps = (uint32_t)(size / lap);
}

/* Write the burst of the next flow. */
static inline void fill_burst(struct traffic *traffic, uint8_t *at, uint64_t now)
{
    const uint32_t flow = next_flow(traffic);
    const uint64_t lap = traffic->bursts / traffic->flows * traffic->burst;
    for (uint32_t i = 0; i < traffic->burst; i++, at += traffic->size) {
        const uint64_t row = (lap + i) % traffic->laps;
        at[0] = 0x40;
        memcpy(at + 1, traffic->cids + (row * traffic->flows + flow) * traffic->cid_bytes, traffic->cid_bytes);
        memcpy(at + 1 + traffic->cid_bytes, &traffic->run, 4);
        memcpy(at + 1 + traffic->cid_bytes + 4, &now, 8);
    }
    traffic->bursts++;
}

#endif
