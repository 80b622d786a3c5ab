/* Datagrams that wait to be sent. Those of one session, one length and one traffic class leave in one piece (UDP GSO);
 * towards backends only if the configuration says that they read such pieces whole. All others of one session leave by
 * one call.
 *
 * A session has one open group at most, and groups leave in the order in which they were begun, so datagrams of
 * one session keep their order. Nothing waits longer than a round of the loop. A datagram that the system does not take
 * is counted and dropped, as in any network: nothing is queued here.
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

/* One of the two ways. control: QLB_CONTROL_BYTES octets. error: 0, or the errno. */
struct way {
    int (*fd)(const struct qlb_forwarder *forwarder, const struct qlb_group *group);
    struct msghdr (*describe)(const struct qlb_forwarder *forwarder, const struct qlb_group *group, void *control);
    void (*account)(struct qlb_forwarder *forwarder, const struct qlb_group *group, int error);
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

/* Whether a send of several failed because they were several: no offload on the way, or too long for its MTU. */
static int is_for_want_of_offload(struct qlb_forwarder *forwarder, const struct qlb_group *group, int error)
{
    if (group->count == 1)
        return 0;
    if (error == EOPNOTSUPP || error == ENOPROTOOPT)
        forwarder->gso = 0; /* the kernel has none */
    if (error == EIO)
        group->session->sends_singly = 1; /* this path has none: a device without checksum offload, or IPsec */
    return error == EIO || error == EOPNOTSUPP || error == ENOPROTOOPT || error == EINVAL || error == EMSGSIZE;
}

/* The datagram at an offset of a group; none lies in two parts. */
static const uint8_t *octets_at(const struct qlb_group *group, uint32_t offset)
{
    const struct iovec *part = group->parts;
    while (offset >= part->iov_len && offset)
        offset -= (uint32_t)(part++)->iov_len;
    return (const uint8_t *)part->iov_base + offset;
}

/* One datagram of a group as a group of its own. */
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

/* Towards a backend: on the session's own socket. */
static int session_fd(const struct qlb_forwarder *forwarder, const struct qlb_group *group)
{
    (void)forwarder;
    return group->session->fd;
}

static struct msghdr forward_of(const struct qlb_forwarder *forwarder, const struct qlb_group *group, void *control)
{
    (void)forwarder;
    return message_of(group, control, group->session->upstream.family);
}

static void account_forwarded(struct qlb_forwarder *forwarder, const struct qlb_group *group, int error)
{
    const uint64_t now_ms = forwarder->now_ns / 1000000;
    for (uint32_t i = 0; i < group->count; i++) {
        if (!error) {
            qlb_count_forwarded(forwarder->slots, group->outcomes[i], group->session->key.index, now_ms);
        } else {
            const struct qlb_group one = one_of(group, i);
            qlb_count_dropped(forwarder->slots, QLB_DROP_SEND_FAILED, one.parts->iov_base, one.bytes, now_ms);
        }
    }
}

static const struct way to_backends = {session_fd, forward_of, account_forwarded};

/* Towards a client: on the listener, from the address that the client sent to. */
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
    const uint32_t slot = QLB_SLOT_BACKEND + QLB_BACKEND_SLOTS * group->session->key.index + QLB_BACKEND_RETURNED;
    qlb_add_to_slot(forwarder->slots, error ? QLB_SLOT_RETURN_DROPPED : slot, group->count);
}

static const struct way to_clients = {listener_fd, reply_of, account_returned};

/* Send once. Return 0, or the errno. */
static int send_once(int fd, const struct msghdr *message)
{
    /* The common case by the shorter call. */
    const ssize_t sent = message->msg_iovlen == 1 && !message->msg_controllen && !message->msg_name
                             ? send(fd, message->msg_iov->iov_base, message->msg_iov->iov_len, MSG_DONTWAIT)
                             : sendmsg(fd, message, MSG_DONTWAIT);
    return sent >= 0 ? 0 : errno;
}

/* Whether an error may be that of an earlier datagram (ICMP), which the next send on the socket reports. */
static int may_be_stale(int error)
{
    return error && error != EAGAIN && error != ENOBUFS && error != ENOMEM;
}

/* Whether a session with this error may work again with a new socket. */
static int calls_for_reopening(int error)
{
    const uint32_t kind = qlb_send_error_kind(error);
    return kind == QLB_SEND_ERROR_UNREACHABLE || kind == QLB_SEND_ERROR_INVALID || kind == QLB_SEND_ERROR_OTHER;
}

/* Send a group; once more if the error may be stale. A single datagram is sent on a new socket if the session's own
 * cannot work any more. Return 0, or the errno. */
static int try_send(struct qlb_forwarder *forwarder, const struct way *way, const struct qlb_group *group,
                    const struct msghdr *message)
{
    struct qlb_session *session = group->session;
    const uint32_t index = way == &to_clients ? QLB_TO_CLIENT : session->key.index;
    int error = send_once(way->fd(forwarder, group), message);
    if (!error)
        return 0;
    qlb_count_send_error(forwarder->slots, error, index, group->size);
    if (may_be_stale(error)) {
        int pending;
        socklen_t len = sizeof pending;
        (void)getsockopt(way->fd(forwarder, group), SOL_SOCKET, SO_ERROR, &pending, &len);
        const int first = error;
        error = send_once(way->fd(forwarder, group), message);
        if (error && qlb_send_error_kind(error) != qlb_send_error_kind(first))
            qlb_count_send_error(forwarder->slots, error, index, group->size);
    }
    if (!error || way == &to_clients || group->count > 1 || !calls_for_reopening(error) ||
        forwarder->now_ns < session->reopen_at_ns)
        return error;
    session->reopen_at_ns = forwarder->now_ns + QLB_REOPEN_PAUSE_NS;
    if (!qlb_upstream_reopen(forwarder, session))
        return error;
    error = send_once(session->fd, message);
    if (error)
        qlb_count_send_error(forwarder->slots, error, index, group->size);
    return error;
}

static void send_one(struct qlb_forwarder *forwarder, const struct way *way, const struct qlb_group *group)
{
    uint8_t control[QLB_CONTROL_BYTES] __attribute__((aligned(8)));
    const struct msghdr message = way->describe(forwarder, group, control);
    const int error = try_send(forwarder, way, group, &message);
    if (!is_for_want_of_offload(forwarder, group, error)) {
        way->account(forwarder, group, error);
        return;
    }
    for (uint32_t i = 0; i < group->count; i++) {
        const struct qlb_group one = one_of(group, i);
        send_one(forwarder, way, &one);
    }
}

/* Send groups that leave by one socket. */
static void send_run(struct qlb_forwarder *forwarder, const struct way *way, const struct qlb_group *groups,
                     uint32_t count)
{
    struct mmsghdr messages[QLB_BATCH];
    uint8_t control[QLB_BATCH][QLB_CONTROL_BYTES] __attribute__((aligned(8)));
    for (uint32_t i = 0; i < count; i++)
        messages[i].msg_hdr = way->describe(forwarder, &groups[i], control[i]);
    uint32_t done = 0;
    while (done < count) {
        const int sent = sendmmsg(way->fd(forwarder, groups), &messages[done], count - done, MSG_DONTWAIT);
        for (int i = 0; i < sent; i++)
            way->account(forwarder, &groups[done + (uint32_t)i], 0);
        done += sent > 0 ? (uint32_t)sent : 0;
        if (done < count) /* it stopped here without an errno: send this one alone, then the rest */
            send_one(forwarder, way, &groups[done++]);
    }
}

/* Send all that waits, neighbours that leave by one socket together. */
static void send_all(struct qlb_forwarder *forwarder, const struct way *way)
{
    struct qlb_outbox *outbox = &forwarder->outbox;
    struct qlb_group *groups = outbox->groups;
    uint32_t first = 0;
    for (uint32_t i = 1; i <= outbox->count; i++) {
        if (i < outbox->count && way->fd(forwarder, &groups[i]) == way->fd(forwarder, &groups[first]))
            continue;
        if (i - first == 1)
            send_one(forwarder, way, &groups[first]);
        else
            send_run(forwarder, way, &groups[first], i - first);
        first = i;
    }
    for (uint32_t i = 0; i < outbox->count; i++)
        groups[i].session->group = NULL;
    outbox->count = 0;
}

void qlb_send_to_backends(struct qlb_forwarder *forwarder) { send_all(forwarder, &to_backends); }

void qlb_send_to_clients(struct qlb_forwarder *forwarder) { send_all(forwarder, &to_clients); }
