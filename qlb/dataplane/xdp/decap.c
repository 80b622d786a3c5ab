/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The XDP program of `qlb decap`: on a backend, it removes the outer headers that the balancer has added.
 *
 *   outer   Ethernet, one VLAN tag, then IPv4 or IPv6 (no extension headers) with IP, or with UDP and GUE
 *   inner   check that the destination is one of our service addresses, and the outer source one of our balancers
 *   ecn     copy the congestion marks of the outer header (RFC 6040, section 4.2)
 *
 * The kernel runs qlb_decap() for each frame of an interface to which decap.py has attached it. Other packets go
 * unchanged to the kernel: other protocols, fragments, GUE control messages, GUE with optional fields. The program
 * verifies no checksums: it removes the UDP checksum around GUE, if there is one, with the outer headers, and the
 * kernel checks those of the inner packet. The inner hop limit stays, because the balancer has already decremented it.
 *
 * Spec: RFC 2003, RFC 2473, RFC 4213 (IP in IP); draft-ietf-intarea-gue, sections 3 and 4 (GUE, variants 0 and 1).
 *
 * This program, with the header that it includes, may be used under the Apache License 2.0, as all of qlb, or, at
 * your choice, under the GNU General Public License, version 2.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../core/types.h"

/* The outcomes of a packet. decap.py names the counted ones; QLB_FOREIGN is not counted. */
enum {
    QLB_DECAPSULATED,
    QLB_NOT_FOR_US,   /* the inner destination is not one of our service addresses; passed to the kernel */
    QLB_WRONG_SOURCE, /* the outer source is not one of our balancers; passed to the kernel */
    QLB_BAD_ECN,      /* a router has marked congestion, but the inner packet does not allow marks; dropped */
    QLB_MALFORMED,    /* lengths or versions contradict each other; passed to the kernel */
    QLB_DECAP_COUNTERS,
    QLB_FOREIGN = QLB_DECAP_COUNTERS, /* not encapsulated by a balancer; passed to the kernel */
};

#define QLB_IPV4_FRAGMENT 0x3fff /* more fragments, or an offset */
#define QLB_GUE_VARIANT 0xc0
#define QLB_GUE_CONTROL 0x20
#define QLB_GUE_LEN 0x1f    /* length of the fields after the header, in units of 4 octets */
#define QLB_OUTER_MASK 0xff /* Ethernet, a tag, IPv4 with options, UDP, the longest GUE header: 214 octets */

enum { QLB_NOT_ECT, QLB_ECT_1, QLB_ECT_0, QLB_CE, QLB_ECN = 3 };

/* IPv4 addresses are in their IPv4-mapped IPv6 form. */
struct qlb_address {
    uint8_t octets[16];
};

/* A key of the trie. 20 octets. */
struct qlb_network {
    uint32_t prefix_len;
    struct qlb_address address;
};

struct qlb_decap_settings {
    uint32_t gue_port;
};

const volatile struct qlb_decap_settings qlb_decap_settings SEC(".rodata.settings");

/* decap.py sets the number of entries. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct qlb_address);
    __type(value, uint32_t);
} services SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct qlb_network);
    __type(value, uint32_t);
} sources SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, QLB_DECAP_COUNTERS);
    __type(key, uint32_t);
    __type(value, uint64_t);
} counters SEC(".maps");

/* The result of parsing an encapsulated packet so far. */
struct qlb_capsule {
    struct qlb_network source;      /* the outer header's */
    struct qlb_address destination; /* the inner header's */
    uint32_t link_len;
    uint32_t at;  /* offset of the header to read next; in the end, of the inner packet */
    uint32_t len; /* octets from there to the end of the outer packet */
    uint32_t protocol;
    uint32_t outer_ecn;
    uint32_t inner_ecn;
};

QLB_INLINE uint8_t *qlb_data(const struct xdp_md *ctx) { return (uint8_t *)(long)ctx->data; }
QLB_INLINE const uint8_t *qlb_data_end(const struct xdp_md *ctx) { return (const uint8_t *)(long)ctx->data_end; }

QLB_INLINE void qlb_map_ipv4(struct qlb_address *to, const void *address)
{
    to->octets[10] = to->octets[11] = 0xff;
    __builtin_memcpy(to->octets + 12, address, 4);
}

QLB_INLINE uint32_t qlb_ipv6_ecn(const uint8_t *ip) { return ip[1] >> 4 & QLB_ECN; }

/* Return a pointer to the header to read next. The mask is for the verifier. */
QLB_INLINE uint8_t *qlb_next(const struct qlb_capsule *capsule, struct xdp_md *ctx)
{
    uint32_t at = capsule->at;
    QLB_AS_WRITTEN(at);
    return (uint8_t *)qlb_skip(qlb_data(ctx), at & QLB_OUTER_MASK, qlb_data_end(ctx));
}

/* Check whether the frame contains the whole outer packet. */
QLB_INLINE uint32_t qlb_is_whole(const uint8_t *ip, uint32_t len, const uint8_t *end)
{
    return QLB_HAS(qlb_skip(ip, len & 0x1ffff, end), 0, end);
}

QLB_INLINE uint32_t qlb_is_carrier(uint32_t protocol)
{
    return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_UDP;
}

QLB_INLINE uint32_t qlb_read_outer_ipv4(struct qlb_capsule *capsule, const uint8_t *at, const uint8_t *end)
{
    const struct iphdr *ip = (const void *)at;
    if (!QLB_HAS(at, sizeof *ip, end) || !qlb_is_carrier(ip->protocol) ||
        ip->frag_off & bpf_htons(QLB_IPV4_FRAGMENT))
        return QLB_FOREIGN;
    const uint32_t header_len = ip->ihl * 4u, len = bpf_ntohs(ip->tot_len);
    capsule->at += header_len;
    capsule->len = len - header_len;
    capsule->protocol = ip->protocol;
    capsule->outer_ecn = ip->tos & QLB_ECN;
    qlb_map_ipv4(&capsule->source.address, &ip->saddr);
    const uint32_t good =
        ip->version == 4 && header_len >= sizeof *ip && len >= header_len && qlb_is_whole(at, len, end);
    return good ? QLB_DECAPSULATED : QLB_MALFORMED;
}

QLB_INLINE uint32_t qlb_read_outer_ipv6(struct qlb_capsule *capsule, const uint8_t *at, const uint8_t *end)
{
    const struct ipv6hdr *ip = (const void *)at;
    if (!QLB_HAS(at, sizeof *ip, end) || !qlb_is_carrier(ip->nexthdr))
        return QLB_FOREIGN;
    capsule->at += sizeof *ip;
    capsule->len = bpf_ntohs(ip->payload_len);
    capsule->protocol = ip->nexthdr;
    capsule->outer_ecn = qlb_ipv6_ecn(at);
    __builtin_memcpy(capsule->source.address.octets, &ip->saddr, 16);
    return ip->version == 6 && qlb_is_whole(at, sizeof *ip + capsule->len, end) ? QLB_DECAPSULATED : QLB_MALFORMED;
}

/* Read Ethernet, the tag and the outer IP header. */
QLB_INLINE uint32_t qlb_read_outer(struct qlb_capsule *capsule, struct xdp_md *ctx)
{
    const uint8_t *at = qlb_data(ctx), *end = qlb_data_end(ctx);
    const struct ethhdr *ethernet = (const void *)at;
    if (!QLB_HAS(at, sizeof *ethernet + 4, end))
        return QLB_FOREIGN;
    uint16_t type = ethernet->h_proto;
    capsule->link_len = sizeof *ethernet;
    at += sizeof *ethernet;
    if (type == bpf_htons(ETH_P_8021Q)) {
        __builtin_memcpy(&type, at + 2, 2);
        capsule->link_len += 4;
        at += 4;
    }
    capsule->at = capsule->link_len;
    if (type == bpf_htons(ETH_P_IP))
        return qlb_read_outer_ipv4(capsule, at, end);
    if (type == bpf_htons(ETH_P_IPV6))
        return qlb_read_outer_ipv6(capsule, at, end);
    return QLB_FOREIGN;
}

/* Read UDP to our port, then GUE: a separate header (variant 0), or the first octet of the inner packet (variant 1). */
QLB_INLINE uint32_t qlb_read_gue(struct qlb_capsule *capsule, struct xdp_md *ctx)
{
    const uint8_t *at = qlb_next(capsule, ctx), *end = qlb_data_end(ctx);
    const struct udphdr *udp = (const void *)at;
    if (capsule->len < sizeof *udp || !QLB_HAS(at, sizeof *udp + 4, end) ||
        udp->dest != bpf_htons((uint16_t)qlb_decap_settings.gue_port))
        return QLB_FOREIGN;
    const uint32_t len = bpf_ntohs(udp->len);
    if (len < sizeof *udp + 4 || len > capsule->len)
        return QLB_MALFORMED;
    at += sizeof *udp;
    uint32_t header_len = 0, protocol = at[0] >> 4 == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
    if (!(at[0] & QLB_GUE_VARIANT)) {
        if (at[0] & QLB_GUE_CONTROL || at[2] || at[3]) /* with optional fields, the rest may not be a whole packet */
            return QLB_FOREIGN;
        header_len = 4 + 4u * (at[0] & QLB_GUE_LEN);
        protocol = at[1];
    } else if (at[0] >> 4 != 4 && at[0] >> 4 != 6) {
        return QLB_FOREIGN;
    }
    if (protocol != IPPROTO_IPIP && protocol != IPPROTO_IPV6)
        return QLB_FOREIGN;
    if (len < sizeof *udp + header_len)
        return QLB_MALFORMED;
    capsule->at += sizeof *udp + header_len;
    capsule->len = len - sizeof *udp - header_len;
    capsule->protocol = protocol;
    return QLB_DECAPSULATED;
}

QLB_INLINE uint32_t qlb_read_inner(struct qlb_capsule *capsule, struct xdp_md *ctx)
{
    const uint8_t *at = qlb_next(capsule, ctx), *end = qlb_data_end(ctx);
    if (capsule->protocol == IPPROTO_IPIP) {
        const struct iphdr *ip = (const void *)at;
        if (!QLB_HAS(at, sizeof *ip, end) || ip->version != 4 || ip->ihl < 5 ||
            bpf_ntohs(ip->tot_len) < ip->ihl * 4u || bpf_ntohs(ip->tot_len) > capsule->len)
            return QLB_MALFORMED;
        capsule->inner_ecn = ip->tos & QLB_ECN;
        qlb_map_ipv4(&capsule->destination, &ip->daddr);
        return QLB_DECAPSULATED;
    }
    const struct ipv6hdr *ip = (const void *)at;
    if (!QLB_HAS(at, sizeof *ip, end) || ip->version != 6 || sizeof *ip + bpf_ntohs(ip->payload_len) > capsule->len)
        return QLB_MALFORMED;
    capsule->inner_ecn = qlb_ipv6_ecn(at);
    __builtin_memcpy(capsule->destination.octets, &ip->daddr, 16);
    return QLB_DECAPSULATED;
}

/* Return the ECN field of the decapsulated packet, for all combinations that are not dropped. Spec: RFC 6040, figure 4.
 * */
QLB_INLINE uint32_t qlb_merge_ecn(uint32_t inner, uint32_t outer)
{
    if (outer == QLB_CE || (outer == QLB_ECT_1 && inner == QLB_ECT_0))
        return outer;
    return inner;
}

/* Write the inner ECN field, and update IPv4's checksum accordingly (RFC 1624, equation 3). Return 1, or 0 if the frame
 * ends before the field. */
QLB_INLINE uint32_t qlb_write_ecn(const struct qlb_capsule *capsule, struct xdp_md *ctx, uint32_t ecn)
{
    uint8_t *at = qlb_next(capsule, ctx);
    struct iphdr *ip = (void *)at;
    if (!QLB_HAS(at, sizeof *ip, qlb_data_end(ctx)))
        return 0;
    if (capsule->protocol == IPPROTO_IPV6) {
        at[1] = (uint8_t)((at[1] & ~(QLB_ECN << 4)) | ecn << 4);
        return 1;
    }
    uint16_t before, after;
    __builtin_memcpy(&before, at, 2);
    ip->tos = (uint8_t)((ip->tos & ~QLB_ECN) | ecn);
    __builtin_memcpy(&after, at, 2);
    uint32_t sum = (uint32_t)(uint16_t)~ip->check + (uint16_t)~before + after;
    sum = (sum & 0xffff) + (sum >> 16);
    ip->check = (uint16_t)~((sum & 0xffff) + (sum >> 16));
    return 1;
}

/* Remove the outer headers, and write the Ethernet header and its tag before the inner packet. Return 1, or 0 if that
 * failed. */
QLB_INLINE uint32_t qlb_remove_outer(const struct qlb_capsule *capsule, struct xdp_md *ctx)
{
    uint8_t link[2 * ETH_ALEN + 4];
    const uint32_t tagged = capsule->link_len > sizeof(struct ethhdr);
    const uint16_t type = bpf_htons(capsule->protocol == IPPROTO_IPIP ? ETH_P_IP : ETH_P_IPV6);
    if (!QLB_HAS(qlb_data(ctx), sizeof link, qlb_data_end(ctx)))
        return 0;
    __builtin_memcpy(link, qlb_data(ctx), sizeof link);
    if (bpf_xdp_adjust_head(ctx, (int)(capsule->at - capsule->link_len)))
        return 0;
    uint8_t *data = qlb_data(ctx);
    if (!QLB_HAS(data, sizeof link + 2, qlb_data_end(ctx)))
        return 0;
    __builtin_memcpy(data, link, 2 * ETH_ALEN);
    if (tagged)
        __builtin_memcpy(data + 2 * ETH_ALEN, link + 2 * ETH_ALEN, 4);
    __builtin_memcpy(data + 2 * ETH_ALEN + (tagged ? 4 : 0), &type, 2);
    return 1;
}

QLB_INLINE uint32_t qlb_read_capsule(struct qlb_capsule *capsule, struct xdp_md *ctx)
{
    uint32_t outcome = qlb_read_outer(capsule, ctx);
    if (outcome == QLB_MALFORMED && capsule->protocol == IPPROTO_UDP)
        return QLB_FOREIGN; /* it may be any UDP packet, not only GUE */
    if (outcome == QLB_DECAPSULATED && capsule->protocol == IPPROTO_UDP)
        outcome = qlb_read_gue(capsule, ctx);
    return outcome == QLB_DECAPSULATED ? qlb_read_inner(capsule, ctx) : outcome;
}

QLB_INLINE uint32_t qlb_process(struct xdp_md *ctx)
{
    struct qlb_capsule capsule = {.source.prefix_len = 128};
    const uint32_t outcome = qlb_read_capsule(&capsule, ctx);
    if (outcome != QLB_DECAPSULATED)
        return outcome;
    if (!bpf_map_lookup_elem(&services, &capsule.destination))
        return QLB_NOT_FOR_US;
    if (!bpf_map_lookup_elem(&sources, &capsule.source))
        return QLB_WRONG_SOURCE;
    if (capsule.outer_ecn == QLB_CE && capsule.inner_ecn == QLB_NOT_ECT)
        return QLB_BAD_ECN;
    const uint32_t ecn = qlb_merge_ecn(capsule.inner_ecn, capsule.outer_ecn);
    if (ecn != capsule.inner_ecn && !qlb_write_ecn(&capsule, ctx, ecn))
        return QLB_MALFORMED;
    return qlb_remove_outer(&capsule, ctx) ? QLB_DECAPSULATED : QLB_MALFORMED;
}

SEC("xdp")
int qlb_decap(struct xdp_md *ctx)
{
    const uint32_t outcome = qlb_process(ctx);
    uint64_t *count = bpf_map_lookup_elem(&counters, &outcome);
    if (count)
        ++*count;
    return outcome == QLB_BAD_ECN ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
