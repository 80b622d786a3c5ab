/* Recognise source addresses that no client can have. An answer to one of them would come back to this machine and
 * loop.
 *
 * forward.c calls qlb_is_bad_source() once for each receive. It reads this machine's addresses only for a wildcard
 * listener, and at most once a second.
 */
#include <ifaddrs.h>

#include "forwarder.h"

#define QLB_OWN_HOSTS_NS 1000000000ull /* the machine's addresses are read again after this time */

static int is_unspecified(const uint8_t *host)
{
    static const uint8_t any_ipv6[16], any_ipv4[16] = {[10] = 0xff, [11] = 0xff};
    return memcmp(host, any_ipv6, 16) == 0 || memcmp(host, any_ipv4, 16) == 0;
}

static void read_own_hosts(struct qlb_own_hosts *own)
{
    struct ifaddrs *all, *each;
    own->count = 0;
    if (getifaddrs(&all) < 0)
        return;
    for (each = all; each && own->count < QLB_OWN_HOSTS; each = each->ifa_next) {
        struct qlb_endpoint found;
        if (!each->ifa_addr || (each->ifa_addr->sa_family != AF_INET && each->ifa_addr->sa_family != AF_INET6))
            continue;
        qlb_endpoint_from(&found, (const union qlb_sockaddr *)each->ifa_addr);
        memcpy(own->hosts[own->count++], found.host, 16);
    }
    freeifaddrs(all);
}

/* Check whether an address is one of this machine's. Read them at most once a second. */
static int is_own(struct qlb_forwarder *forwarder, const uint8_t *host)
{
    struct qlb_own_hosts *own = &forwarder->own_hosts;
    const struct qlb_endpoint loopback = {.host = {[10] = 0xff, [11] = 0xff, [12] = 127}};
    if (memcmp(host, loopback.host, 13) == 0) /* all of 127.0.0.0/8 */
        return 1;
    if (!own->read_ns || forwarder->now_ns - own->read_ns > QLB_OWN_HOSTS_NS) {
        read_own_hosts(own);
        own->read_ns = forwarder->now_ns;
    }
    for (uint32_t i = 0; i < own->count; i++)
        if (memcmp(own->hosts[i], host, 16) == 0)
            return 1;
    return 0;
}

/* Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
int qlb_is_bad_source(struct qlb_forwarder *forwarder, const struct qlb_endpoint *client, const uint8_t *service)
{
    static const uint8_t no_port[2];
    if (memcmp(client->port, no_port, 2) == 0 || is_unspecified(client->host))
        return 1;
    for (uint32_t i = 0; i < forwarder->listeners_count; i++) {
        const struct qlb_listener *listener = &forwarder->listeners[i];
        if (memcmp(client->port, listener->endpoint.port, 2) != 0)
            continue;
        if (listener->wildcard ? memcmp(client->host, service, 16) == 0 || is_own(forwarder, client->host)
                               : memcmp(client->host, listener->endpoint.host, 16) == 0)
            return 1;
    }
    return 0;
}
