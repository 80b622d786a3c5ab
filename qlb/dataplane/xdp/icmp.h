/* Parse ICMP errors about packets that a backend has sent.
 *
 * Such errors arrive at the service address, possibly at another balancer. program.c calls qlb_read_quote() to read the
 * 4-tuple of the quoted packet, so that the error can be forwarded to the backend that sent it. The packet itself does
 * not change.
 *
 * Spec: RFC 792; RFC 4443, section 3.
 */
#ifndef QLB_XDP_ICMP_H
#define QLB_XDP_ICMP_H

#include "frame.h"

/* The relevant types. They are defined here because the kernel's header for them includes libc's headers. */
#define QLB_ICMP_UNREACHABLE 3
#define QLB_ICMP_TIME_EXCEEDED 11
#define QLB_ICMP_PARAMETER_PROBLEM 12
#define QLB_ICMP_FRAGMENTATION_NEEDED 4 /* a code of unreachable */
#define QLB_ICMPV6_UNREACHABLE 1
#define QLB_ICMPV6_PACKET_TOO_BIG 2
#define QLB_ICMPV6_PARAMETER_PROBLEM 4

/* The header of an ICMP or ICMPv6 error: 8 octets. mtu: its upper half is zero in ICMP. */
struct qlb_icmp {
    uint8_t type;
    uint8_t code;
    uint16_t checksum;
    uint32_t mtu;
};

QLB_INLINE uint32_t qlb_is_icmp_error(uint32_t is_ipv6, uint8_t type)
{
    if (is_ipv6)
        return type >= QLB_ICMPV6_UNREACHABLE && type <= QLB_ICMPV6_PARAMETER_PROBLEM;
    return type == QLB_ICMP_UNREACHABLE || type == QLB_ICMP_TIME_EXCEEDED || type == QLB_ICMP_PARAMETER_PROBLEM;
}

/* Set frame->four_tuple to that of the datagram which an ICMP error quotes, as its client sees it, and
 * frame->payload_at to the beginning of that datagram's payload. Return 1 if the error is about a UDP datagram whose
 * source address is the destination of the error, else 0. */
QLB_INLINE uint32_t qlb_read_quote(struct qlb_frame *frame, const uint8_t *data, const uint8_t *end)
{
    const uint32_t offset = frame->payload_at;
    if (offset > QLB_MAX_HEADERS)
        return 0;
    const uint8_t *at = qlb_skip(data, offset, end);
    if (!QLB_HAS(at, sizeof(struct qlb_icmp), end) || !qlb_is_icmp_error(frame->is_ipv6, at[0]))
        return 0;
    struct qlb_four_tuple *four_tuple = &frame->four_tuple;
    struct qlb_block service = {qlb_load64(four_tuple->service), qlb_load64(four_tuple->service + 8)};
    at += sizeof(struct qlb_icmp);
    uint32_t ip_len = sizeof(struct ipv6hdr);
    if (frame->is_ipv6) {
        const struct ipv6hdr *ip = (const void *)at;
        if (!QLB_HAS(at, sizeof *ip, end) || ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
            return 0;
        __builtin_memcpy(four_tuple->client, &ip->daddr, 16);
        __builtin_memcpy(four_tuple->service, &ip->saddr, 16);
    } else {
        const struct iphdr *ip = (const void *)at;
        if (!QLB_HAS(at, sizeof *ip, end) || ip->version != 4 || ip->ihl < 5 || ip->protocol != IPPROTO_UDP ||
            ip->frag_off & bpf_htons(QLB_IPV4_FRAGMENT_OFFSET))
            return 0;
        ip_len = ip->ihl * 4u;
        qlb_map_ipv4(four_tuple->client, (const uint8_t *)&ip->daddr);
        qlb_map_ipv4(four_tuple->service, (const uint8_t *)&ip->saddr);
    }
    at = qlb_skip(at, ip_len, end);
    if (!QLB_HAS(at, sizeof(struct udphdr), end))
        return 0;
    __builtin_memcpy(four_tuple->ports, at + 2, 2);
    __builtin_memcpy(four_tuple->ports + 2, at, 2);
    frame->payload_at += sizeof(struct qlb_icmp) + ip_len + sizeof(struct udphdr);
    return qlb_load64(four_tuple->service) == service.low && qlb_load64(four_tuple->service + 8) == service.high;
}

#endif
