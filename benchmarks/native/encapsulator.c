/* The floor of the XDP plane: a plain encapsulator.
 *
 * It parses Ethernet, IPv4 and UDP, adds an outer IPv4 header and configured MAC addresses, counts the packet, and
 * sends it. It does not read QUIC or connection IDs, has no service addresses and no flows, chooses no backend, and
 * looks up no route.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct destination {
    unsigned char macs[12];
    unsigned int interface;
    unsigned int source;
    unsigned int address;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, unsigned int);
    __type(value, struct destination);
} destinations SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, unsigned int);
    __type(value, unsigned long long);
} counts SEC(".maps");

static inline __attribute__((always_inline)) unsigned short checksum(const struct iphdr *ip)
{
    const unsigned short *words = (const void *)ip;
    unsigned int sum = 0;
#pragma unroll
    for (int i = 0; i < 10; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return (unsigned short)~((sum & 0xffff) + (sum >> 16));
}

static inline __attribute__((always_inline)) int forward(struct xdp_md *ctx)
{
    unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    const struct iphdr *inner = (void *)(data + sizeof(struct ethhdr));
    const struct udphdr *udp = (void *)(inner + 1);
    if ((unsigned char *)(udp + 1) > end || ((struct ethhdr *)data)->h_proto != bpf_htons(ETH_P_IP) ||
        inner->protocol != IPPROTO_UDP || inner->ihl != 5)
        return XDP_PASS;
    const unsigned int first = 0;
    const unsigned short len = bpf_ntohs(inner->tot_len) + sizeof *inner;
    const struct destination *to = bpf_map_lookup_elem(&destinations, &first);
    unsigned long long *count = bpf_map_lookup_elem(&counts, &first);
    if (!to || !count || bpf_xdp_adjust_head(ctx, -(int)sizeof *inner))
        return XDP_DROP;
    data = (void *)(long)ctx->data;
    end = (void *)(long)ctx->data_end;
    struct iphdr *ip = (void *)(data + sizeof(struct ethhdr));
    if ((unsigned char *)(ip + 1) > end)
        return XDP_DROP;
    __builtin_memcpy(data, to->macs, sizeof to->macs);
    ((struct ethhdr *)data)->h_proto = bpf_htons(ETH_P_IP);
    __builtin_memset(ip, 0, sizeof *ip);
    ip->version = 4;
    ip->ihl = 5;
    ip->tot_len = bpf_htons(len);
    ip->frag_off = bpf_htons(0x4000);
    ip->ttl = 64;
    ip->protocol = IPPROTO_IPIP;
    ip->saddr = to->source;
    ip->daddr = to->address;
    ip->check = checksum(ip);
    ++*count;
    return bpf_redirect(to->interface, 0);
}

SEC("xdp")
int encapsulate(struct xdp_md *ctx) { return forward(ctx); }

/* Drop every packet: its cost is the minimum for any program, including the kernel's accounting. */
SEC("xdp")
int drop(struct xdp_md *ctx)
{
    (void)ctx;
    return XDP_DROP;
}

/* The same encapsulator with a route lookup for each packet. */
SEC("xdp")
int ask_route(struct xdp_md *ctx)
{
    struct bpf_fib_lookup question = {.family = 2, .ifindex = ctx->ingress_ifindex, .tot_len = 100};
    const unsigned int zero = 0;
    const struct destination *to = bpf_map_lookup_elem(&destinations, &zero);
    if (!to)
        return XDP_DROP;
    question.ipv4_dst = to->address;
    question.ipv4_src = to->source;
    if (bpf_fib_lookup(ctx, &question, sizeof question, 0))
        return XDP_DROP;
    return forward(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
