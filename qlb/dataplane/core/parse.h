/* Parse the parts of a QUIC packet that every version shares: form, version, connection IDs.
 *
 * qlb_decide() calls qlb_parse() for each datagram; xdp/decide.h also calls it for the datagram that an ICMP error
 * quotes. data to data_end is the UDP payload as received: any 0 to 65,527 octets. The parser never reads beyond it.
 *
 * The twin of qlb/wire/invariants.py, whose comments apply here too: it reads only the first of coalesced packets, and
 * no bit that only a version defines.
 *
 * Spec: RFC 8999, sections 5.1 and 5.2.
 */
#ifndef QLB_CORE_PARSE_H
#define QLB_CORE_PARSE_H

#include "constants.h"
#include "types.h"

#define QLB_LONG_FIXED_BYTES 6 /* first octet, version (4), length of the destination connection ID (1) */

/* The result of qlb_parse(). It points into the packet.
 * form: QLB_SHORT, QLB_LONG (complete up to the end of the source connection ID), QLB_EMPTY (a datagram of 0 octets) or
 * QLB_TRUNCATED (the datagram ends before the connection IDs of its long header do).
 * dcid: includes the ID's first octet. LONG: exact, 0 to 255 octets. SHORT: everything after the header's first octet,
 * counted up to 255 octets; the reader knows how many of them are the ID. Else 0 octets.
 * scid: 0 octets unless LONG. version: 0 unless LONG. */
struct qlb_header {
    const uint8_t *dcid;
    const uint8_t *scid;
    uint32_t form;
    uint32_t version;
    uint32_t dcid_len;
    uint32_t scid_len;
};

/* Return the number of octets after the first one, which exists: 0 to 255. */
QLB_INLINE uint32_t qlb_rest_len(const uint8_t *data, const uint8_t *data_end)
{
    uint64_t size = (uint64_t)(data_end - data);
    QLB_AS_WRITTEN(size);
    return size <= QLB_MAX_CID_BYTES ? (uint32_t)size - 1 : QLB_MAX_CID_BYTES;
}

/* Parse one datagram. Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE struct qlb_header qlb_parse(const uint8_t *data, const uint8_t *data_end)
{
    struct qlb_header header = {.dcid = data, .scid = data, .form = QLB_EMPTY};
    if (!QLB_HAS(data, 1, data_end))
        return header;
    if (data[0] < 0x80) {
        header.form = QLB_SHORT;
        header.dcid = data + 1;
        header.dcid_len = qlb_rest_len(data, data_end);
        return header;
    }
    header.form = QLB_TRUNCATED;
    if (!QLB_HAS(data, QLB_LONG_FIXED_BYTES, data_end))
        return header;
    const uint32_t dcid_len = data[5];
    const uint8_t *scid_len_at = qlb_skip(data, QLB_LONG_FIXED_BYTES + dcid_len, data_end);
    if (!QLB_HAS(scid_len_at, 1, data_end))
        return header;
    const uint32_t scid_len = *scid_len_at;
    if (!QLB_HAS(scid_len_at, 1 + scid_len, data_end))
        return header;
    header.form = QLB_LONG;
    header.version = (uint32_t)data[1] << 24 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 8 | data[4];
    header.dcid = data + QLB_LONG_FIXED_BYTES;
    header.dcid_len = dcid_len;
    header.scid = scid_len_at + 1;
    header.scid_len = scid_len;
    return header;
}

#endif
