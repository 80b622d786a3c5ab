/* Answer a packet that is too big for the path to its backend with an ICMP error, which gives the length that fits.
 *
 * program.c calls qlb_answer_too_big() after qlb_next_hop() has failed with QLB_DROP_TOO_BIG. The answer comes from the
 * service address and leaves by the interface that the packet arrived on. It is never longer than the packet that it
 * quotes, and each CPU sends at most QLB_ICMP_PER_TICK answers in each tick: a few hundred a second.
 *
 * Spec: RFC 792 and RFC 1191, section 4, quoting as much as RFC 1812, section 4.3.2.3, wants; RFC 4443, sections 2.4
 * and 3.2.
 */
#ifndef QLB_XDP_TOO_BIG_H
#define QLB_XDP_TOO_BIG_H

#include "counters.h"
#include "encapsulate.h"
#include "icmp.h"

#define QLB_ICMP_PER_TICK 4
#define QLB_QUOTE_IPV4 548  /* octets; 576 with the headers */
#define QLB_QUOTE_IPV6 1232 /* octets; 1,280 with the headers */
#define QLB_CHUNK 512       /* octets that one call of bpf_csum_diff() accepts */

struct qlb_allowance {
    uint64_t seen;
    uint64_t left;
};

QLB_MAP(allowances, BPF_MAP_TYPE_PERCPU_ARRAY, uint32_t, struct qlb_allowance);

/* Check whether a packet can leave by the interface that it arrived on. */
QLB_INLINE uint32_t qlb_can_answer(const struct xdp_md *ctx)
{
    const uint8_t any[ETH_ALEN] = {0};
    return qlb_find_exit(ctx, ctx->ingress_ifindex, any) != 0;
}

/* Check whether this CPU may send another answer in this tick, and count it. */
QLB_INLINE uint32_t qlb_may_answer(uint64_t now)
{
    const uint32_t first = 0;
    struct qlb_allowance *allowance = bpf_map_lookup_elem(&allowances, &first);
    if (!allowance)
        return 0;
    if (now != allowance->seen) {
        allowance->seen = now;
        allowance->left = QLB_ICMP_PER_TICK;
    }
    if (!allowance->left)
        return 0;
    allowance->left--;
    return 1;
}

QLB_INLINE uint16_t qlb_fold(uint64_t sum)
{
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~((sum & 0xffff) + (sum >> 16));
}

QLB_INLINE uint32_t qlb_sum(const uint8_t *at, uint32_t len, uint32_t seed)
{
    return (uint32_t)bpf_csum_diff(0, 0, (void *)at, len, seed);
}

/* Write the IPv4 header and the ICMP message before the quoted packet. at: room for them, followed by the quote. */
QLB_INLINE void qlb_write_fragmentation_needed(uint8_t *at, const struct qlb_frame *frame, uint32_t mtu)
{
    struct iphdr *ip = (void *)at;
    struct qlb_icmp *icmp = (void *)(ip + 1);
    __builtin_memset(at, 0, sizeof *ip + sizeof *icmp);
    ip->version = 4;
    ip->ihl = sizeof *ip / 4;
    ip->tot_len = bpf_htons(sizeof *ip + sizeof *icmp + QLB_QUOTE_IPV4);
    ip->ttl = QLB_OUTER_HOP_LIMIT;
    ip->protocol = IPPROTO_ICMP;
    __builtin_memcpy(&ip->saddr, frame->four_tuple.service + 12, 4);
    __builtin_memcpy(&ip->daddr, frame->four_tuple.client + 12, 4);
    ip->check = qlb_ipv4_checksum(ip);
    icmp->type = QLB_ICMP_UNREACHABLE;
    icmp->code = QLB_ICMP_FRAGMENTATION_NEEDED;
    icmp->mtu = bpf_htonl(mtu);
    const uint32_t sum = qlb_sum((const uint8_t *)icmp, QLB_CHUNK, 0);
    icmp->checksum =
        qlb_fold(qlb_sum((const uint8_t *)icmp + QLB_CHUNK, sizeof *icmp + QLB_QUOTE_IPV4 - QLB_CHUNK, sum));
}

/* Write the IPv6 header and the ICMPv6 message before the quoted packet. at: room for them, followed by the quote. */
QLB_INLINE void qlb_write_packet_too_big(uint8_t *at, const struct qlb_frame *frame, uint32_t mtu)
{
    struct ipv6hdr *ip = (void *)at;
    struct qlb_icmp *icmp = (void *)(ip + 1);
    const uint32_t len = sizeof *icmp + QLB_QUOTE_IPV6;
    __builtin_memset(at, 0, sizeof *ip + sizeof *icmp);
    ip->version = 6;
    ip->payload_len = bpf_htons((uint16_t)len);
    ip->nexthdr = IPPROTO_ICMPV6;
    ip->hop_limit = QLB_OUTER_HOP_LIMIT;
    __builtin_memcpy(&ip->saddr, frame->four_tuple.service, 16);
    __builtin_memcpy(&ip->daddr, frame->four_tuple.client, 16);
    icmp->type = QLB_ICMPV6_PACKET_TOO_BIG;
    icmp->mtu = bpf_htonl(mtu);
    uint32_t sum = qlb_sum((const uint8_t *)&ip->saddr, 32, bpf_htonl(len));
    sum = qlb_sum((const uint8_t *)icmp, QLB_CHUNK, sum);
    sum = qlb_sum((const uint8_t *)icmp + QLB_CHUNK, QLB_CHUNK, sum);
    sum = qlb_sum((const uint8_t *)icmp + 2 * QLB_CHUNK, sizeof *icmp + QLB_QUOTE_IPV6 - 2 * QLB_CHUNK, sum);
    icmp->checksum = qlb_fold((uint64_t)sum + bpf_htonl(IPPROTO_ICMPV6));
}

/* Turn the frame into the answer. Return 1 if there is an answer to send, else 0. mtu: the longest packet that fits. */
QLB_CALL int qlb_answer_too_big(struct xdp_md *ctx, const struct qlb_frame *frame, uint32_t mtu)
{
    if (!frame || !qlb_can_answer(ctx) || !qlb_may_answer(frame->now))
        return 0;
    const uint32_t quote_len = frame->is_ipv6 ? QLB_QUOTE_IPV6 : QLB_QUOTE_IPV4;
    const uint32_t header_len = frame->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
    uint8_t macs[2 * ETH_ALEN];
    if (!QLB_HAS(qlb_data(ctx), sizeof macs, qlb_data_end(ctx)) ||
        frame->ip_len < header_len + sizeof(struct qlb_icmp) + quote_len)
        return 0;
    __builtin_memcpy(macs, qlb_data(ctx) + ETH_ALEN, ETH_ALEN);
    __builtin_memcpy(macs + ETH_ALEN, qlb_data(ctx), ETH_ALEN);
    if (bpf_xdp_adjust_tail(ctx, (int)(quote_len - frame->ip_len)) ||
        bpf_xdp_adjust_head(ctx, -(int)(header_len + sizeof(struct qlb_icmp))))
        return 0;
    uint8_t *data = (uint8_t *)qlb_data(ctx);
    const uint8_t *end = qlb_data_end(ctx);
    const uint16_t type = bpf_htons(frame->is_ipv6 ? ETH_P_IPV6 : ETH_P_IP);
    if (!QLB_HAS(data, sizeof macs + 6, end))
        return 0;
    __builtin_memcpy(data, macs, sizeof macs);
    data += sizeof macs;
    if (frame->vlan) {
        __builtin_memcpy(data, &frame->vlan, 4);
        data += 4;
    }
    __builtin_memcpy(data, &type, 2);
    data += 2;
    if (frame->is_ipv6) {
        if (!QLB_HAS(data, sizeof(struct ipv6hdr) + sizeof(struct qlb_icmp) + QLB_QUOTE_IPV6, end))
            return 0;
        qlb_write_packet_too_big(data, frame, mtu);
    } else {
        if (!QLB_HAS(data, sizeof(struct iphdr) + sizeof(struct qlb_icmp) + QLB_QUOTE_IPV4, end))
            return 0;
        qlb_write_fragmentation_needed(data, frame, mtu);
    }
    return 1;
}

#endif
