/* Look up the next hop towards a backend and the path's MTU, in the kernel's routes and neighbours.
 *
 * program.c calls qlb_next_hop() for each packet before it sends. Each CPU uses the kernel's answer again for
 * settings.hop_ticks: a lookup costs more than the rest of the program, and routes change more slowly.
 *
 * The kernel may return an interface to which no program can redirect: bpf_redirect() then reports success, and the
 * packet is lost later without an error. So a next hop is used only if its interface is in the map `exits`.
 */
#ifndef QLB_XDP_NEXT_HOP_H
#define QLB_XDP_NEXT_HOP_H

#include "frame.h"
#include "maps.h"

#define QLB_AF_INET 2
#define QLB_AF_INET6 10

/* Return the octets of the outer headers that the mode adds to a packet. */
QLB_INLINE uint32_t qlb_overhead(const struct qlb_destination *destination)
{
    if (qlb_settings.mode == QLB_MODE_L2)
        return 0;
    const uint32_t ip = destination->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
    return qlb_settings.mode == QLB_MODE_GUE ? ip + sizeof(struct udphdr) : ip;
}

/* Return the exit for an interface that the kernel has returned, or 0 if the program cannot redirect to it. mac: of the
 * next hop. */
QLB_INLINE const struct qlb_exit *qlb_find_exit(const struct xdp_md *ctx, uint32_t interface, const uint8_t *mac)
{
    struct qlb_exit_key key = {.ingress = ctx->ingress_ifindex, .interface = interface};
    const struct qlb_exit *found = bpf_map_lookup_elem(&exits, &key);
    if (found)
        return found;
    __builtin_memcpy(key.mac, mac, sizeof key.mac);
    return bpf_map_lookup_elem(&exits, &key);
}

/* Look up the next hop in the kernel. Return 0, or the outcome of a packet that cannot be sent. After the kernel has
 * answered, backend->hop_mtu is the MTU that it returned, even if the packet cannot be sent. */
QLB_CALL int qlb_look_up_next_hop(struct xdp_md *ctx, const struct qlb_frame *frame,
                              const struct qlb_destination *destination, uint32_t len, struct qlb_backend *backend)
{
    if (!frame || !destination || !backend)
        return QLB_DROP_NO_ROUTE;
    if (qlb_settings.mode != QLB_MODE_L2 &&
        !(destination->source[0] | destination->source[1] | destination->source[2] | destination->source[3]))
        return QLB_DROP_NO_ROUTE; /* Python has found no route to it yet; it looks again */
    struct bpf_fib_lookup question = {.ifindex = ctx->ingress_ifindex, .tot_len = (uint16_t)len};
    if (destination->is_ipv6) {
        question.family = QLB_AF_INET6;
        __builtin_memcpy(question.ipv6_dst, destination->address, 16);
        __builtin_memcpy(question.ipv6_src, destination->source, 16);
    } else {
        question.family = QLB_AF_INET;
        question.ipv4_dst = destination->address[0];
        question.ipv4_src = destination->source[0];
    }
    const long answer = bpf_fib_lookup(ctx, &question, sizeof question, 0);
    backend->hop_number = 0;
    backend->hop_mtu = question.mtu_result;
    if (answer == BPF_FIB_LKUP_RET_FRAG_NEEDED)
        return QLB_DROP_TOO_BIG;
    if (answer != BPF_FIB_LKUP_RET_SUCCESS)
        return answer == BPF_FIB_LKUP_RET_NO_NEIGH ? QLB_DROP_NO_NEIGHBOUR : QLB_DROP_NO_ROUTE;
    const struct qlb_exit *exit = qlb_find_exit(ctx, question.ifindex, question.dmac);
    if (!exit)
        return QLB_DROP_NO_ROUTE;
    __builtin_memcpy(backend->hop_macs, question.dmac, ETH_ALEN);
    __builtin_memcpy((uint8_t *)backend->hop_macs + ETH_ALEN, question.smac, ETH_ALEN);
    backend->hop_interface = exit->interface;
    backend->hop_vlan = (uint16_t)exit->vlan;
    backend->hop_ingress = ctx->ingress_ifindex;
    backend->hop_expires = (uint32_t)frame->now + qlb_settings.hop_ticks;
    backend->hop_number = (uint32_t)frame->number;
    return 0;
}

/* Find the next hop of a packet. Return 0, or the outcome of a packet that cannot be sent. len: of the packet as it is
 * sent, from its outermost IP header on.
 *
 * Hot: run `python -m benchmarks.xdp` before you change it. */
QLB_INLINE uint32_t qlb_next_hop(struct xdp_md *ctx, const struct qlb_frame *frame,
                                 const struct qlb_destination *destination, uint32_t len, struct qlb_backend *backend)
{
    if (backend->hop_number == (uint32_t)frame->number && (int32_t)(backend->hop_expires - (uint32_t)frame->now) > 0 &&
        backend->hop_ingress == ctx->ingress_ifindex && len <= backend->hop_mtu)
        return 0;
    return (uint32_t)qlb_look_up_next_hop(ctx, frame, destination, len, backend);
}

#endif
