/* Parse the headers of a frame: Ethernet, one VLAN tag, IPv4 or IPv6, UDP or ICMP.
 *
 * program.c calls qlb_read_headers() first for each frame. Positions are offsets, because pointers into a packet are
 * invalid after a helper has moved one of its ends. Only qlb_trim() changes the frame: it removes octets after the end
 * of the IP packet, with which Ethernet pads short frames.
 */
#ifndef QLB_XDP_FRAME_H
#define QLB_XDP_FRAME_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../core/hooks.h"
#include "../core/types.h"

/* The kinds of frames. */
enum {
    QLB_FOREIGN,  /* passed to the kernel: another protocol, malformed, or a later fragment */
    QLB_DATAGRAM, /* UDP */
    QLB_FRAGMENT, /* the first fragment of a UDP datagram, with its ports */
    QLB_ICMP,     /* an ICMP or ICMPv6 message */
};

/* An IP packet in a frame. four_tuple: of a datagram, as its client sees it. payload_at: offset of the UDP payload, or
 * of the ICMP message. */
struct qlb_frame {
    struct qlb_four_tuple four_tuple;
    uint32_t ip_at;
    uint32_t payload_at;
    uint32_t ip_len;
    uint32_t datagram_len; /* of the UDP payload; set by qlb_process() */
    uint32_t vlan; /* the tag as on the wire, TPID first; 0 if there is none */
    uint8_t is_ipv6;
    uint8_t protocol;
    uint8_t traffic_class; /* DSCP and ECN */
    uint8_t hop_limit;
    uint32_t slot;      /* of the destination; set by the decision */
    uint64_t number;    /* of the generation that the decision used; set by the decision */
    uint64_t now;       /* ticks; set by qlb_process() */
    uint32_t remember;  /* 1: store its flow in the flow tables; set by qlb_process() */
    uint32_t interface; /* by which it leaves; set by qlb_send() */
    int32_t lost_id;      /* the config ID of an ID that leads nowhere, or QLB_MISS; set by qlb_note_header() */
    uint32_t begins_flow; /* the result of qlb_begins_flow(); set by qlb_note_header() */
};

#define QLB_UNKNOWN_ID 8 /* in lost_id, beside the config ID: the config is known, but not the server ID */

#define QLB_MAX_HEADERS 86 /* Ethernet, a tag, IPv4 with all its options, UDP */

QLB_INLINE const uint8_t *qlb_data(const struct xdp_md *ctx) { return (const uint8_t *)(long)ctx->data; }
QLB_INLINE const uint8_t *qlb_data_end(const struct xdp_md *ctx) { return (const uint8_t *)(long)ctx->data_end; }

#define QLB_IPV4_FRAGMENT_OFFSET 0x1fff
#define QLB_IPV4_MORE_FRAGMENTS 0x2000
#define QLB_IPV6_FRAGMENT 44

QLB_INLINE void qlb_map_ipv4(uint8_t *to, const uint8_t *address)
{
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, address, 4);
}

/* Read the ports of a datagram at `at`. Return 1 if its length is that of the IP packet's payload, else 0. */
QLB_INLINE uint32_t qlb_read_udp(struct qlb_frame *frame, const uint8_t *at, uint32_t len, const uint8_t *end)
{
    const struct udphdr *udp = (const void *)at;
    if (!QLB_HAS(at, sizeof *udp, end) || bpf_ntohs(udp->len) != len || len < sizeof *udp)
        return 0;
    __builtin_memcpy(frame->four_tuple.ports, udp, 4);
    frame->payload_at += sizeof *udp;
    return 1;
}

QLB_INLINE uint32_t qlb_read_ipv4(struct qlb_frame *frame, const uint8_t *at, const uint8_t *end)
{
    const struct iphdr *ip = (const void *)at;
    if (!QLB_HAS(at, sizeof *ip, end) || ip->version != 4 || ip->ihl < 5)
        return QLB_FOREIGN;
    const uint32_t header_len = ip->ihl * 4u, fragment = bpf_ntohs(ip->frag_off);
    frame->ip_len = bpf_ntohs(ip->tot_len);
    if (frame->ip_len < header_len || fragment & QLB_IPV4_FRAGMENT_OFFSET)
        return QLB_FOREIGN;
    frame->payload_at = frame->ip_at + header_len;
    frame->protocol = ip->protocol;
    frame->traffic_class = ip->tos;
    frame->hop_limit = ip->ttl;
    qlb_map_ipv4(frame->four_tuple.client, (const uint8_t *)&ip->saddr);
    qlb_map_ipv4(frame->four_tuple.service, (const uint8_t *)&ip->daddr);
    if (ip->protocol == IPPROTO_ICMP && !(fragment & QLB_IPV4_MORE_FRAGMENTS))
        return QLB_ICMP;
    if (ip->protocol != IPPROTO_UDP)
        return QLB_FOREIGN;
    at = qlb_skip(at, header_len, end);
    if (fragment & QLB_IPV4_MORE_FRAGMENTS) {
        if (!QLB_HAS(at, 4, end))
            return QLB_FOREIGN;
        __builtin_memcpy(frame->four_tuple.ports, at, 4);
        return QLB_FRAGMENT;
    }
    return qlb_read_udp(frame, at, frame->ip_len - header_len, end) ? QLB_DATAGRAM : QLB_FOREIGN;
}

QLB_INLINE uint32_t qlb_read_ipv6(struct qlb_frame *frame, const uint8_t *at, const uint8_t *end)
{
    const struct ipv6hdr *ip = (const void *)at;
    if (!QLB_HAS(at, sizeof *ip, end) || ip->version != 6)
        return QLB_FOREIGN;
    frame->is_ipv6 = 1;
    frame->ip_len = sizeof *ip + bpf_ntohs(ip->payload_len);
    frame->payload_at = frame->ip_at + sizeof *ip;
    frame->protocol = ip->nexthdr;
    frame->traffic_class = (uint8_t)(ip->priority << 4 | ip->flow_lbl[0] >> 4);
    frame->hop_limit = ip->hop_limit;
    __builtin_memcpy(frame->four_tuple.client, &ip->saddr, 16);
    __builtin_memcpy(frame->four_tuple.service, &ip->daddr, 16);
    at += sizeof *ip;
    if (ip->nexthdr == IPPROTO_ICMPV6)
        return QLB_ICMP;
    if (ip->nexthdr == QLB_IPV6_FRAGMENT) { /* next header, reserved, offset and flag, identification, then UDP */
        if (!QLB_HAS(at, 12, end) || at[0] != IPPROTO_UDP || at[2] || at[3] & 0xf8)
            return QLB_FOREIGN;
        __builtin_memcpy(frame->four_tuple.ports, at + 8, 4);
        return QLB_FRAGMENT;
    }
    if (ip->nexthdr != IPPROTO_UDP)
        return QLB_FOREIGN;
    return qlb_read_udp(frame, at, frame->ip_len - sizeof *ip, end) ? QLB_DATAGRAM : QLB_FOREIGN;
}

/* Read a frame's headers. Return its kind. frame: zeroed.
 *
 * Hot: run `python -m benchmarks.xdp` before you change it. */
QLB_INLINE uint32_t qlb_read_headers(struct qlb_frame *frame, const uint8_t *data, const uint8_t *end)
{
    const struct ethhdr *ethernet = (const void *)data;
    if (!QLB_HAS(data, sizeof *ethernet + 4, end))
        return QLB_FOREIGN;
    uint16_t type = ethernet->h_proto;
    frame->ip_at = sizeof *ethernet;
    data += sizeof *ethernet;
    if (type == bpf_htons(ETH_P_8021Q)) {
        __builtin_memcpy(&frame->vlan, data - 2, 4);
        __builtin_memcpy(&type, data + 2, 2);
        frame->ip_at += 4;
        data += 4;
    }
    if (type == bpf_htons(ETH_P_IP))
        return qlb_read_ipv4(frame, data, end);
    if (type == bpf_htons(ETH_P_IPV6))
        return qlb_read_ipv6(frame, data, end);
    return QLB_FOREIGN;
}

/* Remove the octets after the IP packet. Return 1, or 0 if the frame does not contain the whole packet. */
QLB_INLINE uint32_t qlb_trim(struct xdp_md *ctx, const struct qlb_frame *frame)
{
    const uint32_t size = (uint32_t)(ctx->data_end - ctx->data), wanted = frame->ip_at + frame->ip_len;
    if (size == wanted)
        return 1;
    return size > wanted && !bpf_xdp_adjust_tail(ctx, (int)(wanted - size));
}

#endif
