/* Send datagrams with spoofed source addresses to a loopback port at a steady rate.
 *
 * flood PORT RATE SECONDS SOURCES PREFIX RANDOM SUFFIX SIZE
 *
 * SOURCES: number of source addresses that take turns; 0 = a different one for each datagram. They are in 127.0.0.0/8.
 * A datagram is PREFIX (hex), RANDOM random octets, SUFFIX (hex), and zeros up to SIZE octets.
 * Prints the number of sent datagrams. Needs CAP_NET_RAW. Run it in its own network namespace.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 32
#define MOST_BYTES 1500
#define PAUSE_NS 200000
#define FIRST_SOURCE 0x7f0a0000u /* 127.10.0.0 */
#define SOURCE_HOSTS 0x00c80000u
#define FIRST_PORT 1024u
#define PORTS 60000u

struct packet {
    struct iphdr ip;
    struct udphdr udp;
    uint8_t payload[MOST_BYTES];
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int fail(const char *call)
{
    fprintf(stderr, "flood: %s: %s\n", call, strerror(errno));
    return 1;
}

/* Convert hex digits to octets; return the number of octets. */
static size_t from_hex(uint8_t *octets, const char *text, size_t most)
{
    size_t count = 0;
    for (unsigned octet; count < most && sscanf(text + 2 * count, "%2x", &octet) == 1; count++)
        octets[count] = (uint8_t)octet;
    return count;
}

/* Return the next number of a fast random generator (xorshift). */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void address(struct packet *packet, uint64_t source)
{
    packet->ip.saddr = htonl(FIRST_SOURCE + (uint32_t)(source % SOURCE_HOSTS));
    packet->udp.source = htons((uint16_t)(FIRST_PORT + source * 7919u % PORTS));
}

int main(int argc, char **argv)
{
    static struct packet packets[BATCH];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    if (argc != 9)
        return 2;
    const uint16_t port = (uint16_t)atoi(argv[1]);
    const double rate = atof(argv[2]), seconds = atof(argv[3]);
    const uint64_t sources = strtoull(argv[4], NULL, 10);
    const size_t random_count = (size_t)atoi(argv[6]), size = (size_t)atoi(argv[8]);
    if (size > MOST_BYTES || random_count > 64)
        return 2;
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (fd < 0)
        return fail("socket");
    size_t random_at = 0;
    for (int i = 0; i < BATCH; i++) {
        struct packet *packet = &packets[i];
        packet->ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP};
        packet->ip.daddr = htonl(INADDR_LOOPBACK);
        packet->udp.dest = htons(port);
        packet->udp.len = htons((uint16_t)(sizeof packet->udp + size));
        random_at = from_hex(packet->payload, argv[5], size);
        if (random_at + random_count > size)
            return 2;
        from_hex(packet->payload + random_at + random_count, argv[7], size - random_at - random_count);
        parts[i] = (struct iovec){.iov_base = packet, .iov_len = sizeof packet->ip + sizeof packet->udp + size};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &target, .msg_namelen = sizeof target, .msg_iov = &parts[i], .msg_iovlen = 1};
    }
    const double begin_s = now_s();
    uint64_t sent = 0, state = 0x9e3779b97f4a7c15u;
    for (double elapsed_s = 0; elapsed_s < seconds; elapsed_s = now_s() - begin_s) {
        const uint64_t due = (uint64_t)(elapsed_s * rate);
        if (due <= sent) {
            nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
            continue;
        }
        const unsigned count = due - sent < BATCH ? (unsigned)(due - sent) : BATCH;
        for (unsigned i = 0; i < count; i++) {
            address(&packets[i], sources ? (sent + i) % sources : sent + i);
            for (size_t at = 0; at < random_count; at++)
                packets[i].payload[random_at + at] = (uint8_t)(next_random(&state) >> 32);
        }
        const int done = sendmmsg(fd, messages, count, 0);
        if (done < 0 && errno != ENOBUFS && errno != EAGAIN)
            return fail("sendmmsg");
        sent += done > 0 ? (unsigned)done : count;
    }
    printf("%llu\n", (unsigned long long)sent);
    return 0;
}
