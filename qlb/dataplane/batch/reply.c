/* From backends to clients: packets of a session's socket are received and wait in the outbox. */
#include "forwarder.h"
#include "silence.h"

#define QLB_MAX_APPETITE 16

/* Set how many receives the next call for a session tries: one is enough for most. The number doubles for a session that
 * had that many in two rounds running. */
static void learn(struct qlb_session *session, int received, uint32_t round)
{
    if (received < session->appetite)
        session->appetite = (uint8_t)received;
    else if (session->round + 1 == round && session->appetite < QLB_MAX_APPETITE)
        session->appetite *= 2;
    session->round = round;
}

void qlb_reply(struct qlb_forwarder *forwarder, struct qlb_session *session, uint32_t *used)
{
    struct qlb_inbox *inbox = &forwarder->inbox;
    if (!qlb_gate_admits(forwarder, session))
        return;
    if (*used + session->appetite > QLB_BATCH) {
        qlb_send_to_clients(forwarder);
        *used = 0;
    }
    const uint32_t first = *used;
    const int received = qlb_inbox_receive(inbox, session->fd, first, session->appetite, 0);
    if (received <= 0) {
        if (received < 0 && errno != EAGAIN && errno != EINTR) /* of an earlier send; reading it has cleared it */
            qlb_count_send_error(forwarder->slots, errno, session->key.index, 0);
        return;
    }
    session->last_used_ns = forwarder->now_ns;
    session->renewed |= session->is_protected; /* answers alone protect no session */
    qlb_silence_end(session);
    learn(session, received, forwarder->round);
    for (uint32_t i = first; i < first + (uint32_t)received; i++) {
        const uint8_t *octets = inbox->buffers[i].iov_base;
        const uint32_t len = inbox->messages[i].msg_len;
        struct qlb_arrival arrival;
        qlb_read_control(&inbox->messages[i].msg_hdr, &arrival);
        const uint32_t segment_bytes = arrival.segment_bytes ? arrival.segment_bytes : len;
        uint32_t at = 0;
        do {
            qlb_outbox_add(forwarder, session, octets + at, len - at < segment_bytes ? len - at : segment_bytes,
                           arrival.traffic_class, 0, qlb_send_to_clients);
            at += segment_bytes;
        } while (at < len);
        qlb_gate_note_received(forwarder, session, len);
    }
    *used += (uint32_t)received;
}
