/* Check whether the connection ID that a server shows in the long headers of its answers leads back to the server.
 *
 * reply.c calls qlb_check_shown() for each long header. Only the beginning of a connection has them, and only the first
 * one of a connection is decoded, so the check costs one decode for each new connection. It only counts: the supervisor
 * reports a wrong ID (qlb/daemon/shown_ids.py).
 *
 * The twin of qlb/routing/shown.py, whose docstring explains which long headers prove nothing.
 */
#include "forwarder.h"

#define QLB_TYPE(first_octet) ((first_octet) >> 4 & 3)
#define QLB_FNV_OFFSET 2166136261u
#define QLB_FNV_PRIME 16777619u

/* Check whether a long header begins a Retry packet. An unknown version counts as one like version 1. */
static int is_retry(uint8_t first_octet, uint32_t version)
{
    return QLB_TYPE(first_octet) == (version == QLB_VERSION_2 ? 0 : 3);
}

/* Return a mark of an ID, never 0. Two IDs with the same mark cost one missed check, so it needs no key. */
static uint16_t mark_of(const uint8_t *id, uint32_t id_len)
{
    uint32_t hash = QLB_FNV_OFFSET;
    for (uint32_t i = 0; i < id_len; i++)
        hash = (hash ^ id[i]) * QLB_FNV_PRIME;
    return (uint16_t)((hash ^ hash >> 16) | 1);
}

/* Check whether the flow tables know an ID as one that a client has chosen. */
static int is_of_client(struct qlb_forwarder *forwarder, const struct qlb_header *header, const uint8_t *end)
{
    struct qlb_flow_id id;
    qlb_read_flow_id(&id, header->dcid, header->dcid_len, end);
    return qlb_flow_get(&forwarder->decider.flows, QLB_FLOWS_BY_DESTINATION_ID, &id, forwarder->now_ns) >= 0;
}

void qlb_check_shown(struct qlb_forwarder *forwarder, struct qlb_session *session, const uint8_t *octets, uint32_t len)
{
    const uint8_t *end = octets + len;
    const uint32_t index = session->key.index;
    struct qlb_header header = qlb_parse(octets, end);
    if (header.form != QLB_LONG || !header.version || is_retry(octets[0], header.version))
        return;
    const uint16_t mark = mark_of(header.scid, header.scid_len);
    if (mark == session->shown || memcmp(&session->backend, &forwarder->endpoints[index], sizeof session->backend) != 0)
        return;
    header.dcid = header.scid;
    header.dcid_len = header.scid_len;
    uint32_t kind = QLB_SHOWN_WRONG;
    if (qlb_find(&forwarder->decider.table.view, &header, end) == (int32_t)index)
        kind = QLB_SHOWN_RIGHT;
    else if (!header.scid_len || header.scid[0] >> QLB_CONFIG_SHIFT == QLB_RESERVED_CONFIG_ID)
        kind = QLB_SHOWN_UNROUTABLE;
    else if (is_of_client(forwarder, &header, end))
        return;
    session->shown = mark;
    qlb_count_shown(forwarder->slots, kind, index, header.scid, header.scid_len);
}
