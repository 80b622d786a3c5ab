/* The added latency of a sample of datagrams: from their arrival in the kernel until the send has returned.
 *
 * forward.c and reply.c receive through qlb_latency_receive(), outbox.c calls qlb_latency_end(). One batch of
 * QLB_LATENCY_EVERY is a sample, so the cost of the system calls is spread over thousands of datagrams.
 *
 * The kernel stamps each arriving datagram once any socket has asked for stamps. SIOCGSTAMPNS returns the stamp of the
 * datagram that was received from a socket last, but only if the socket had asked before that receive. SO_TIMESTAMPNS
 * would cost a control message for each datagram, measured or not.
 */
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <time.h>

#include "forwarder.h"

static uint64_t nanoseconds(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

/* Return the time on the clock of the stamps. */
static uint64_t wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return nanoseconds(&now);
}

/* Return the stamp of the datagram that was received last; 0 if there is none. The call also asks for stamps. */
static uint64_t stamp_ns(int fd)
{
    struct timespec stamp;
    return ioctl(fd, SIOCGSTAMPNS, &stamp) == 0 ? nanoseconds(&stamp) : 0;
}

void qlb_latency_ask(int fd) { (void)stamp_ns(fd); }

/* Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
int qlb_latency_receive(struct qlb_forwarder *forwarder, int fd, const struct qlb_session *session, uint32_t first,
                        uint32_t most)
{
    struct qlb_latency *latency = &forwarder->latency[session ? QLB_LATENCY_TO_CLIENT : QLB_LATENCY_TO_BACKEND];
    struct qlb_inbox *inbox = &forwarder->inbox;
    const int named = !session;
    if (latency->batches++ % QLB_LATENCY_EVERY)
        return qlb_inbox_receive(inbox, fd, first, most, named);
    qlb_latency_ask(fd);
    const int received = qlb_inbox_receive(inbox, fd, first, 1, named);
    if (received <= 0)
        return received;
    const uint64_t stamp = stamp_ns(fd);
    latency->began_ns = stamp ? stamp : wall_ns();
    const int others = most > 1 ? qlb_inbox_receive(inbox, fd, first + 1, most - 1, named) : 0;
    if (others < 0 && session)
        qlb_count_receive_error(forwarder->slots, errno, session->key.index);
    return others > 0 ? 1 + others : 1;
}

void qlb_latency_end(struct qlb_forwarder *forwarder, uint32_t direction, uint32_t sent)
{
    static const uint32_t bounds_us[] = QLB_LATENCY_BOUNDS_US;
    struct qlb_latency *latency = &forwarder->latency[direction];
    if (!latency->began_ns)
        return;
    const uint64_t taken_ns = wall_ns() - latency->began_ns; /* more than the maximum if the clock was set back */
    latency->began_ns = 0;
    if (!sent || taken_ns > QLB_MAX_LATENCY_NS)
        return;
    const uint32_t slot = QLB_SLOT_LATENCY + QLB_LATENCY_SLOTS * direction;
    uint32_t bucket = 0;
    while (bucket < QLB_LATENCY_BUCKETS - 1 && taken_ns > 1000ull * bounds_us[bucket])
        bucket++;
    qlb_add_to_slot(forwarder->slots, slot + bucket, 1);
    qlb_add_to_slot(forwarder->slots, slot + QLB_LATENCY_BUCKETS, taken_ns);
}
