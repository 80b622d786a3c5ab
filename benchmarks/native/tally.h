/* Count of received datagrams, and their latencies. */
#ifndef TALLY_H
#define TALLY_H

#include "traffic.h"

struct tally {
    uint64_t received, last_ns;
    uint32_t *latencies_ns; /* NULL: not recorded */
    uint64_t room;
};

static inline void tally_open(struct tally *tally, uint64_t room)
{
    free(tally->latencies_ns);
    *tally = (struct tally){.room = room};
    if (room && !(tally->latencies_ns = calloc(room, sizeof *tally->latencies_ns)))
        fail("calloc");
}

/* Count the datagrams in one buffer. Those of an earlier run came too late and are ignored. */
static inline void tally_count(struct tally *tally, const struct traffic *traffic, const uint8_t *octets, uint32_t length)
{
    const uint64_t now = clock_ns();
    const uint32_t stamp = 1 + traffic->cid_bytes;
    for (uint32_t at = 0; at + traffic->size <= length; at += traffic->size) {
        uint64_t sent;
        if (memcmp(octets + at + stamp, &traffic->run, 4))
            continue;
        memcpy(&sent, octets + at + stamp + 4, 8);
        if (tally->received < tally->room)
            tally->latencies_ns[tally->received] = (uint32_t)(now - sent);
        tally->received++;
        tally->last_ns = now;
    }
}

static inline int tally_compare(const void *left, const void *right)
{
    const uint32_t one = *(const uint32_t *)left, other = *(const uint32_t *)right;
    return (one > other) - (one < other);
}

/* Sort the recorded latencies; return their number. */
static inline uint64_t tally_sort(struct tally *tally)
{
    const uint64_t kept = tally->received < tally->room ? tally->received : tally->room;
    if (kept)
        qsort(tally->latencies_ns, kept, sizeof *tally->latencies_ns, tally_compare);
    return kept;
}

/* Return a quantile of the sorted latencies in µs. part: 0 to 1. */
static inline double tally_quantile_us(const struct tally *tally, uint64_t kept, double part)
{
    return kept ? tally->latencies_ns[(uint64_t)((double)(kept - 1) * part)] / 1000.0 : 0;
}

#endif
