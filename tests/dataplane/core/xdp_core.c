/* The smallest XDP program around the core: it lets the kernel's verifier read the same lines that user space
 * compiles, and answers for test packets what the core decides. It forwards nothing; the XDP plane is another.
 *
 * A test packet is Ethernet, IPv4 without options or IPv6, UDP, and the datagram. The return value of the
 * program is the decision: the backend index plus one in the upper 24 bits, the outcome in the lower 8.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "core/route.h"

#define PART(part_name, part_type, value_type)                                                                        \
    struct {                                                                                                          \
        __uint(type, part_type);                                                                                      \
        __uint(max_entries, 1); /* the loader sets it */                                                              \
        __type(key, uint32_t);                                                                                        \
        __type(value, value_type);                                                                                    \
    } part_name SEC(".maps")

PART(head, BPF_MAP_TYPE_ARRAY, struct qlb_head);
PART(configs, BPF_MAP_TYPE_ARRAY, struct qlb_config);
PART(servers, BPF_MAP_TYPE_ARRAY, struct qlb_server);
PART(backends, BPF_MAP_TYPE_ARRAY, uint32_t);
PART(ring, BPF_MAP_TYPE_ARRAY, uint32_t);
PART(now_ns, BPF_MAP_TYPE_ARRAY, uint64_t);

struct flow {
    uint64_t expires_ns;
    uint64_t index;
};

#define FLOWS(table_name, key_type)                                                                                   \
    struct {                                                                                                          \
        __uint(type, BPF_MAP_TYPE_LRU_HASH);                                                                          \
        __uint(max_entries, 65536);                                                                                   \
        __type(key, key_type);                                                                                        \
        __type(value, struct flow);                                                                                   \
    } table_name SEC(".maps")

FLOWS(by_source_id, struct qlb_flow_source);
FLOWS(by_destination_id, struct qlb_flow_id);
FLOWS(by_four_tuple, struct qlb_four_tuple);

#define TIMEOUT_NS 30000000000ull

QLB_INLINE const struct qlb_head *qlb_head(const struct qlb_view *view)
{
    const uint32_t first = 0;
    (void)view;
    return bpf_map_lookup_elem(&head, &first);
}

QLB_INLINE const struct qlb_config *qlb_config_at(const struct qlb_view *view, uint32_t config_id)
{
    (void)view;
    return bpf_map_lookup_elem(&configs, &config_id);
}

QLB_INLINE const struct qlb_server *qlb_server_slot(const struct qlb_view *view, uint32_t slot)
{
    const struct qlb_head *at = qlb_head(view);
    if (!at)
        return 0;
    slot &= at->server_slots - 1;
    return bpf_map_lookup_elem(&servers, &slot);
}

QLB_INLINE const uint32_t *qlb_ring_slot(const struct qlb_view *view, uint32_t slot)
{
    (void)view;
    return bpf_map_lookup_elem(&ring, &slot);
}

QLB_INLINE uint32_t qlb_backend_flags(const struct qlb_view *view, uint32_t index)
{
    (void)view;
    const uint32_t *flags = bpf_map_lookup_elem(&backends, &index);
    return flags ? *flags : 0;
}

QLB_INLINE void qlb_aes_encrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block)
{
    (void)view;
    qlb_aes_table_encrypt(schedule, block);
}

QLB_INLINE void qlb_aes_decrypt(const struct qlb_view *view, const struct qlb_schedule *schedule,
                                struct qlb_block *block)
{
    (void)view;
    qlb_aes_table_decrypt(schedule, block);
}

QLB_INLINE int32_t qlb_memo_get(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire)
{
    (void)view, (void)config_id, (void)wire;
    return QLB_MISS;
}

QLB_INLINE void qlb_memo_keep(const struct qlb_view *view, uint32_t config_id, const struct qlb_wire_block *wire,
                              int32_t index)
{
    (void)view, (void)config_id, (void)wire, (void)index;
}

QLB_INLINE int32_t qlb_flow_get(struct qlb_flows *flows, uint32_t which, const void *key, uint64_t now)
{
    const struct flow *flow;
    (void)flows;
    if (which == QLB_FLOWS_BY_SOURCE_ID)
        flow = bpf_map_lookup_elem(&by_source_id, key);
    else if (which == QLB_FLOWS_BY_DESTINATION_ID)
        flow = bpf_map_lookup_elem(&by_destination_id, key);
    else
        flow = bpf_map_lookup_elem(&by_four_tuple, key);
    return flow && flow->expires_ns > now ? (int32_t)flow->index : QLB_MISS;
}

QLB_INLINE void qlb_flow_remember(struct qlb_flows *flows, uint32_t which, const void *key, uint32_t index,
                                  uint64_t now)
{
    const struct flow flow = {now + TIMEOUT_NS, index};
    (void)flows;
    if (which == QLB_FLOWS_BY_SOURCE_ID)
        bpf_map_update_elem(&by_source_id, key, &flow, BPF_ANY);
    else if (which == QLB_FLOWS_BY_DESTINATION_ID)
        bpf_map_update_elem(&by_destination_id, key, &flow, BPF_ANY);
    else
        bpf_map_update_elem(&by_four_tuple, key, &flow, BPF_ANY);
}

/* Fill in the 4-tuple and return where the datagram begins, or a null pointer for another packet. */
QLB_INLINE const uint8_t *datagram(const uint8_t *data, const uint8_t *end, struct qlb_four_tuple *four_tuple)
{
    const struct ethhdr *ethernet = (const void *)data;
    const struct udphdr *udp;
    data += sizeof *ethernet;
    if (data > end)
        return 0;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        const struct iphdr *ip = (const void *)data;
        udp = (const void *)(data + sizeof *ip);
        if ((const uint8_t *)(udp + 1) > end)
            return 0;
        four_tuple->client[10] = four_tuple->client[11] = 0xff;
        four_tuple->service[10] = four_tuple->service[11] = 0xff;
        __builtin_memcpy(four_tuple->client + 12, &ip->saddr, 4);
        __builtin_memcpy(four_tuple->service + 12, &ip->daddr, 4);
    } else {
        const struct ipv6hdr *ip = (const void *)data;
        udp = (const void *)(data + sizeof *ip);
        if ((const uint8_t *)(udp + 1) > end)
            return 0;
        __builtin_memcpy(four_tuple->client, &ip->saddr, 16);
        __builtin_memcpy(four_tuple->service, &ip->daddr, 16);
    }
    __builtin_memcpy(four_tuple->ports, udp, 4);
    return (const uint8_t *)(udp + 1);
}

SEC("xdp")
int decide(struct xdp_md *ctx)
{
    const uint8_t *end = (const void *)(long)ctx->data_end;
    const uint32_t first = 0;
    struct qlb_four_tuple four_tuple = {};
    const uint8_t *data = datagram((const void *)(long)ctx->data, end, &four_tuple);
    const uint64_t *now = bpf_map_lookup_elem(&now_ns, &first);
    if (!data || !now)
        return XDP_ABORTED;
    const struct qlb_decision decision = qlb_decide(0, 0, data, end, &four_tuple, *now);
    return (int)(decision.outcome | (uint32_t)(decision.index + 1) << 8);
}

char LICENSE[] SEC("license") = "Apache-2.0";
