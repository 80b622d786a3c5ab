/* From clients to backends: one batch of a listener is received, decided datagram by datagram, and sent. */
#include "../core/route.h"
#include "forwarder.h"

/* One receive: the datagrams in it have a sender, a way and a mark in common. */
struct qlb_piece {
    struct qlb_four_tuple four_tuple;
    struct qlb_session_key key;
    struct qlb_session *session; /* of the datagram before, or a null pointer */
    uint8_t ecn;
};

static void describe(const struct qlb_forwarder *forwarder, uint32_t which, const union qlb_sockaddr *sender,
                     const struct qlb_arrival *arrival, struct qlb_piece *piece)
{
    const struct qlb_listener *listener = &forwarder->listeners[which];
    memset(piece, 0, sizeof *piece);
    piece->key.listener = (uint16_t)which;
    piece->ecn = arrival->ecn;
    qlb_endpoint_from(&piece->key.client, sender);
    const uint8_t *service = listener->endpoint.host;
    if (listener->wildcard && arrival->has_service) {
        service = arrival->service;
        memcpy(piece->key.service, service, 16);
    }
    memcpy(piece->four_tuple.client, piece->key.client.host, 16);
    memcpy(piece->four_tuple.service, service, 16);
    memcpy(piece->four_tuple.ports, piece->key.client.port, 2);
    memcpy(piece->four_tuple.ports + 2, listener->endpoint.port, 2);
}

/* The way to a backend and back: the session that there is, if its backend has not moved, or a new one. */
static struct qlb_session *session_to(struct qlb_forwarder *forwarder, struct qlb_piece *piece, uint32_t index)
{
    if (piece->session && piece->key.index == index)
        return piece->session;
    piece->key.index = index;
    struct qlb_session *session = qlb_session_find(&forwarder->sessions, &piece->key);
    if (session && memcmp(&session->upstream, &forwarder->endpoints[index], sizeof session->upstream) != 0) {
        qlb_upstream_close(forwarder, session);
        session = NULL;
    }
    if (session)
        session->renewed = 1;
    else
        session = qlb_upstream_open(forwarder, &piece->key);
    if (session)
        session->last_used_ns = forwarder->now_ns;
    piece->session = session;
    return session;
}

static void handle(struct qlb_forwarder *forwarder, struct qlb_piece *piece, const uint8_t *octets, uint32_t len)
{
    struct qlb_decider *decider = &forwarder->decider;
    struct qlb_decision decision = qlb_decide(&decider->table.view, &decider->flows, octets, octets + len,
                                              &piece->four_tuple, forwarder->now_ns);
    const int32_t unconfigured = qlb_unconfigured_id(decision.outcome, octets, octets + len);
    if (unconfigured >= 0)
        qlb_count_unconfigured(forwarder->slots, (uint32_t)unconfigured, forwarder->now_ns / 1000000);
    struct qlb_session *session = NULL;
    if (decision.index >= 0) {
        session = session_to(forwarder, piece, (uint32_t)decision.index);
        decision.outcome = session ? decision.outcome : QLB_DROP_NO_SESSION;
    }
    if (session)
        qlb_outbox_add(forwarder, session, octets, len, piece->ecn, decision.outcome, qlb_send_to_backends);
    else
        qlb_count_dropped(forwarder->slots, decision.outcome, octets, len, forwarder->now_ns / 1000000);
}

/* Datagrams in a receive. */
static uint32_t datagrams_in(uint32_t bytes, uint32_t segment_bytes)
{
    return bytes > segment_bytes ? (bytes + segment_bytes - 1) / segment_bytes : 1;
}

void qlb_forward(struct qlb_forwarder *forwarder, uint32_t listener)
{
    struct qlb_inbox *inbox = &forwarder->inbox;
    const int received = qlb_inbox_receive(inbox, forwarder->listeners[listener].fd, 0, QLB_BATCH, 1);
    if (received <= 0)
        return;
    struct qlb_arrival arrivals[QLB_BATCH];
    uint64_t packets = 0, bytes = 0;
    for (int i = 0; i < received; i++) {
        struct qlb_arrival *arrival = &arrivals[i];
        const uint32_t len = inbox->messages[i].msg_len;
        qlb_read_control(&inbox->messages[i].msg_hdr, arrival);
        if (!arrival->segment_bytes)
            arrival->segment_bytes = len;
        packets += datagrams_in(len, arrival->segment_bytes);
        bytes += len;
    }
    /* Before the first is decided: who is killed in between has lost packets that the sums know of. */
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_PACKETS_RECEIVED, packets);
    qlb_add_to_slot(forwarder->slots, QLB_SLOT_BYTES_RECEIVED, bytes);
    for (int i = 0; i < received; i++) {
        const uint8_t *octets = inbox->buffers[i].iov_base;
        const uint32_t len = inbox->messages[i].msg_len, segment_bytes = arrivals[i].segment_bytes;
        struct qlb_piece piece;
        describe(forwarder, listener, &inbox->senders[i], &arrivals[i], &piece);
        uint32_t at = 0;
        do {
            handle(forwarder, &piece, octets + at, len - at < segment_bytes ? len - at : segment_bytes);
            at += segment_bytes;
        } while (at < len);
    }
    qlb_send_to_backends(forwarder);
}
