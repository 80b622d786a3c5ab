/* Read and write the control messages of UDP sockets: the traffic class, the hop limit, the address that a client sent
 * to, and the length of segments.
 *
 * forward.c and reply.c read them, outbox.c writes them. The caller provides QLB_CONTROL_BYTES octets, which are enough
 * for all messages at once.
 *
 * The traffic class octet contains the DSCP and the ECN bits. QUIC needs the ECN bits end to end (RFC 9000, section
 * 13.4), so they are copied in both directions. The DSCP is copied too, unless the configuration sets it. A listener on
 * a wildcard address answers from the address that the client sent to. UDP_GRO passes several datagrams of one sender
 * as one piece, UDP_SEGMENT sends several at once. Both give the length of each datagram; the last one may be shorter.
 */
#ifndef QLB_BATCH_CONTROL_H
#define QLB_BATCH_CONTROL_H

#include <linux/udp.h>
#include <stddef.h>
#include <sys/socket.h>

#include "addresses.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define QLB_ECN_MASK 3
#define QLB_UNKNOWN_HOP_LIMIT 64 /* assumed if the system does not report one */
/* Room for a traffic class, a hop limit, packet info and a segment's length. */
#define QLB_CONTROL_BYTES (3 * CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct in6_pktinfo)))

/* The control messages of one receive. */
struct qlb_arrival {
    uint32_t segment_bytes; /* of each datagram but the last; 0: there is only one */
    uint8_t traffic_class;  /* DSCP and ECN bits */
    uint8_t hop_limit;
    uint8_t has_service;
    uint8_t service[16]; /* the address that the client sent to, if has_service; see qlb_embed_interface() */
};

/* Check whether an address is an IPv6 link-local one.
 *
 * A link-local service address needs its interface, or the kernel refuses to send from it to a client whose address
 * is not link-local. Octets 4 to 7 of such an address are zero (RFC 4291, section 2.5.6), so qlb_embed_interface()
 * stores the interface's number there: the same address on another interface is another service, and sessions need no
 * further field. */
QLB_INLINE int qlb_is_link_local(const uint8_t host[16]) { return host[0] == 0xfe && (host[1] & 0xc0) == 0x80; }

/* Store an interface's number in an address, if it is link-local. */
QLB_INLINE void qlb_embed_interface(uint8_t host[16], uint32_t interface)
{
    if (qlb_is_link_local(host))
        memcpy(host + 4, &interface, sizeof interface);
}

/* Remove the interface's number from an address. Return it, or 0 if there is none. */
QLB_INLINE uint32_t qlb_extract_interface(uint8_t host[16])
{
    uint32_t interface = 0;
    if (qlb_is_link_local(host)) {
        memcpy(&interface, host + 4, sizeof interface);
        memset(host + 4, 0, sizeof interface);
    }
    return interface;
}

/* Read the control messages of a receive.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
QLB_INLINE void qlb_read_control(struct msghdr *message, struct qlb_arrival *arrival)
{
    arrival->segment_bytes = 0;
    arrival->traffic_class = arrival->has_service = 0;
    arrival->hop_limit = QLB_UNKNOWN_HOP_LIMIT;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
        const uint8_t *data = CMSG_DATA(each);
        int number;
        if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_TOS) {
            arrival->traffic_class = data[0];
        } else if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_TCLASS) {
            memcpy(&number, data, sizeof number);
            arrival->traffic_class = (uint8_t)number;
        } else if ((each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_TTL) ||
                   (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_HOPLIMIT)) {
            memcpy(&number, data, sizeof number);
            arrival->hop_limit = (uint8_t)number;
        } else if (each->cmsg_level == IPPROTO_UDP && each->cmsg_type == UDP_GRO) {
            memcpy(&number, data, sizeof number);
            arrival->segment_bytes = number > 0 ? (uint32_t)number : 0;
        } else if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_PKTINFO) {
            qlb_map_ipv4(arrival->service, data + offsetof(struct in_pktinfo, ipi_addr));
            arrival->has_service = 1;
        } else if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, data, sizeof info);
            memcpy(arrival->service, &info.ipi6_addr, 16);
            qlb_embed_interface(arrival->service, (uint32_t)info.ipi6_ifindex);
            arrival->has_service = 1;
        }
    }
}

/* Append one control message. msg_controllen: the octets that are used so far. */
QLB_INLINE void qlb_add_control(struct msghdr *message, int level, int type, const void *data, size_t size)
{
    struct cmsghdr *added = (void *)((uint8_t *)message->msg_control + message->msg_controllen);
    added->cmsg_level = level;
    added->cmsg_type = type;
    added->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(added), data, size);
    message->msg_controllen += CMSG_SPACE(size);
}

/* Send with this DSCP and these ECN bits; 0 is the default. family: of the socket, 4 or 6. */
QLB_INLINE void qlb_add_traffic_class(struct msghdr *message, uint8_t family, int traffic_class)
{
    if (traffic_class)
        qlb_add_control(message, family == 6 ? IPPROTO_IPV6 : IPPROTO_IP, family == 6 ? IPV6_TCLASS : IP_TOS,
                        &traffic_class, sizeof traffic_class);
}

/* Let the kernel cut the octets that are sent into datagrams of this length. */
QLB_INLINE void qlb_add_segment(struct msghdr *message, uint16_t segment_bytes)
{
    qlb_add_control(message, IPPROTO_UDP, UDP_SEGMENT, &segment_bytes, sizeof segment_bytes);
}

/* Send from this local address. host: as in qlb_arrival.service. */
QLB_INLINE void qlb_add_source(struct msghdr *message, uint8_t family, const uint8_t host[16])
{
    if (family == 6) {
        struct in6_pktinfo info;
        memcpy(&info.ipi6_addr, host, 16);
        info.ipi6_ifindex = qlb_extract_interface(info.ipi6_addr.s6_addr);
        qlb_add_control(message, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    } else {
        struct in_pktinfo info = {.ipi_ifindex = 0};
        memcpy(&info.ipi_spec_dst, host + 12, 4);
        qlb_add_control(message, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    }
}

#endif
