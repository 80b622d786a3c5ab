/* The XDP program: the path of a packet from the driver to its backend.
 *
 *   frame.h        parse the headers
 *   decide.h       choose the backend (the core, over maps.h)
 *   next_hop.h     find the interface and check the path's MTU; too_big.h answers packets that are too big
 *   encapsulate.h  add the outer headers: l2, ipip, gue
 *   counters.h     count the outcome
 *   icmp.h         parse ICMP errors about packets that backends have sent
 *
 * The kernel runs qlb_forward() for each frame of an interface to which plane.py has attached it. A packet that is not
 * for a service address goes unchanged to the kernel. Each datagram for one is counted exactly once. The program stores
 * only state that may be lost: flows of unroutable IDs, and decoded IDs.
 *
 * This program, with the headers that it includes, may be used under the Apache License 2.0, as all of qlb, or, at
 * your choice, under the GNU General Public License, version 2: some helpers of the kernel ask for that.
 */
#include "counters.h"
#include "decide.h"
#include "encapsulate.h"
#include "frame.h"
#include "icmp.h"
#include "maps.h"
#include "next_hop.h"
#include "too_big.h"

/* A frame is in a map because the stack has no room for it. Each CPU needs one: it processes one packet at a time. */
QLB_MAP(frames, BPF_MAP_TYPE_PERCPU_ARRAY, uint32_t, struct qlb_frame);
QLB_MAP(questions, BPF_MAP_TYPE_ARRAY, uint32_t, struct qlb_question);

/* Check whether an address and port are a service's. The lookup works as that of a server ID in the core.
 *
 * Hot: run `python -m benchmarks.xdp` before you change it. */
QLB_INLINE uint32_t qlb_find_service(const struct qlb_block address, uint64_t port)
{
    const struct qlb_block key = {address.low ^ port, address.high};
    const uint32_t first = qlb_server_hash(qlb_settings.service_seed, &key);
    for (uint32_t probe = 0; probe < QLB_SERVER_PROBES; probe++) {
        const uint32_t slot = (first + probe) & (qlb_settings.service_slots - 1);
        const struct qlb_service *service = bpf_map_lookup_elem(&services, &slot);
        if (!service || !service->port)
            break;
        if (service->low == address.low && service->high == address.high && service->port == port)
            return 1;
    }
    return 0;
}

/* Check whether a packet is for a service. An IPv4-mapped IPv6 address in an IPv6 packet is not a service's. */
QLB_INLINE uint32_t qlb_is_service(const struct qlb_frame *frame)
{
    const struct qlb_four_tuple *four_tuple = &frame->four_tuple;
    const struct qlb_block address = {qlb_load64(four_tuple->service), qlb_load64(four_tuple->service + 8)};
    if (qlb_is_ipv4(&address) == frame->is_ipv6)
        return 0;
    return qlb_find_service(address, (uint64_t)four_tuple->ports[2] | (uint64_t)four_tuple->ports[3] << 8);
}

/* Check whether a packet has a source that no client can have: port 0; an address that is not a remote unicast address
 * (for the other planes, the kernel drops these packets before a socket receives them); or a service's own address and
 * port, with which the balancer or a backend would answer itself. */
QLB_INLINE uint32_t qlb_has_bad_source(const struct qlb_frame *frame)
{
    const uint8_t *client = frame->four_tuple.client, *ports = frame->four_tuple.ports;
    const struct qlb_block address = {qlb_load64(client), qlb_load64(client + 8)};
    if (!(ports[0] | ports[1]) || qlb_is_ipv4(&address) == frame->is_ipv6)
        return 1;
    const uint32_t first = frame->is_ipv6 ? client[0] : client[12];
    if (frame->is_ipv6 ? first == 0xff || (!address.low && !(address.high & ~((uint64_t)1 << 56)))
                       : !first || first == 127 || first >> 4 == 14 || qlb_load32(client + 12) == 0xffffffff)
        return 1;
    const uint64_t port = (uint64_t)ports[0] | (uint64_t)ports[1] << 8;
    /* Few clients have a port whose last six bits are those of a service's port. Only these need a lookup. */
    return qlb_settings.service_ports >> (ports[1] & 63) & 1 && qlb_find_service(address, port);
}

QLB_INLINE void qlb_read_question(const struct qlb_question *question, struct qlb_frame *frame)
{
    frame->remember = question->remember;
    frame->now = question->now;
}

QLB_INLINE void qlb_write_answer(struct qlb_question *question, const struct qlb_frame *frame, int answer,
                                 uint32_t outcome)
{
    question->decision = QLB_ANSWER_OUTCOME(answer);
    question->outcome = outcome;
    question->backend = QLB_ANSWER_INDEX(answer);
    question->interface = frame->interface;
}

/* Return the action that transmits the frame by an interface. */
QLB_INLINE int qlb_transmit(const struct xdp_md *ctx, uint32_t interface)
{
    if (interface == ctx->ingress_ifindex && !qlb_settings.redirect_only)
        return XDP_TX;
    return (int)bpf_redirect(interface, 0);
}

/* Decide a packet: drop it because of its source or because it is a fragment, or call the core. */
QLB_INLINE int qlb_decide_frame(struct xdp_md *ctx, struct qlb_frame *frame, uint32_t kind)
{
    if (qlb_has_bad_source(frame))
        return QLB_ANSWER(QLB_DROP_BAD_SOURCE, -1);
    if (kind == QLB_FRAGMENT)
        return QLB_ANSWER(QLB_DROP_FRAGMENT, -1);
    return qlb_decide_datagram(ctx, frame);
}

/* Send a packet to a backend. Return 0 and set *action to the XDP action, or return the outcome of a packet that cannot
 * be sent. In that case *action is set only if an ICMP answer is sent in its place. */
QLB_INLINE uint32_t qlb_send(struct xdp_md *ctx, struct qlb_frame *frame, uint32_t index, int *action)
{
    const struct qlb_destination *destination = bpf_map_lookup_elem(&destinations, &frame->slot);
    struct qlb_backend *backend = bpf_map_lookup_elem(&backends, &index);
    if (!destination || !backend)
        return QLB_DROP_NO_BACKEND;
    if (frame->hop_limit <= 1)
        return QLB_DROP_HOP_LIMIT;
    const uint32_t overhead = qlb_overhead(destination), len = frame->ip_len + overhead;
    const uint32_t failure = qlb_next_hop(ctx, frame, destination, len, backend);
    if (failure == QLB_DROP_TOO_BIG && frame->protocol == IPPROTO_UDP &&
        qlb_answer_too_big(ctx, frame, backend->hop_mtu - overhead)) {
        qlb_count_icmp(QLB_SLOT_ICMP_SENT);
        *action = qlb_transmit(ctx, ctx->ingress_ifindex);
    }
    if (failure)
        return failure;
    frame->interface = backend->hop_interface;
    if (!qlb_encapsulate(ctx, frame, destination, len, backend))
        return QLB_DROP_SEND_FAILED;
    *action = qlb_transmit(ctx, frame->interface);
    return 0;
}

/* Forward an ICMP error to the backend that sent the quoted packet, or pass it to the kernel. */
QLB_INLINE int qlb_process_icmp(struct xdp_md *ctx, struct qlb_frame *frame)
{
    int action = XDP_DROP;
    if (!qlb_read_quote(frame, qlb_data(ctx), qlb_data_end(ctx)) || !qlb_is_service(frame) || !qlb_trim(ctx, frame))
        return XDP_PASS;
    const int32_t index = QLB_ANSWER_INDEX(qlb_decide_quote(ctx, frame));
    if (index < 0)
        return XDP_PASS;
    if (!qlb_send(ctx, frame, (uint32_t)index, &action))
        qlb_count_icmp(QLB_SLOT_ICMP_FORWARDED);
    return action;
}

/* Process a frame and return the XDP action. question: of a test run, or a null pointer for a real packet.
 *
 * Hot: run `python -m benchmarks.xdp` before you change it. */
QLB_INLINE int qlb_process(struct xdp_md *ctx, struct qlb_question *question)
{
    const uint32_t first = 0;
    struct qlb_frame *frame = bpf_map_lookup_elem(&frames, &first);
    if (!frame)
        return XDP_PASS;
    *frame = (struct qlb_frame){.now = bpf_jiffies64(), .remember = 1};
    const uint32_t kind = qlb_read_headers(frame, qlb_data(ctx), qlb_data_end(ctx));
    if (kind == QLB_FOREIGN)
        return XDP_PASS;
    if (kind == QLB_ICMP)
        return qlb_process_icmp(ctx, frame);
    if (!qlb_is_service(frame) || (kind == QLB_DATAGRAM && !qlb_trim(ctx, frame)))
        return XDP_PASS;
    frame->datagram_len = frame->ip_at + frame->ip_len - frame->payload_at;
    if (question)
        qlb_read_question(question, frame);
    const int answer = qlb_decide_frame(ctx, frame, kind);
    const int32_t index = QLB_ANSWER_INDEX(answer);
    uint32_t outcome = QLB_ANSWER_OUTCOME(answer);
    int action = XDP_DROP;
    frame->lost_id = qlb_find_lost_id(ctx, frame, outcome);
    if (index >= 0) {
        const uint32_t failure = qlb_send(ctx, frame, (uint32_t)index, &action);
        outcome = failure ? failure : outcome;
    }
    if (question) {
        qlb_write_answer(question, frame, answer, outcome);
        return action;
    }
    if (action == XDP_DROP)
        qlb_store_sample(ctx, frame, outcome);
    qlb_count(frame, outcome, (uint32_t)index);
    return action;
}

/* The program that plane.py attaches. */
SEC("xdp")
int qlb_forward(struct xdp_md *ctx) { return qlb_process(ctx, 0); }

/* The same for BPF test runs: it answers the question in the map `questions` and counts no datagram. */
SEC("xdp")
int qlb_explain(struct xdp_md *ctx)
{
    const uint32_t first = 0;
    struct qlb_question *question = bpf_map_lookup_elem(&questions, &first);
    if (!question)
        return XDP_ABORTED;
    if (!question->now)
        question->now = bpf_jiffies64();
    return qlb_process(ctx, question);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
