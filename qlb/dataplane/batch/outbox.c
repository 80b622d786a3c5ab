/* The outbox: datagrams that wait to be sent, in both directions.
 *
 * forward.c and reply.c add datagrams; they and loop.c send them. Datagrams of one session, one length and one traffic
 * class form a group, which is sent as one piece (UDP GSO); towards backends only if the configuration allows it
 * (gso_to_backends). Other groups that leave by the same socket are sent with one call.
 *
 * A session has at most one open group, and groups are sent in the order in which they were started, so the datagrams
 * of one session stay in order. No datagram waits longer than a round of the loop. A datagram that the system does not
 * accept is counted and dropped, as in any network: the balancer does not queue it.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` and `--axis sender` before you change this file.
 */
#include "forwarder.h"
#include "silence.h"

static int fits(const struct qlb_group *group, uint32_t len, uint8_t traffic_class)
{
    return !group->full && group->traffic_class == traffic_class && len && len <= group->size &&
           group->bytes + len <= QLB_GROUP_BYTES;
}

static void append(struct qlb_group *group, const uint8_t *octets, uint32_t len)
{
    struct iovec *last = &group->parts[group->parts_count - 1];
    if (group->parts_count && (const uint8_t *)last->iov_base + last->iov_len == octets)
        last->iov_len += len;
    else
        group->parts[group->parts_count++] = (struct iovec){(void *)octets, len};
    group->bytes += len;
    group->count++;
    group->full = len < group->size || group->count == QLB_GROUP_DATAGRAMS;
}

void qlb_outbox_add(struct qlb_forwarder *forwarder, struct qlb_session *session, const uint8_t *octets,
                    uint32_t len, uint8_t traffic_class, uint32_t outcome, void (*flush)(struct qlb_forwarder *))
{
    struct qlb_outbox *outbox = &forwarder->outbox;
    struct qlb_group *group = session->group;
    const int gso = forwarder->gso && !session->sends_singly &&
                    (forwarder->gso_to_backends || flush != qlb_send_to_backends);
    if (forwarder->dscp >= 0)
        traffic_class = (uint8_t)(forwarder->dscp << 2 | (traffic_class & QLB_ECN_MASK));
    if (!group || !gso || !fits(group, len, traffic_class)) {
        if (outbox->count == QLB_BATCH)
            flush(forwarder);
        group = session->group = &outbox->groups[outbox->count++];
        group->session = session;
        group->bytes = 0;
        group->size = (uint16_t)len;
        group->count = group->parts_count = 0;
        group->traffic_class = traffic_class;
    }
    group->outcomes[group->count] = (uint8_t)outcome;
    append(group, octets, len);
}

/* One of the two directions. control: QLB_CONTROL_BYTES octets. error: 0, or the errno. latency: its number there. */
struct direction {
    int (*fd)(const struct qlb_forwarder *forwarder, const struct qlb_group *group);
    struct msghdr (*describe)(const struct qlb_forwarder *forwarder, const struct qlb_group *group, void *control);
    void (*account)(struct qlb_forwarder *forwarder, const struct qlb_group *group, int error);
    uint32_t latency;
};

/* Describe one send of a group. */
static struct msghdr message_of(const struct qlb_group *group, void *control, uint8_t family)
{
    struct msghdr message = {
        .msg_iov = (struct iovec *)group->parts,
        .msg_iovlen = group->parts_count,
        .msg_control = control,
    };
    qlb_add_traffic_class(&message, family, group->traffic_class);
    if (group->count > 1)
        qlb_add_segment(&message, group->size);
    return message;
}

/* Check whether a send of several datagrams failed because they were several: the path has no offload, or its MTU is
 * too small. */
static int is_for_want_of_offload(struct qlb_forwarder *forwarder, const struct qlb_group *group, int error)
{
    if (group->count == 1)
        return 0;
    if (error == EOPNOTSUPP || error == ENOPROTOOPT)
        forwarder->gso = 0; /* the kernel has no UDP GSO */
    if (error == EIO)
        group->session->sends_singly = 1; /* this path cannot use it: a device without checksum offload, or IPsec */
    return error == EIO || error == EOPNOTSUPP || error == ENOPROTOOPT || error == EINVAL || error == EMSGSIZE;
}

/* Return the datagram at an offset of a group. No datagram is split between two parts. */
static const uint8_t *octets_at(const struct qlb_group *group, uint32_t offset)
{
    const struct iovec *part = group->parts;
    while (offset >= part->iov_len && offset)
        offset -= (uint32_t)(part++)->iov_len;
    return (const uint8_t *)part->iov_base + offset;
}

/* Return one datagram of a group as a separate group. */
static struct qlb_group one_of(const struct qlb_group *group, uint32_t which)
{
    const uint32_t offset = which * group->size, rest = group->bytes - offset;
    struct qlb_group one = {
        .session = group->session,
        .size = group->size,
        .traffic_class = group->traffic_class,
        .outcomes = {group->outcomes[which]},
    };
    append(&one, octets_at(group, offset), rest < group->size ? rest : group->size);
    return one;
}

/* Towards a backend, the session's socket sends. */
static int session_fd(const struct qlb_forwarder *forwarder, const struct qlb_group *group)
{
    (void)forwarder;
    return group->session->fd;
}

static struct msghdr forward_of(const struct qlb_forwarder *forwarder, const struct qlb_group *group, void *control)
{
    (void)forwarder;
    return message_of(group, control, group->session->backend.family);
}

static void account_forwarded(struct qlb_forwarder *forwarder, const struct qlb_group *group, int error)
{
    const uint64_t now_ms = forwarder->now_ns / 1000000;
    const uint32_t index = group->session->key.index;
    uint32_t new_flows = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        if (!error) {
            new_flows += group->outcomes[i] / QLB_BEGINS_FLOW;
            qlb_count_forwarded(forwarder->slots, group->outcomes[i] % QLB_BEGINS_FLOW, index, now_ms);
        } else {
            const struct qlb_group one = one_of(group, i);
            qlb_count_dropped(forwarder->slots, QLB_DROP_SEND_FAILED, one.parts->iov_base, one.bytes, now_ms);
        }
    }
    if (!error)
        qlb_count_sent(forwarder->slots, index, group->bytes, new_flows);
}

static const struct direction to_backends = {session_fd, forward_of, account_forwarded, QLB_LATENCY_TO_BACKEND};

/* Towards a client, the listener's socket sends, from the address that the client sent to. */
static int listener_fd(const struct qlb_forwarder *forwarder, const struct qlb_group *group)
{
    return forwarder->listeners[group->session->key.listener].fd;
}

static struct msghdr reply_of(const struct qlb_forwarder *forwarder, const struct qlb_group *group, void *control)
{
    struct qlb_session *session = group->session;
    const struct qlb_listener *listener = &forwarder->listeners[session->key.listener];
    struct msghdr message = message_of(group, control, listener->family);
    if (listener->wildcard)
        qlb_add_source(&message, listener->family, session->key.service);
    message.msg_name = &session->client;
    message.msg_namelen = session->client_len;
    return message;
}

static void account_returned(struct qlb_forwarder *forwarder, const struct qlb_group *group, int error)
{
    qlb_gate_note_sent(&forwarder->listeners[group->session->key.listener], error ? 0 : group->bytes, error);
    if (error)
        qlb_add_to_slot(forwarder->slots, QLB_SLOT_RETURN_DROPPED, group->count);
    else
        qlb_count_returned(forwarder->slots, group->session->key.index, group->count, group->bytes);
}

static const struct direction to_clients = {listener_fd, reply_of, account_returned, QLB_LATENCY_TO_CLIENT};

/* Send once. Return 0, or the errno. */
static int send_once(int fd, const struct msghdr *message)
{
    /* In the common case, the shorter call is enough. */
    const ssize_t sent = message->msg_iovlen == 1 && !message->msg_controllen && !message->msg_name
                             ? send(fd, message->msg_iov->iov_base, message->msg_iov->iov_len, MSG_DONTWAIT)
                             : sendmsg(fd, message, MSG_DONTWAIT);
    return sent >= 0 ? 0 : errno;
}

/* Check whether an error may belong to an earlier datagram: the next send on the socket reports an ICMP error. */
static int may_be_stale(int error)
{
    return error && error != EAGAIN && error != ENOBUFS && error != ENOMEM;
}

/* Check whether a session with this error may work again with a new socket. */
static int calls_for_reopening(int error)
{
    const uint32_t kind = qlb_send_error_kind(error);
    return kind == QLB_SEND_ERROR_UNREACHABLE || kind == QLB_SEND_ERROR_INVALID || kind == QLB_SEND_ERROR_OTHER;
}

/* Send a group. Send it once more if the error may be stale. If a single datagram fails because the session's socket no
 * longer works, send it on a new socket. Return 0, or the errno. */
static int try_send(struct qlb_forwarder *forwarder, const struct direction *direction, const struct qlb_group *group,
                    const struct msghdr *message)
{
    struct qlb_session *session = group->session;
    const uint32_t index = direction == &to_clients ? QLB_TO_CLIENT : session->key.index;
    int error = send_once(direction->fd(forwarder, group), message);
    if (!error)
        return 0;
    qlb_count_send_error(forwarder->slots, error, index, group->size);
    if (may_be_stale(error)) {
        int pending;
        socklen_t len = sizeof pending;
        (void)getsockopt(direction->fd(forwarder, group), SOL_SOCKET, SO_ERROR, &pending, &len);
        const int first = error;
        error = send_once(direction->fd(forwarder, group), message);
        if (error && qlb_send_error_kind(error) != qlb_send_error_kind(first))
            qlb_count_send_error(forwarder->slots, error, index, group->size);
    }
    if (!error || direction == &to_clients || group->count > 1 || !calls_for_reopening(error) ||
        forwarder->now_ns < session->reopen_at_ns)
        return error;
    session->reopen_at_ns = forwarder->now_ns + QLB_REOPEN_PAUSE_NS;
    if (!qlb_session_reopen(forwarder, session))
        return error;
    error = send_once(session->fd, message);
    if (error)
        qlb_count_send_error(forwarder->slots, error, index, group->size);
    return error;
}

static void send_one(struct qlb_forwarder *forwarder, const struct direction *direction, const struct qlb_group *group)
{
    uint8_t control[QLB_CONTROL_BYTES] __attribute__((aligned(8)));
    const struct msghdr message = direction->describe(forwarder, group, control);
    const int error = try_send(forwarder, direction, group, &message);
    if (!is_for_want_of_offload(forwarder, group, error)) {
        direction->account(forwarder, group, error);
        return;
    }
    for (uint32_t i = 0; i < group->count; i++) {
        const struct qlb_group one = one_of(group, i);
        send_one(forwarder, direction, &one);
    }
}

/* Send several groups by one socket. */
static void send_run(struct qlb_forwarder *forwarder, const struct direction *direction, const struct qlb_group *groups,
                     uint32_t count)
{
    struct mmsghdr messages[QLB_BATCH];
    uint8_t control[QLB_BATCH][QLB_CONTROL_BYTES] __attribute__((aligned(8)));
    for (uint32_t i = 0; i < count; i++)
        messages[i].msg_hdr = direction->describe(forwarder, &groups[i], control[i]);
    uint32_t done = 0;
    while (done < count) {
        const int sent = sendmmsg(direction->fd(forwarder, groups), &messages[done], count - done, MSG_DONTWAIT);
        for (int i = 0; i < sent; i++)
            direction->account(forwarder, &groups[done + (uint32_t)i], 0);
        done += sent > 0 ? (uint32_t)sent : 0;
        if (done < count) /* sendmmsg() stopped here and lost the errno: send this group alone, then the others */
            send_one(forwarder, direction, &groups[done++]);
    }
}

/* Send all groups. Adjacent groups that leave by the same socket are sent with one call. */
static void send_all(struct qlb_forwarder *forwarder, const struct direction *direction)
{
    struct qlb_outbox *outbox = &forwarder->outbox;
    struct qlb_group *groups = outbox->groups;
    uint32_t first = 0;
    for (uint32_t i = 1; i <= outbox->count; i++) {
        if (i < outbox->count && direction->fd(forwarder, &groups[i]) == direction->fd(forwarder, &groups[first]))
            continue;
        if (i - first == 1)
            send_one(forwarder, direction, &groups[first]);
        else
            send_run(forwarder, direction, &groups[first], i - first);
        first = i;
    }
    qlb_latency_end(forwarder, direction->latency, outbox->count);
    for (uint32_t i = 0; i < outbox->count; i++)
        groups[i].session->group = NULL;
    outbox->count = 0;
}

void qlb_send_to_backends(struct qlb_forwarder *forwarder) { send_all(forwarder, &to_backends); }

void qlb_send_to_clients(struct qlb_forwarder *forwarder) { send_all(forwarder, &to_clients); }
