/* Decide one datagram by the draft's five forwarding steps: from its octets and its 4-tuple to an outcome and a
 * backend.
 *
 * The planes call qlb_decide() once for each datagram (batch/forward.c, xdp/decide.h). It only decides and updates the
 * flow tables: it does not change the packet and never sends. Every call returns an outcome.
 *
 * The twin of qlb/routing/router.py, whose docstring explains the steps and which backends may continue a connection.
 * The fallback is that of qlb/routing/maglev.py.
 *
 * Spec: draft-ietf-quic-load-balancers, sections "Load Balancer Forwarding" and "Baseline Fallback Algorithm".
 */
#ifndef QLB_CORE_ROUTE_H
#define QLB_CORE_ROUTE_H

#include "decode.h"
#include "hooks.h"
#include "outcomes.h"
#include "parse.h"

/* The decision about one datagram. index: of the backend, or -1 for a drop. */
struct qlb_decision {
    uint32_t outcome;
    int32_t index;
};

/* A datagram and all that the forwarding steps need. data_end: the end of the UDP payload. */
struct qlb_packet {
    const struct qlb_view *view;
    struct qlb_flows *flows;
    const struct qlb_four_tuple *four_tuple;
    const uint8_t *data_end;
    uint64_t now_ns;
};

QLB_INLINE struct qlb_decision qlb_drop(uint32_t outcome) { return (struct qlb_decision){outcome, -1}; }

/* Read an ID for a flow's key: its length and its first QLB_FLOW_ID_BYTES octets. In QUIC versions 1 and 2 these are
 * the whole ID. Longer IDs that have the same length and the same beginning count as one flow. */
QLB_INLINE void qlb_read_flow_id(struct qlb_flow_id *to, const uint8_t *id, uint32_t id_len, const uint8_t *end)
{
    if (QLB_HAS(id, QLB_FLOW_ID_BYTES, end)) {
        to->octets[0] = qlb_load64(id);
        to->octets[1] = qlb_load64(id + 8);
        to->octets[2] = qlb_load64(id + 16);
    } else {
        to->octets[0] = qlb_load_rest(id, 0, end);
        to->octets[1] = qlb_load_rest(id, 8, end);
        to->octets[2] = qlb_load_rest(id, 16, end);
    }
    to->octets[0] &= qlb_octets_mask(id_len, 0);
    to->octets[1] &= qlb_octets_mask(id_len, 8);
    to->octets[2] &= qlb_octets_mask(id_len, 16);
    to->len = id_len;
}

/* Check whether an address is an IPv4-mapped one. */
QLB_INLINE uint32_t qlb_is_ipv4(const struct qlb_block *address)
{
    return !address->low && (uint32_t)address->high == 0xffff0000u;
}

/* Return a keyed 32-bit hash of the 4-tuple: an AES CBC-MAC. No message is a prefix of another one, which a CBC-MAC
 * requires.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE uint32_t qlb_hash_four_tuple(const struct qlb_view *view, const struct qlb_head *head,
                                        const struct qlb_four_tuple *four_tuple)
{
    struct qlb_block client = {qlb_load64(four_tuple->client), qlb_load64(four_tuple->client + 8)};
    struct qlb_block service = {qlb_load64(four_tuple->service), qlb_load64(four_tuple->service + 8)};
    const uint64_t ports = qlb_load32(four_tuple->ports);
    const uint32_t client_is_ipv4 = qlb_is_ipv4(&client), service_is_ipv4 = qlb_is_ipv4(&service);
    struct qlb_block mac;
    if (client_is_ipv4 && service_is_ipv4) {
        mac.low = client.high >> 32 | (service.high & 0xffffffff00000000u);
        mac.high = ports | (uint64_t)4 << 56;
        qlb_aes_encrypt(view, &head->hash_schedule, &mac);
        return __builtin_bswap32((uint32_t)mac.low);
    }
    /* One of each family: the reference pads an IPv4 address with zeros alone. */
    client.high &= client_is_ipv4 ? 0xffffffff00000000u : ~(uint64_t)0;
    service.high &= service_is_ipv4 ? 0xffffffff00000000u : ~(uint64_t)0;
    mac.low = ports;
    mac.high = (uint64_t)6 << 56;
    qlb_aes_encrypt(view, &head->hash_schedule, &mac);
    mac.low ^= client.low;
    mac.high ^= client.high;
    qlb_aes_encrypt(view, &head->hash_schedule, &mac);
    mac.low ^= service.low;
    mac.high ^= service.high;
    qlb_aes_encrypt(view, &head->hash_schedule, &mac);
    return __builtin_bswap32((uint32_t)mac.low);
}

/* Step 5: return the backend index for a new connection, or QLB_MISS if no backend accepts new connections. */
QLB_INLINE int32_t qlb_fallback(const struct qlb_view *view, const struct qlb_four_tuple *four_tuple)
{
    const struct qlb_head *head = qlb_head(view);
    if (!head || !head->ring_slots)
        return QLB_MISS;
    const uint32_t *slot = qlb_ring_slot(view, qlb_hash_four_tuple(view, head, four_tuple) % head->ring_slots);
    return slot ? (int32_t)*slot : QLB_MISS;
}

/* Look up a flow in one table. Return its backend index if that backend has all of these flags, else QLB_MISS. */
QLB_INLINE int32_t qlb_known(const struct qlb_packet *packet, uint32_t which, const void *key, uint32_t flags)
{
    const int32_t index = qlb_flow_get(packet->flows, which, key, packet->now_ns);
    if (index < 0 || (qlb_backend_flags(packet->view, (uint32_t)index) & flags) != flags)
        return QLB_MISS;
    return index;
}

/* Steps 4 and 5, the last ones for every unroutable packet. flags: those that a backend from the flow table must have.
 * */
QLB_INLINE struct qlb_decision qlb_by_four_tuple(const struct qlb_packet *packet, uint32_t flags, uint32_t reason)
{
    int32_t index = qlb_known(packet, QLB_FLOWS_BY_FOUR_TUPLE, packet->four_tuple, flags);
    if (index >= 0)
        return (struct qlb_decision){QLB_UNROUTABLE(QLB_BY_FOUR_TUPLE, reason), index};
    index = qlb_fallback(packet->view, packet->four_tuple);
    if (index >= 0)
        return (struct qlb_decision){QLB_UNROUTABLE(QLB_BY_FALLBACK, reason), index};
    return qlb_drop(QLB_DROP_NO_BACKEND);
}

/* Steps 2 to 5, for a long header. */
QLB_INLINE struct qlb_decision qlb_by_ids(const struct qlb_packet *packet, const struct qlb_flow_source *source,
                                          const struct qlb_flow_id *dcid, uint32_t reason)
{
    const struct qlb_head *head = qlb_head(packet->view);
    const uint32_t may_begin = QLB_PRESENT | QLB_ACCEPTS_NEW;
    /* A connection continues with a healthy backend, or with any backend if none accepts new connections. */
    const uint32_t may_continue = head && !head->ring_slots ? QLB_PRESENT : QLB_PRESENT | QLB_HEALTHY;
    /* An empty source ID does not distinguish connections: then the entry proves no more than the 4-tuple's entry. */
    int32_t index = qlb_known(packet, QLB_FLOWS_BY_SOURCE_ID, source, source->scid.len ? may_continue : may_begin);
    if (index >= 0)
        return (struct qlb_decision){QLB_UNROUTABLE(QLB_BY_SOURCE_ID, reason), index};
    index = qlb_known(packet, QLB_FLOWS_BY_DESTINATION_ID, dcid, may_continue);
    if (index >= 0)
        return (struct qlb_decision){QLB_UNROUTABLE(QLB_BY_DESTINATION_ID, reason), index};
    return qlb_by_four_tuple(packet, may_begin, reason);
}

QLB_INLINE struct qlb_decision qlb_unroutable_long(const struct qlb_packet *packet, const struct qlb_header *header,
                                                   uint32_t reason)
{
    struct qlb_flow_id dcid;
    struct qlb_flow_source source;
    qlb_read_flow_id(&dcid, header->dcid, header->dcid_len, packet->data_end);
    qlb_read_flow_id(&source.scid, header->scid, header->scid_len, packet->data_end);
    source.four_tuple = *packet->four_tuple;
    const struct qlb_decision decision = qlb_by_ids(packet, &source, &dcid, reason);
    if (decision.index < 0)
        return decision;
    const uint32_t index = (uint32_t)decision.index;
    qlb_flow_remember(packet->flows, QLB_FLOWS_BY_SOURCE_ID, &source, index, packet->now_ns);
    if (dcid.len >= QLB_MIN_DESTINATION_ID_BYTES)
        qlb_flow_remember(packet->flows, QLB_FLOWS_BY_DESTINATION_ID, &dcid, index, packet->now_ns);
    qlb_flow_remember(packet->flows, QLB_FLOWS_BY_FOUR_TUPLE, packet->four_tuple, index, packet->now_ns);
    return decision;
}

QLB_INLINE struct qlb_decision qlb_unroutable_short(const struct qlb_packet *packet, uint32_t reason)
{
    const struct qlb_decision decision = qlb_by_four_tuple(packet, QLB_PRESENT, reason);
    if (decision.index >= 0)
        qlb_flow_remember(packet->flows, QLB_FLOWS_BY_FOUR_TUPLE, packet->four_tuple, (uint32_t)decision.index,
                          packet->now_ns);
    return decision;
}

/* Decide one datagram. data to data_end: the UDP payload. now_ns: of a monotonic clock.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE struct qlb_decision qlb_decide(const struct qlb_view *view, struct qlb_flows *flows, const uint8_t *data,
                                          const uint8_t *data_end, const struct qlb_four_tuple *four_tuple,
                                          uint64_t now_ns)
{
    const struct qlb_header header = qlb_parse(data, data_end);
    if (header.form == QLB_EMPTY)
        return qlb_drop(QLB_DROP_EMPTY);
    if (header.form == QLB_TRUNCATED)
        return qlb_drop(QLB_DROP_TRUNCATED);
    if (header.form == QLB_LONG && !header.version) /* only servers send Version Negotiation */
        return qlb_drop(QLB_DROP_VERSION_NEGOTIATION);
    const int32_t index = qlb_find(view, &header, data_end);
    if (index >= 0)
        return (struct qlb_decision){header.dcid[0] >> QLB_CONFIG_SHIFT, index};
    const struct qlb_packet packet = {view, flows, four_tuple, data_end, now_ns};
    if (header.form == QLB_LONG)
        return qlb_unroutable_long(&packet, &header, (uint32_t)~index);
    return qlb_unroutable_short(&packet, (uint32_t)~index);
}

/* Return the config ID of a short header with one of two outcomes, or QLB_MISS for every other datagram. outcome: the
 * datagram's. reason: why its ID is unroutable, in the two outcomes. */
QLB_INLINE int32_t qlb_short_id(uint32_t outcome, uint32_t reason, const uint8_t *data, const uint8_t *data_end)
{
    if (outcome != QLB_UNROUTABLE(QLB_BY_FOUR_TUPLE, reason) && outcome != QLB_UNROUTABLE(QLB_BY_FALLBACK, reason))
        return QLB_MISS;
    if (!QLB_HAS(data, 2, data_end) || data[0] >= 0x80)
        return QLB_MISS;
    return data[1] >> QLB_CONFIG_SHIFT;
}

/* Check whether a forwarded datagram began a flow: it has a long header, and steps 1 to 3 did not know its IDs.
 * outcome: the datagram's. */
QLB_INLINE uint32_t qlb_begins_flow(uint32_t outcome, const uint8_t *data, const uint8_t *data_end)
{
    return outcome >= QLB_UNROUTABLE(QLB_BY_FOUR_TUPLE, 0) && outcome < QLB_DROP_EMPTY && QLB_HAS(data, 1, data_end) &&
           data[0] >= 0x80;
}

/* Return the config ID of a short header if the configuration does not contain it, or QLB_MISS. */
QLB_INLINE int32_t qlb_unconfigured_id(uint32_t outcome, const uint8_t *data, const uint8_t *data_end)
{
    return qlb_short_id(outcome, QLB_NO_CONFIG, data, data_end);
}

/* Return the config ID of a short header whose ID decodes to a server ID of no backend, or QLB_MISS. */
QLB_INLINE int32_t qlb_unknown_id(uint32_t outcome, const uint8_t *data, const uint8_t *data_end)
{
    return qlb_short_id(outcome, QLB_UNKNOWN_SERVER_ID, data, data_end);
}

#endif
