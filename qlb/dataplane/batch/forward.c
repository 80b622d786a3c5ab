/* From clients to backends: receive one batch from a listener, decide each datagram, and send it.
 *
 * loop.c calls qlb_forward() when a listener is readable. Each received datagram is counted as received, and then as
 * forwarded or as dropped.
 *
 * Opening a session costs ten times as much as forwarding a packet. A full batch means that the worker cannot keep up
 * with the queue. Then datagrams of open sessions are sent first, and the number of sessions that are opened is
 * bounded. So a flood from many addresses cannot starve the open sessions. Unused opens accumulate while the worker
 * keeps up, so that a backlog of many clients, such as after a restart, is not treated as overload.
 */
#include "forwarder.h"
#include "silence.h"

/* Two budgets of opens: for datagrams that were routed by their connection ID, and for the others. Each accumulates up
 * to QLB_MAX_OPENS opens, one more in each QLB_OPEN_NS. */
#define QLB_MAX_OPENS 512
#define QLB_OPEN_NS 250000u

/* One receive. Its datagrams have the same sender, listener, service address and traffic class. */
struct qlb_piece {
    struct qlb_four_tuple four_tuple;
    struct qlb_session_key key;
    struct qlb_session *session; /* of the previous datagram, or a null pointer */
    uint8_t traffic_class;
    uint8_t hop_limit;
};

static void describe(const struct qlb_forwarder *forwarder, uint32_t which, const union qlb_sockaddr *sender,
                     const struct qlb_arrival *arrival, struct qlb_piece *piece)
{
    const struct qlb_listener *listener = &forwarder->listeners[which];
    memset(piece, 0, sizeof *piece);
    piece->key.listener = (uint16_t)which;
    piece->traffic_class = arrival->traffic_class;
    piece->hop_limit = arrival->hop_limit;
    qlb_endpoint_from(&piece->key.client, sender);
    const uint8_t *service = listener->endpoint.host;
    if (listener->wildcard && arrival->has_service) {
        service = arrival->service;
        memcpy(piece->key.service, service, 16);
    }
    memcpy(piece->four_tuple.client, piece->key.client.host, 16);
    memcpy(piece->four_tuple.service, service, 16);
    (void)qlb_extract_interface(piece->four_tuple.service); /* every balancer must hash the same 4-tuple */
    memcpy(piece->four_tuple.ports, piece->key.client.port, 2);
    memcpy(piece->four_tuple.ports + 2, listener->endpoint.port, 2);
}

/* Return the open session to a backend, or a null pointer if there is none. Close it if the backend's address has
 * changed. */
static struct qlb_session *open_session_to(struct qlb_forwarder *forwarder, struct qlb_piece *piece, uint32_t index)
{
    if (piece->session && piece->key.index == index)
        return piece->session;
    piece->key.index = index;
    piece->session = qlb_session_find(&forwarder->sessions, &piece->key);
    if (piece->session && memcmp(&piece->session->backend, &forwarder->endpoints[index],
                                 sizeof piece->session->backend) != 0) {
        qlb_session_close(forwarder, piece->session);
        piece->session = NULL;
    }
    return piece->session;
}

static void drop(const struct qlb_forwarder *forwarder, uint32_t outcome, const uint8_t *octets, uint32_t len)
{
    qlb_count_dropped(forwarder->slots, outcome, octets, len, forwarder->now_ns / 1000000);
}

static void send_by(struct qlb_forwarder *forwarder, struct qlb_piece *piece, uint32_t outcome, const uint8_t *octets,
                    uint32_t len)
{
    struct qlb_session *session = piece->session;
    if (qlb_session_use(&forwarder->sessions, session, forwarder->now_ns))
        qlb_sessions_set_gauges(forwarder);
    session->is_routable |= outcome < QLB_CONFIGS;
    if (piece->hop_limit > session->hop_limit + 1) /* a forged first packet does not limit the client's later ones */
        qlb_session_raise_hop_limit(session, piece->hop_limit);
    if (qlb_silence_note(session, forwarder->now_ns)) {
        (void)qlb_session_reopen(forwarder, session); /* if it fails, the session still has the old socket */
        qlb_silence_reopened(session, forwarder->now_ns);
    }
    if (qlb_begins_flow(outcome, octets, octets + len))
        outcome += QLB_BEGINS_FLOW;
    qlb_outbox_add(forwarder, session, octets, len, piece->traffic_class, outcome, qlb_send_to_backends);
}

/* Open a session for a datagram and send it, or drop it. */
static void open_and_send(struct qlb_forwarder *forwarder, struct qlb_piece *piece, uint32_t outcome,
                          const uint8_t *octets, uint32_t len)
{
    uint32_t refusal;
    piece->session = qlb_session_open(forwarder, &piece->key, piece->hop_limit, &refusal);
    if (piece->session)
        send_by(forwarder, piece, outcome, octets, len);
    else
        drop(forwarder, refusal, octets, len);
}

/* Defer a datagram until those of open sessions have been sent. */
static void defer(struct qlb_forwarder *forwarder, uint32_t receive, uint32_t at, uint32_t len,
                  struct qlb_decision decision)
{
    if (forwarder->deferred_count < QLB_DEFERRED)
        forwarder->deferred[forwarder->deferred_count++] = (struct qlb_deferred){receive, at, len, decision};
    else
        drop(forwarder, QLB_DROP_OVERLOAD, (const uint8_t *)forwarder->inbox.buffers[receive].iov_base + at, len);
}

/* Decide a datagram, and send or drop it. is_behind: defer it if it would open a session.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
static void handle(struct qlb_forwarder *forwarder, struct qlb_piece *piece, uint32_t receive, uint32_t at,
                   uint32_t len, int is_behind)
{
    struct qlb_decider *decider = &forwarder->decider;
    const uint8_t *octets = (const uint8_t *)forwarder->inbox.buffers[receive].iov_base + at;
    const struct qlb_decision decision = qlb_decide(&decider->table.view, &decider->flows, octets, octets + len,
                                                    &piece->four_tuple, forwarder->now_ns);
    const int32_t unconfigured = qlb_unconfigured_id(decision.outcome, octets, octets + len);
    if (unconfigured >= 0)
        qlb_count_unconfigured(forwarder->slots, (uint32_t)unconfigured, forwarder->now_ns / 1000000);
    const int32_t unknown = qlb_unknown_id(decision.outcome, octets, octets + len);
    if (unknown >= 0)
        qlb_count_unknown(forwarder->slots, (uint32_t)unknown, forwarder->now_ns / 1000000);
    if (decision.index < 0)
        drop(forwarder, decision.outcome, octets, len);
    else if (open_session_to(forwarder, piece, (uint32_t)decision.index)) {
        if (unknown >= 0 && piece->session->shown)
            qlb_count_unknown_of(forwarder->slots, (uint32_t)decision.index);
        send_by(forwarder, piece, decision.outcome, octets, len);
    } else if (is_behind)
        defer(forwarder, receive, at, len, decision);
    else
        open_and_send(forwarder, piece, decision.outcome, octets, len);
}

/* Add the opens that have accumulated since the last refill. */
static void refill_opens(struct qlb_forwarder *forwarder)
{
    const uint64_t more = (forwarder->now_ns - forwarder->opens_refilled_ns) / QLB_OPEN_NS;
    forwarder->opens_refilled_ns += more * QLB_OPEN_NS;
    for (int kind = 0; kind < 2; kind++) {
        const uint64_t opens = forwarder->opens[kind] + more;
        forwarder->opens[kind] = opens < QLB_MAX_OPENS ? (uint32_t)opens : QLB_MAX_OPENS;
    }
}

/* Open sessions for deferred datagrams while opens are left, and drop the other datagrams. */
static void serve_deferred(struct qlb_forwarder *forwarder, uint32_t listener, const struct qlb_arrival *arrivals)
{
    if (!forwarder->deferred_count)
        return;
    refill_opens(forwarder);
    for (uint32_t i = 0; i < forwarder->deferred_count; i++) {
        const struct qlb_deferred *each = &forwarder->deferred[i];
        const uint8_t *octets = (const uint8_t *)forwarder->inbox.buffers[each->receive].iov_base + each->at;
        uint32_t *left = &forwarder->opens[each->decision.outcome >= QLB_CONFIGS];
        struct qlb_piece piece;
        describe(forwarder, listener, &forwarder->inbox.senders[each->receive], &arrivals[each->receive], &piece);
        if (open_session_to(forwarder, &piece, (uint32_t)each->decision.index)) {
            send_by(forwarder, &piece, each->decision.outcome, octets, each->len);
        } else if (*left) {
            --*left;
            open_and_send(forwarder, &piece, each->decision.outcome, octets, each->len);
        } else {
            drop(forwarder, QLB_DROP_OVERLOAD, octets, each->len);
        }
    }
    forwarder->deferred_count = 0;
}

/* Return the number of datagrams in a receive. */
static uint32_t datagrams_in(uint32_t bytes, uint32_t segment_bytes)
{
    return bytes > segment_bytes ? (bytes + segment_bytes - 1) / segment_bytes : 1;
}

/* Read the control messages of the receives, and count the datagrams. Count before deciding: if the worker dies in
 * between, the supervisor can still account for these packets. */
static void count_received(const struct qlb_forwarder *forwarder, struct qlb_arrival *arrivals, int received)
{
    uint64_t packets = 0, bytes = 0;
    for (int i = 0; i < received; i++) {
        const struct mmsghdr *message = &forwarder->inbox.messages[i];
        qlb_read_control((struct msghdr *)&message->msg_hdr, &arrivals[i]);
        if (!arrivals[i].segment_bytes)
            arrivals[i].segment_bytes = message->msg_len;
        packets += datagrams_in(message->msg_len, arrivals[i].segment_bytes);
        bytes += message->msg_len;
    }
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_PACKETS_RECEIVED, packets);
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_BYTES_RECEIVED, bytes);
}

/* Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
void qlb_forward(struct qlb_forwarder *forwarder, uint32_t listener)
{
    struct qlb_inbox *inbox = &forwarder->inbox;
    const int fd = forwarder->listeners[listener].fd;
    const int received = qlb_latency_receive(forwarder, fd, NULL, 0, QLB_BATCH);
    if (received <= 0)
        return;
    struct qlb_arrival arrivals[QLB_BATCH];
    count_received(forwarder, arrivals, received);
    for (uint32_t i = 0; i < (uint32_t)received; i++) {
        const uint32_t len = inbox->messages[i].msg_len, segment_bytes = arrivals[i].segment_bytes;
        struct qlb_piece piece;
        describe(forwarder, listener, &inbox->senders[i], &arrivals[i], &piece);
        const int is_bad = qlb_is_bad_source(forwarder, &piece.key.client, piece.four_tuple.service);
        uint32_t at = 0;
        do {
            const uint32_t each = len - at < segment_bytes ? len - at : segment_bytes;
            if (is_bad)
                drop(forwarder, QLB_DROP_BAD_SOURCE, (const uint8_t *)inbox->buffers[i].iov_base + at, each);
            else
                handle(forwarder, &piece, i, at, each, received == QLB_BATCH);
            at += segment_bytes;
        } while (at < len);
    }
    serve_deferred(forwarder, listener, arrivals);
    qlb_send_to_backends(forwarder);
}
