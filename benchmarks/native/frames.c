/* Send the frames of a file on an interface, as fast as the kernel accepts them.
 *
 * frames INTERFACE FILE COUNT [SECONDS]
 *
 * The file begins with the size of a frame (4 octets), and the frames follow. The program sends COUNT frames; if COUNT
 * is 0, it sends for SECONDS. After the last frame it continues with the first.
 * Prints the number of frames that the kernel accepted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int fail(const char *what)
{
    fprintf(stderr, "frames: %s: %s\n", what, strerror(errno));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    const int file = open(argv[2], O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status))
        return fail(argv[2]);
    uint8_t *octets = mmap(0, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (octets == MAP_FAILED)
        return fail("mmap");
    uint32_t size;
    memcpy(&size, octets, sizeof size);
    const uint64_t frames = ((uint64_t)status.st_size - sizeof size) / size;
    const uint64_t wanted = strtoull(argv[3], 0, 10);
    const double until_s = now_s() + (argc > 4 ? atof(argv[4]) : 3600.0);

    const int sock = socket(AF_PACKET, SOCK_RAW, 0);
    const int on = 1;
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(argv[1])};
    if (sock < 0 || bind(sock, (struct sockaddr *)&address, sizeof address))
        return fail(argv[1]);
    setsockopt(sock, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on);

    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    uint64_t sent = 0;
    while ((!wanted || sent < wanted) && (wanted || now_s() < until_s)) {
        const uint64_t left = wanted ? wanted - sent : BATCH;
        const unsigned count = left < BATCH ? (unsigned)left : BATCH;
        memset(messages, 0, sizeof messages);
        for (unsigned i = 0; i < count; i++) {
            parts[i] = (struct iovec){octets + sizeof size + (sent + i) % frames * size, size};
            messages[i].msg_hdr.msg_iov = &parts[i];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        const int taken = sendmmsg(sock, messages, count, 0);
        if (taken < 0 && errno != ENOBUFS && errno != EAGAIN)
            return fail("sendmmsg");
        sent += taken > 0 ? (uint64_t)taken : 0;
    }
    printf("%llu\n", (unsigned long long)sent);
    return 0;
}
