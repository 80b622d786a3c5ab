/* The send queue towards clients. All clients of a listener share it, so a client behind a slow link could fill it, and
 * packets to the other clients would be dropped.
 *
 * reply.c calls qlb_gate_admits() before it reads from a session. outbox.c reports what it has sent, and loop.c calls
 * qlb_gate_resume() once a round. Pausing drops no packet by itself, and every paused session is resumed or closed.
 *
 * When the queue reaches the limit (half of the send buffer), the gate closes: sessions that return much are paused,
 * which means that their sockets are not read. Packets from their backends wait in each session's own receive queue,
 * and only that queue can overflow. Three kinds of sessions pass a closed gate:
 *
 * - sessions that return little, such as calls. The fuller the queue, the smaller this amount is;
 * - sessions whose clients are fast. To find them, a paused session is tried: the datagrams of one receive are sent,
 *   and QLB_TRIAL_NS later they have left the queue or not. A fast session passes for QLB_FAST_NS, then it is tried
 *   again;
 * - the session that is being tried.
 *
 * When the queue is below the limit again, all sessions resume. Measuring the queue costs a system call. It happens
 * once per QLB_GATE_BYTES sent, once a round while sessions are paused, and after a send that found the queue full.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change qlb_gate_admits() or
 * qlb_gate_note_sent().
 */
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "forwarder.h"

#define QLB_GATE_BYTES 65536u
#define QLB_LIGHT_BYTES 16384u /* in a window, at the limit; half as much for each eighth of the limit above it */
#define QLB_LIGHT_WINDOW_NS 100000000ull
#define QLB_TRIAL_NS 1000000ull  /* in this time a packet leaves the machine, unless its path is slow */
#define QLB_FAST_NS 100000000ull /* a fast session is not tried again before this time is over */

void qlb_gate_open_listener(struct qlb_listener *listener)
{
    int size = 0;
    socklen_t len = sizeof size;
    listener->queue_limit = UINT32_MAX;
    if (getsockopt(listener->fd, SOL_SOCKET, SO_SNDBUF, &size, &len) == 0 && size > 0)
        listener->queue_limit = (uint32_t)size / 2;
}

/* Measure the send queue of a listener, and close or open the gate. */
static void measure_queue(struct qlb_listener *listener)
{
    int queued = 0;
    if (ioctl(listener->fd, SIOCOUTQ, &queued) < 0)
        queued = 0;
    listener->queued = (uint32_t)queued;
    listener->unchecked = 0;
    const uint8_t was_closed = listener->is_closed;
    listener->is_closed = listener->queued >= listener->queue_limit;
    listener->closings += listener->is_closed && !was_closed;
}

void qlb_gate_note_sent(struct qlb_listener *listener, uint32_t bytes, int error)
{
    listener->unchecked += bytes;
    if (listener->unchecked >= QLB_GATE_BYTES || error == EAGAIN)
        measure_queue(listener);
}

void qlb_gate_note_received(struct qlb_forwarder *forwarder, struct qlb_session *session, uint32_t bytes)
{
    struct qlb_listener *listener = &forwarder->listeners[session->key.listener];
    session->window_bytes += bytes;
    if (listener->trial == session)
        listener->trial_bytes += bytes;
}

/* Check whether a session returns so little that it may pass a closed gate. */
static int is_light(struct qlb_session *session, const struct qlb_listener *listener, uint64_t now_ns)
{
    if (now_ns - session->window_ns > QLB_LIGHT_WINDOW_NS) {
        session->window_ns = now_ns;
        session->window_bytes = 0;
    }
    const uint64_t above = listener->queued > listener->queue_limit ? listener->queued - listener->queue_limit : 0;
    const uint64_t eighths = 8 * above / listener->queue_limit;
    return eighths < 16 && session->window_bytes < QLB_LIGHT_BYTES >> eighths;
}

static void pause_session(struct qlb_forwarder *forwarder, struct qlb_listener *listener, struct qlb_session *session)
{
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_DEL, session->fd, NULL) < 0)
        return;
    session->is_paused = 1;
    session->paused_next = NULL;
    *(listener->paused_last ? &listener->paused_last->paused_next : &listener->paused_first) = session;
    listener->paused_last = session;
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_RETURN_PAUSES, 1);
}

int qlb_gate_admits(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    struct qlb_listener *listener = &forwarder->listeners[session->key.listener];
    if (listener->queued + listener->unchecked > listener->queue_limit / 2)
        session->receives = 1; /* the queue fills: receive a little and look again */
    if (is_light(session, listener, forwarder->now_ns) || !listener->is_closed)
        return 1;
    if (listener->trial == session ? !listener->trial_bytes : forwarder->now_ns < session->fast_until_ns)
        return 1;
    pause_session(forwarder, listener, session);
    return !session->is_paused;
}

void qlb_gate_forget(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    struct qlb_listener *listener = &forwarder->listeners[session->key.listener];
    struct qlb_session **link = &listener->paused_first, *before = NULL;
    if (listener->trial == session)
        listener->trial = NULL;
    if (!session->is_paused)
        return;
    while (*link != session) {
        before = *link;
        link = &before->paused_next;
    }
    *link = session->paused_next;
    if (listener->paused_last == session)
        listener->paused_last = before;
    session->is_paused = 0;
}

static void resume(struct qlb_forwarder *forwarder, struct qlb_session *session)
{
    qlb_gate_forget(forwarder, session);
    if (qlb_session_watch(forwarder, session) < 0)
        qlb_session_close(forwarder, session);
}

/* End the current trial if its time is over. Return 1 if a trial is still running, else 0. */
static int end_trial(struct qlb_forwarder *forwarder, struct qlb_listener *listener)
{
    struct qlb_session *session = listener->trial;
    if (!session || forwarder->now_ns - listener->trial_ns < QLB_TRIAL_NS)
        return session != NULL;
    listener->trial = NULL;
    if (!listener->trial_bytes || listener->queued >= listener->trial_queued + listener->trial_bytes / 2)
        return 0;
    session->fast_until_ns = forwarder->now_ns + QLB_FAST_NS;
    session->tried--; /* it may be tried again before the gate opens */
    if (session->is_paused)
        resume(forwarder, session);
    return 0;
}

/* Start a trial of the first paused session that was not tried since the gate closed, unless the queue is nearly full.
 * */
static void try_next(struct qlb_forwarder *forwarder, struct qlb_listener *listener)
{
    struct qlb_session *session = listener->paused_first;
    if (listener->queued / 3 > listener->queue_limit / 2)
        return;
    while (session && session->tried == listener->closings)
        session = session->paused_next;
    if (!session)
        return;
    resume(forwarder, session);
    session->tried = listener->closings;
    listener->trial = session->fd >= 0 ? session : NULL;
    listener->trial_bytes = 0;
    listener->trial_queued = listener->queued;
    listener->trial_ns = forwarder->now_ns;
}

int qlb_gate_resume(struct qlb_forwarder *forwarder)
{
    int waits = 0;
    for (uint32_t i = 0; i < forwarder->listeners_count; i++) {
        struct qlb_listener *listener = &forwarder->listeners[i];
        if (!listener->paused_first && !listener->trial)
            continue;
        measure_queue(listener);
        while (!listener->is_closed && listener->paused_first)
            resume(forwarder, listener->paused_first);
        if (!end_trial(forwarder, listener) && listener->is_closed)
            try_next(forwarder, listener);
        waits |= listener->paused_first || listener->trial;
    }
    return waits;
}
