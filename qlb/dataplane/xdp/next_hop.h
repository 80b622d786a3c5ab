/* The next hop towards a backend, from the kernel's own routes and neighbours, and the room that there is on the way.
 *
 * The kernel's answer is used again for a while (settings.hop_ticks), on each CPU by itself: asking costs more than all
 * the rest of a packet's way, and routes change more slowly than that.
 *
 * The kernel answers with any interface, also with one that no program can redirect to: bpf_redirect() reports success
 * and the packet is lost later, in silence. So a next hop is used only if its interface is in the map `exits`.
 */
#ifndef QLB_XDP_NEXT_HOP_H
#define QLB_XDP_NEXT_HOP_H

#include "frame.h"
#include "maps.h"

#define QLB_AF_INET 2
#define QLB_AF_INET6 10

/* Octets that a mode puts before a packet on its way to a destination. */
QLB_INLINE uint32_t qlb_overhead(const struct qlb_destination *destination)
{
    if (qlb_settings.mode == QLB_MODE_L2)
        return 0;
    const uint32_t ip = destination->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
    return qlb_settings.mode == QLB_MODE_GUE ? ip + sizeof(struct udphdr) : ip;
}

/* Find how packets leave by an interface that the kernel has named, or 0 where it accepts none from this program.
 * mac: of the next hop. */
QLB_INLINE const struct qlb_exit *qlb_find_exit(const struct xdp_md *ctx, uint32_t interface, const uint8_t *mac)
{
    struct qlb_exit_key key = {.ingress = ctx->ingress_ifindex, .interface = interface};
    const struct qlb_exit *found = bpf_map_lookup_elem(&exits, &key);
    if (found)
        return found;
    __builtin_memcpy(key.mac, mac, sizeof key.mac);
    return bpf_map_lookup_elem(&exits, &key);
}

/* Ask the kernel. 0, or the outcome of a packet that cannot be sent; the path's MTU is in backend in any case. */
QLB_CALL int qlb_ask_next_hop(struct xdp_md *ctx, const struct qlb_frame *frame,
                              const struct qlb_destination *destination, uint32_t len, struct qlb_backend *backend)
{
    if (!frame || !destination || !backend)
        return QLB_DROP_NO_ROUTE;
    if (qlb_settings.mode != QLB_MODE_L2 &&
        !(destination->source[0] | destination->source[1] | destination->source[2] | destination->source[3]))
        return QLB_DROP_NO_ROUTE; /* there was no route when Python asked; it asks again */
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
    const struct qlb_exit *way_out = qlb_find_exit(ctx, question.ifindex, question.dmac);
    if (!way_out)
        return QLB_DROP_NO_ROUTE;
    __builtin_memcpy(backend->hop_macs, question.dmac, ETH_ALEN);
    __builtin_memcpy((uint8_t *)backend->hop_macs + ETH_ALEN, question.smac, ETH_ALEN);
    backend->hop_interface = way_out->interface;
    backend->hop_vlan = (uint16_t)way_out->vlan;
    backend->hop_ingress = ctx->ingress_ifindex;
    backend->hop_expires = (uint32_t)frame->now + qlb_settings.hop_ticks;
    backend->hop_number = (uint32_t)frame->number;
    return 0;
}

/* Find it: 0, or the outcome of a packet that cannot be sent. len: of the packet as it is sent, from its outermost IP
 * header on. */
QLB_INLINE uint32_t qlb_next_hop(struct xdp_md *ctx, const struct qlb_frame *frame,
                                 const struct qlb_destination *destination, uint32_t len, struct qlb_backend *backend)
{
    if (backend->hop_number == (uint32_t)frame->number && (int32_t)(backend->hop_expires - (uint32_t)frame->now) > 0 &&
        backend->hop_ingress == ctx->ingress_ifindex && len <= backend->hop_mtu)
        return 0;
    return (uint32_t)qlb_ask_next_hop(ctx, frame, destination, len, backend);
}

#endif
