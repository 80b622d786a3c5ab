/* The event loop of the batch plane: wait for sockets, receive and send a bounded amount at a time, and apply new
 * orders between two rounds.
 *
 * plane.c calls these functions. While qlb_forwarder_run() runs, only its thread handles packets and sessions; others
 * wait for it under the mutex. Each packet is decided by one configuration, and each round writes a heartbeat.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change handle() or qlb_forwarder_run().
 */
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "forwarder.h"

#define QLB_EVENTS 256
#define QLB_NS_PER_MS 1000000u
#define QLB_HEARTBEAT_MS 500 /* the supervisor expects one each second */

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int watch(const struct qlb_forwarder *forwarder, int fd, const void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = (void *)what}};
    return epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Check whether the kernel knows UDP_GRO and UDP_SEGMENT. Change nothing: another process may be reading this listener.
 * */
static void probe_offloads(struct qlb_forwarder *forwarder, int fd)
{
    const int off = 0;
    int found = 0;
    socklen_t len = sizeof found;
    if (forwarder->gso && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &off, sizeof off) < 0)
        forwarder->gso = 0;
    if (forwarder->gro && getsockopt(fd, IPPROTO_UDP, UDP_GRO, &found, &len) < 0)
        forwarder->gro = 0;
}

/* Start or resume reading from a listener. Return 0, or -1 with errno set. */
static int resume_listener(struct qlb_forwarder *forwarder, const struct qlb_listener *listener)
{
    const int on = 1;
    if (listener->family == 6) /* if it fails, every packet counts as one with QLB_UNKNOWN_HOP_LIMIT */
        (void)setsockopt(listener->fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof on);
    else
        (void)setsockopt(listener->fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof on);
    if (forwarder->gro && setsockopt(listener->fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on) < 0)
        forwarder->gro = 0;
    qlb_latency_ask(listener->fd); /* now, because the kernel does not stamp a datagram later */
    return watch(forwarder, listener->fd, listener);
}

static int open_listener(struct qlb_forwarder *forwarder, struct qlb_listener *listener)
{
    static const uint8_t any_ipv4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, any_ipv6[16];
    union qlb_sockaddr address;
    socklen_t len = sizeof address;
    if (getsockname(listener->fd, &address.any, &len) < 0)
        return -1;
    qlb_endpoint_from(&listener->endpoint, &address);
    listener->family = listener->endpoint.family;
    listener->wildcard = memcmp(listener->endpoint.host, listener->family == 6 ? any_ipv6 : any_ipv4, 16) == 0;
    probe_offloads(forwarder, listener->fd);
    qlb_gate_open_listener(listener);
    return 0;
}

int qlb_forwarder_open(struct qlb_forwarder *forwarder)
{
    forwarder->epoll = epoll_create1(EPOLL_CLOEXEC);
    forwarder->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (forwarder->epoll < 0 || forwarder->wake < 0 || watch(forwarder, forwarder->wake, forwarder) < 0)
        return -1;
    for (uint32_t i = 0; i < forwarder->listeners_count; i++)
        if (open_listener(forwarder, &forwarder->listeners[i]) < 0)
            return -1;
    forwarder->is_paused = 1; /* until run() */
    if (qlb_inbox_open(&forwarder->inbox) < 0)
        return -1;
    return qlb_sessions_init(&forwarder->sessions, 1);
}

/* Exchange the current orders for new ones. Call it between two packets, so that one configuration decides each. */
static void adopt(struct qlb_forwarder *forwarder, struct qlb_orders *orders)
{
    orders->decider = qlb_decider_adopt(&forwarder->decider, &orders->decider);
    struct qlb_endpoint *endpoints = forwarder->endpoints;
    forwarder->endpoints = orders->endpoints;
    orders->endpoints = endpoints;
    forwarder->session_timeout_ns = orders->session_timeout_ns;
    forwarder->routable_timeout_ns = orders->routable_timeout_ns;
    forwarder->max_ports = orders->max_ports;
    forwarder->dscp = orders->dscp;
    forwarder->gso_to_backends = orders->gso_to_backends;
    forwarder->next_sweep_ns = 0;
    if (qlb_sessions_resize(&forwarder->sessions, orders->max_sessions) == 0)
        qlb_sessions_evict_above(forwarder, orders->max_sessions);
}

void qlb_forwarder_submit(struct qlb_forwarder *forwarder, struct qlb_orders *orders)
{
    const uint64_t one = 1;
    pthread_mutex_lock(&forwarder->mutex);
    while (forwarder->pending)
        pthread_cond_wait(&forwarder->taken, &forwarder->mutex);
    if (forwarder->running) {
        forwarder->pending = orders;
        (void)!write(forwarder->wake, &one, sizeof one);
        while (forwarder->pending == orders)
            pthread_cond_wait(&forwarder->taken, &forwarder->mutex);
    } else {
        adopt(forwarder, orders);
    }
    pthread_mutex_unlock(&forwarder->mutex);
}

/* Pause or resume the listeners as requested. Return 0, or an errno. */
static int apply_pause(struct qlb_forwarder *forwarder)
{
    if (forwarder->is_paused == forwarder->pause_wanted)
        return 0;
    for (uint32_t i = 0; i < forwarder->listeners_count; i++) {
        const struct qlb_listener *listener = &forwarder->listeners[i];
        const int failed = forwarder->pause_wanted ? epoll_ctl(forwarder->epoll, EPOLL_CTL_DEL, listener->fd, NULL)
                                           : resume_listener(forwarder, listener);
        if (failed)
            return errno;
    }
    forwarder->is_paused = forwarder->pause_wanted;
    return 0;
}

int qlb_forwarder_pause(struct qlb_forwarder *forwarder, int pause_wanted)
{
    const uint64_t one = 1;
    int error = 0;
    pthread_mutex_lock(&forwarder->mutex);
    forwarder->pause_wanted = pause_wanted;
    if (forwarder->running) {
        (void)!write(forwarder->wake, &one, sizeof one);
        while (forwarder->running && forwarder->is_paused != forwarder->pause_wanted)
            pthread_cond_wait(&forwarder->taken, &forwarder->mutex);
    } else {
        error = apply_pause(forwarder);
    }
    pthread_mutex_unlock(&forwarder->mutex);
    return error;
}

void qlb_forwarder_stop(struct qlb_forwarder *forwarder)
{
    const uint64_t one = 1;
    pthread_mutex_lock(&forwarder->mutex);
    forwarder->stopping = 1;
    (void)!write(forwarder->wake, &one, sizeof one);
    pthread_mutex_unlock(&forwarder->mutex);
}

/* Apply the requests of other threads: orders, pause, stop. Return 1 to continue, 0 to end the loop. */
static int apply_requests(struct qlb_forwarder *forwarder, int running)
{
    uint64_t calls;
    (void)!read(forwarder->wake, &calls, sizeof calls);
    pthread_mutex_lock(&forwarder->mutex);
    if (forwarder->pending)
        adopt(forwarder, forwarder->pending);
    forwarder->pending = NULL;
    forwarder->running = running;
    forwarder->error = apply_pause(forwarder);
    const int go_on = !forwarder->stopping && !forwarder->error;
    pthread_cond_broadcast(&forwarder->taken);
    pthread_mutex_unlock(&forwarder->mutex);
    return go_on;
}

/* Handle one round of events: clients first, because that may close sessions. Return 1 to continue, 0 to end the loop.
 * */
static int handle(struct qlb_forwarder *forwarder, const struct epoll_event *events, int count)
{
    int woken = 0;
    uint32_t used = 0;
    for (int i = 0; i < count; i++) {
        const uint32_t *watched = events[i].data.ptr;
        woken |= *watched == QLB_WATCHED_WAKE;
        if (*watched == QLB_WATCHED_LISTENER)
            qlb_forward(forwarder, (uint32_t)((const struct qlb_listener *)events[i].data.ptr - forwarder->listeners));
    }
    for (int i = 0; i < count; i++) {
        const uint32_t *watched = events[i].data.ptr;
        struct qlb_session *session = *watched == QLB_WATCHED_SESSION ? events[i].data.ptr : NULL;
        if (session && session->fd >= 0)
            qlb_reply(forwarder, session, &used);
    }
    qlb_send_to_clients(forwarder);
    forwarder->has_paused_sessions = qlb_gate_resume(forwarder);
    qlb_sessions_free_closed(&forwarder->sessions);
    return woken ? apply_requests(forwarder, 1) : 1;
}

/* Return the milliseconds to wait at most, rounded up: until the next sweep, the next check of paused sessions or the
 * next heartbeat. */
static int wait_limit_ms(const struct qlb_forwarder *forwarder)
{
    if (forwarder->has_paused_sessions)
        return 1;
    if (!forwarder->sessions.count)
        return QLB_HEARTBEAT_MS;
    if (forwarder->next_sweep_ns <= forwarder->now_ns)
        return 0;
    const uint64_t wait_ms = (forwarder->next_sweep_ns - forwarder->now_ns) / QLB_NS_PER_MS + 1;
    return wait_ms < QLB_HEARTBEAT_MS ? (int)wait_ms : QLB_HEARTBEAT_MS;
}

int qlb_forwarder_run(struct qlb_forwarder *forwarder)
{
    struct epoll_event events[QLB_EVENTS];
    int go_on = apply_requests(forwarder, 1), error = forwarder->error;
    while (go_on) {
        const int count = epoll_wait(forwarder->epoll, events, QLB_EVENTS, wait_limit_ms(forwarder));
        forwarder->now_ns = monotonic_ns();
        forwarder->round++;
        qlb_set_slot(forwarder->slots, QLB_SLOT_HEARTBEAT_MS, forwarder->now_ns / QLB_NS_PER_MS);
        if (count >= 0) {
            go_on = handle(forwarder, events, count);
            error = forwarder->error;
            qlb_sessions_sweep(forwarder);
        } else if (errno != EINTR) {
            error = errno;
            go_on = 0;
        }
    }
    (void)apply_requests(forwarder, 0);
    return error;
}

void qlb_forwarder_close(struct qlb_forwarder *forwarder)
{
    if (forwarder->sessions.buckets) {
        qlb_sessions_close_all(forwarder);
        qlb_sessions_free(&forwarder->sessions);
    }
    for (uint32_t i = 0; i < forwarder->listeners_count; i++)
        close(forwarder->listeners[i].fd); /* UDP_GRO stays on: another process may be reading from this socket */
    forwarder->listeners_count = 0;
    if (forwarder->epoll >= 0)
        close(forwarder->epoll);
    if (forwarder->wake >= 0)
        close(forwarder->wake);
    forwarder->epoll = forwarder->wake = -1;
    free(forwarder->inbox.octets);
    free(forwarder->endpoints);
    forwarder->inbox.octets = NULL;
    forwarder->endpoints = NULL;
    qlb_decider_free(&forwarder->decider);
}
