/* Encapsulate a packet for its backend: new MAC addresses; in ipip and gue mode an outer IP header, in gue mode also
 * UDP.
 *
 * program.c calls qlb_encapsulate() after the next hop is known. If it fails, the packet has to be dropped: it may have
 * changed already.
 *
 * The outer header has the balancer's and the backend's address. Its DSCP and ECN are those of the packet (RFC 6040,
 * section 4.1, normal mode; RFC 2983, the uniform model), and it forbids fragmentation. The packet's own hop limit is
 * decremented (RFC 2003, section 3.1; RFC 2473, section 3.1). The outer UDP checksum is zero: the checksum of the inner
 * packet protects the payload and the addresses (RFC 6935).
 */
#ifndef QLB_XDP_ENCAPSULATE_H
#define QLB_XDP_ENCAPSULATE_H

#include "frame.h"
#include "maps.h"
#include "next_hop.h"

#define QLB_OUTER_HOP_LIMIT 64
#define QLB_DONT_FRAGMENT 0x4000
#define QLB_FIRST_EPHEMERAL_PORT 0xc000

/* Return 32 bits that are the same for all packets of a flow. Routers and queues use them to balance load (RFC 6438).
 * */
QLB_INLINE uint32_t qlb_entropy(const struct qlb_four_tuple *four_tuple)
{
    const struct qlb_block client = {
        qlb_load64(four_tuple->client) ^ qlb_load32(four_tuple->ports),
        qlb_load64(four_tuple->client + 8) ^ qlb_load32(four_tuple->service + 12),
    };
    return qlb_server_hash(0x9e3779b97f4a7c15u, &client);
}

/* Return the checksum of an IPv4 header of 20 octets whose checksum field is zero. */
QLB_INLINE uint16_t qlb_ipv4_checksum(const struct iphdr *ip)
{
    const uint16_t *words = (const void *)ip;
    uint32_t sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < sizeof *ip / 2; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~((sum & 0xffff) + (sum >> 16));
}

/* Decrement the hop limit, and update IPv4's checksum accordingly (RFC 1624). at: the IP header. */
QLB_INLINE void qlb_decrement_hop_limit(const struct qlb_frame *frame, uint8_t *at, const uint8_t *end)
{
    if (frame->is_ipv6) {
        if (QLB_HAS(at, sizeof(struct ipv6hdr), end))
            ((struct ipv6hdr *)(void *)at)->hop_limit--;
        return;
    }
    struct iphdr *ip = (void *)at;
    if (!QLB_HAS(at, sizeof *ip, end))
        return;
    const uint32_t sum = (uint32_t)ip->check + bpf_htons(0x0100);
    ip->check = (uint16_t)(sum + (sum >= 0xffff));
    ip->ttl--;
}

QLB_INLINE void qlb_write_ipv4(struct iphdr *ip, const struct qlb_frame *frame,
                               const struct qlb_destination *destination, uint32_t len, uint8_t protocol)
{
    __builtin_memset(ip, 0, sizeof *ip);
    ip->version = 4;
    ip->ihl = sizeof *ip / 4;
    ip->tos = frame->traffic_class;
    ip->tot_len = bpf_htons((uint16_t)len);
    ip->frag_off = bpf_htons(QLB_DONT_FRAGMENT);
    ip->ttl = QLB_OUTER_HOP_LIMIT;
    ip->protocol = protocol;
    ip->saddr = destination->source[0];
    ip->daddr = destination->address[0];
    ip->check = qlb_ipv4_checksum(ip);
}

QLB_INLINE void qlb_write_ipv6(struct ipv6hdr *ip, const struct qlb_frame *frame,
                               const struct qlb_destination *destination, uint32_t len, uint8_t protocol)
{
    const uint32_t entropy = qlb_entropy(&frame->four_tuple);
    ip->version = 6;
    ip->priority = frame->traffic_class >> 4;
    ip->flow_lbl[0] = (uint8_t)(frame->traffic_class << 4 | (entropy >> 16 & 0xf));
    ip->flow_lbl[1] = (uint8_t)(entropy >> 8);
    ip->flow_lbl[2] = (uint8_t)entropy;
    ip->payload_len = bpf_htons((uint16_t)(len - sizeof *ip));
    ip->nexthdr = protocol;
    ip->hop_limit = QLB_OUTER_HOP_LIMIT;
    __builtin_memcpy(&ip->saddr, destination->source, sizeof ip->saddr);
    __builtin_memcpy(&ip->daddr, destination->address, sizeof ip->daddr);
}

QLB_INLINE void qlb_write_udp(struct udphdr *udp, const struct qlb_frame *frame, uint32_t len)
{
    const uint32_t port = QLB_FIRST_EPHEMERAL_PORT | (qlb_entropy(&frame->four_tuple) & ~QLB_FIRST_EPHEMERAL_PORT);
    udp->source = bpf_htons((uint16_t)port);
    udp->dest = bpf_htons((uint16_t)qlb_settings.gue_port);
    udp->len = bpf_htons((uint16_t)len);
    udp->check = 0;
}

/* Write the outer headers at `at`. len: of the packet including them. Return 1, or 0 if there was no room. */
QLB_INLINE uint32_t qlb_write_outer(uint8_t *at, const uint8_t *end, const struct qlb_frame *frame,
                                    const struct qlb_destination *destination, uint32_t len)
{
    const uint32_t is_gue = qlb_settings.mode == QLB_MODE_GUE;
    const uint8_t inner = frame->is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
    const uint8_t protocol = is_gue ? IPPROTO_UDP : inner;
    const uint32_t ip_len = destination->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
    if (destination->is_ipv6) {
        if (!QLB_HAS(at, sizeof(struct ipv6hdr) + sizeof(struct udphdr), end))
            return 0;
        qlb_write_ipv6((void *)at, frame, destination, len, protocol);
        if (is_gue)
            qlb_write_udp((void *)(at + sizeof(struct ipv6hdr)), frame, len - ip_len);
        return 1;
    }
    if (!QLB_HAS(at, sizeof(struct iphdr) + sizeof(struct udphdr), end))
        return 0;
    qlb_write_ipv4((void *)at, frame, destination, len, protocol);
    if (is_gue)
        qlb_write_udp((void *)(at + sizeof(struct iphdr)), frame, len - ip_len);
    return 1;
}

/* Return the VLAN tag of a frame towards a next hop, as on the wire, or 0 for none. The tag of the exit has priority. A
 * frame that leaves by the interface that it arrived on otherwise retains its tag. On any other interface, that tag
 * would have another meaning. */
QLB_INLINE uint32_t qlb_tag_of(const struct xdp_md *ctx, const struct qlb_frame *frame,
                               const struct qlb_backend *backend)
{
    if (backend->hop_vlan)
        return bpf_htonl((uint32_t)ETH_P_8021Q << 16 | backend->hop_vlan);
    return backend->hop_interface == ctx->ingress_ifindex ? frame->vlan : 0;
}

/* Turn the frame into the one to send to a next hop. Return 1, or 0 if there was no room.
 *
 * Hot: run `python -m benchmarks.xdp` before you change it. */
QLB_INLINE uint32_t qlb_encapsulate(struct xdp_md *ctx, const struct qlb_frame *frame,
                                    const struct qlb_destination *destination, uint32_t len,
                                    const struct qlb_backend *backend)
{
    const uint32_t tag = qlb_tag_of(ctx, frame, backend);
    const uint32_t link_len = sizeof(struct ethhdr) + (tag ? 4 : 0);
    uint8_t *at = (uint8_t *)qlb_skip(qlb_data(ctx), frame->ip_at & 31, qlb_data_end(ctx));
    qlb_decrement_hop_limit(frame, at, qlb_data_end(ctx));
    const int32_t more = (int32_t)(link_len + len - frame->ip_len) - (int32_t)frame->ip_at;
    if (more && bpf_xdp_adjust_head(ctx, -more))
        return 0;
    uint8_t *data = (uint8_t *)qlb_data(ctx);
    const uint8_t *end = qlb_data_end(ctx);
    if (!QLB_HAS(data, sizeof(struct ethhdr) + 4, end))
        return 0;
    for (uint32_t i = 0; i < 3; i++)
        ((uint32_t *)(void *)data)[i] = backend->hop_macs[i];
    const uint32_t is_ipv6 = qlb_settings.mode == QLB_MODE_L2 ? frame->is_ipv6 : destination->is_ipv6;
    const uint16_t type = bpf_htons(is_ipv6 ? ETH_P_IPV6 : ETH_P_IP);
    if (tag) {
        __builtin_memcpy(data + 2 * ETH_ALEN, &tag, 4);
        __builtin_memcpy(data + 2 * ETH_ALEN + 4, &type, 2);
    } else {
        __builtin_memcpy(data + 2 * ETH_ALEN, &type, 2);
    }
    if (qlb_settings.mode == QLB_MODE_L2)
        return 1;
    return qlb_write_outer(tag ? data + sizeof(struct ethhdr) + 4 : data + sizeof(struct ethhdr), end, frame,
                           destination, len);
}

#endif
