/* Hosts and ports: every host as 16 octets, as in the core's keys, and conversions from and to socket addresses.
 *
 * All files of the batch plane use it. Every function accepts IPv4 and IPv6, and writes every octet of its result.
 */
#ifndef QLB_BATCH_ADDRESSES_H
#define QLB_BATCH_ADDRESSES_H

#include <netinet/in.h>
#include <string.h>

#include "../core/types.h"

/* The address of a client, a service or a backend. 24 octets; qlb/dataplane/batch/plane.py packs the same layout. */
struct qlb_endpoint {
    uint8_t host[16]; /* an IPv4 address in its IPv4-mapped form */
    uint8_t port[2];  /* as on the wire */
    uint8_t family;   /* 4 or 6; 0 if there is no endpoint */
    uint8_t unused;
    uint32_t scope_id; /* of a link-local IPv6 address, else 0 */
};

union qlb_sockaddr {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
};

/* Write an IPv4 address as 16 octets. */
QLB_INLINE void qlb_map_ipv4(uint8_t host[16], const void *ipv4)
{
    memset(host, 0, 10);
    memset(host + 10, 0xff, 2);
    memcpy(host + 12, ipv4, 4);
}

/* Convert a socket address that the kernel wrote. */
QLB_INLINE void qlb_endpoint_from(struct qlb_endpoint *endpoint, const union qlb_sockaddr *address)
{
    endpoint->unused = 0;
    if (address->any.sa_family == AF_INET6) {
        memcpy(endpoint->host, &address->ipv6.sin6_addr, 16);
        memcpy(endpoint->port, &address->ipv6.sin6_port, 2);
        endpoint->family = 6;
        endpoint->scope_id = address->ipv6.sin6_scope_id;
    } else {
        qlb_map_ipv4(endpoint->host, &address->ipv4.sin_addr);
        memcpy(endpoint->port, &address->ipv4.sin_port, 2);
        endpoint->family = 4;
        endpoint->scope_id = 0;
    }
}

/* Convert to a socket address for a system call. Return its length. */
QLB_INLINE socklen_t qlb_endpoint_to(const struct qlb_endpoint *endpoint, union qlb_sockaddr *address)
{
    memset(address, 0, sizeof *address);
    if (endpoint->family == 6) {
        address->ipv6.sin6_family = AF_INET6;
        memcpy(&address->ipv6.sin6_port, endpoint->port, 2);
        memcpy(&address->ipv6.sin6_addr, endpoint->host, 16);
        address->ipv6.sin6_scope_id = endpoint->scope_id;
        return sizeof address->ipv6;
    }
    address->ipv4.sin_family = AF_INET;
    memcpy(&address->ipv4.sin_port, endpoint->port, 2);
    memcpy(&address->ipv4.sin_addr, endpoint->host + 12, 4);
    return sizeof address->ipv4;
}

#endif
