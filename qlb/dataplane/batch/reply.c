/* From backends to clients: receive from a session's socket and add the datagrams to the outbox.
 *
 * loop.c calls qlb_reply() for each session whose socket is readable. The function receives at most QLB_MAX_RECEIVES
 * times, so that no session delays the others, and it receives nothing from a session that gate.c pauses.
 */
#include "forwarder.h"
#include "silence.h"

#define QLB_MAX_RECEIVES 16

/* Set how many receives the next call for a session tries. One is enough for most sessions. The number doubles for a
 * session that had as many in two consecutive rounds. */
static void adapt_receives(struct qlb_session *session, int received, uint32_t round)
{
    if (received < session->receives)
        session->receives = (uint8_t)received;
    else if (session->round + 1 == round && session->receives < QLB_MAX_RECEIVES)
        session->receives *= 2;
    session->round = round;
}

/* Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
void qlb_reply(struct qlb_forwarder *forwarder, struct qlb_session *session, uint32_t *used)
{
    struct qlb_inbox *inbox = &forwarder->inbox;
    if (!qlb_gate_admits(forwarder, session))
        return;
    if (*used + session->receives > QLB_BATCH) {
        qlb_send_to_clients(forwarder);
        *used = 0;
    }
    const uint32_t first = *used;
    const int received = qlb_latency_receive(forwarder, session->fd, session, first, session->receives);
    if (received <= 0) {
        if (received < 0)
            qlb_count_receive_error(forwarder->slots, errno, session->key.index);
        return;
    }
    session->last_used_ns = forwarder->now_ns;
    session->renewed |= session->is_protected; /* answers alone do not protect a session */
    qlb_silence_end(session);
    adapt_receives(session, received, forwarder->round);
    for (uint32_t i = first; i < first + (uint32_t)received; i++) {
        const uint8_t *octets = inbox->buffers[i].iov_base;
        const uint32_t len = inbox->messages[i].msg_len;
        struct qlb_arrival arrival;
        qlb_read_control(&inbox->messages[i].msg_hdr, &arrival);
        const uint32_t segment_bytes = arrival.segment_bytes ? arrival.segment_bytes : len;
        uint32_t at = 0;
        do {
            const uint32_t each = len - at < segment_bytes ? len - at : segment_bytes;
            if (each && octets[at] >= 0x80)
                qlb_check_shown(forwarder, session, octets + at, each);
            qlb_outbox_add(forwarder, session, octets + at, each, arrival.traffic_class, 0, qlb_send_to_clients);
            at += segment_bytes;
        } while (at < len);
        qlb_gate_note_received(forwarder, session, len);
    }
    *used += (uint32_t)received;
}
