/* Call the core to decide a datagram, or a packet that an ICMP error quotes.
 *
 * program.c calls these functions. They are not inlined, so that the verifier checks each of them only once. They get
 * the frame and read the packet themselves. They return a QLB_ANSWER, and set frame->slot to the slot of the
 * destination in the generation that they used.
 */
#ifndef QLB_XDP_DECIDE_H
#define QLB_XDP_DECIDE_H

#include "frame.h"
#include "maps.h"

/* The outcome and the backend index in one number. The index is -1 for a drop. */
#define QLB_ANSWER(outcome, index) ((int)((outcome) | (uint32_t)((index) + 1) << 8))
#define QLB_ANSWER_OUTCOME(answer) ((uint32_t)(answer) & 0xff)
#define QLB_ANSWER_INDEX(answer) ((int32_t)((uint32_t)(answer) >> 8) - 1)

/* A quoted packet: IP header, UDP header, and as much of the datagram as the sender of the error included. */
#define QLB_MIN_QUOTE_BYTES 28

/* Decide a datagram. Hot: run `python -m benchmarks.xdp` before you change it. */
QLB_CALL int qlb_decide_datagram(struct xdp_md *ctx, struct qlb_frame *frame)
{
    if (!frame)
        return 0;
    const uint8_t *end = qlb_data_end(ctx), *data = qlb_data(ctx);
    const uint32_t at = frame->payload_at;
    const struct qlb_generation *generation = qlb_current_generation();
    if (!generation || at > QLB_MAX_HEADERS)
        return QLB_ANSWER(QLB_DROP_NO_BACKEND, -1);
    const struct qlb_view view = {generation};
    struct qlb_flows flows = {generation->flow_timeout_ticks, frame->remember};
    data = qlb_skip(data, at, end);
    const struct qlb_decision decision = qlb_decide(&view, &flows, data, end, &frame->four_tuple, frame->now);
    frame->slot = generation->head.backends_at + (uint32_t)decision.index;
    frame->number = generation->number;
    return QLB_ANSWER(decision.outcome, decision.index);
}

/* Note what the header of a datagram with this outcome shows: frame->lost_id, and whether it began a flow. This is a
 * separate function because the stack of qlb_decide_datagram() has no room for it. Return 0, because the verifier
 * requires a result. */
QLB_CALL int qlb_note_header(struct xdp_md *ctx, struct qlb_frame *frame, uint32_t outcome)
{
    if (!frame)
        return 0;
    const uint8_t *end = qlb_data_end(ctx), *data = qlb_data(ctx);
    const uint32_t at = frame->payload_at;
    frame->lost_id = QLB_MISS;
    if (at > QLB_MAX_HEADERS)
        return 0;
    data = qlb_skip(data, at, end);
    frame->begins_flow = qlb_begins_flow(outcome, data, end);
    const int32_t unconfigured = qlb_unconfigured_id(outcome, data, end);
    const int32_t unknown = qlb_unknown_id(outcome, data, end);
    if (unconfigured >= 0)
        frame->lost_id = unconfigured;
    else if (unknown >= 0)
        frame->lost_id = unknown | QLB_UNKNOWN_ID;
    return 0;
}

/* Find the backend that sent the packet which an ICMP error quotes. If the packet has a long header, its source ID is
 * the server's connection ID. Otherwise decide as for a packet of its client without a routable ID. Store nothing in
 * the flow tables: any host can send an ICMP error. frame->four_tuple: of the quoted packet, as its client sees it. */
QLB_CALL int qlb_decide_quote(struct xdp_md *ctx, struct qlb_frame *frame)
{
    if (!frame)
        return 0;
    const uint8_t *end = qlb_data_end(ctx), *data = qlb_data(ctx);
    const uint32_t at = frame->payload_at;
    const struct qlb_generation *generation = qlb_current_generation();
    if (!generation || at > 2 * QLB_MAX_HEADERS)
        return QLB_ANSWER(QLB_DROP_NO_BACKEND, -1);
    const struct qlb_view view = {generation};
    struct qlb_flows flows = {generation->flow_timeout_ticks, 0};
    data = qlb_skip(data, at, end);
    struct qlb_header header = qlb_parse(data, end);
    int32_t index = QLB_MISS;
    if (header.form == QLB_LONG) {
        header.dcid = header.scid;
        header.dcid_len = header.scid_len;
        index = qlb_find(&view, &header, end);
    }
    if (index < 0) {
        const struct qlb_packet packet = {&view, &flows, &frame->four_tuple, end, frame->now};
        index = qlb_by_four_tuple(&packet, QLB_PRESENT, QLB_NO_CONFIG).index;
    }
    frame->slot = generation->head.backends_at + (uint32_t)index;
    frame->number = generation->number;
    return QLB_ANSWER(index < 0 ? QLB_DROP_NO_BACKEND : 0, index);
}

#endif
