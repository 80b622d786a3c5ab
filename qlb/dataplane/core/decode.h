/* Decode a destination connection ID (plaintext, single pass or four passes) and look up its server ID.
 *
 * qlb_decide() calls qlb_find() with a parsed packet, which stays where it was received. Every ID that is long enough
 * decodes to some server ID; only the lookup decides whether that one exists. Nothing is read beyond the packet, and
 * the only state that changes is the memo.
 *
 * The twin of qlb/cid/feistel.py, qlb/cid/codec.py and step 1 of qlb/routing/router.py, whose comments apply here too.
 *
 * Spec: draft-ietf-quic-load-balancers, sections "Load Balancer Actions" and "General Case: Four-Pass Encryption".
 */
#ifndef QLB_CORE_DECODE_H
#define QLB_CORE_DECODE_H

#include "hooks.h"
#include "outcomes.h"
#include "parse.h"
#include "table.h"

#define QLB_LENGTH_MASK 0x1f       /* of a first octet */
#define QLB_CONFIG_SHIFT 5

/* Read the wire block of an ID. cid: points to the ID's first octet.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE struct qlb_wire_block qlb_read_block(const uint8_t *cid, const uint8_t *end)
{
    struct qlb_wire_block block;
    if (QLB_HAS(cid, 1 + QLB_MAX_PLAINTEXT_BYTES, end)) {
        block.start.low = qlb_load64(cid + 1);
        block.start.high = qlb_load64(cid + 9);
        block.rest = qlb_load32(cid + 16) >> 8;
    } else {
        block.start.low = qlb_load_rest(cid, 1, end);
        block.start.high = qlb_load_rest(cid, 9, end);
        block.rest = qlb_load_rest(cid, 17, end);
    }
    return block;
}

QLB_INLINE struct qlb_block qlb_masked(struct qlb_block block, const uint8_t *mask)
{
    return (struct qlb_block){block.low & qlb_load64(mask), block.high & qlb_load64(mask + 8)};
}

/* Return 16 octets of a wire block from octet `skip` on. skip: 2 to 9. */
QLB_INLINE struct qlb_block qlb_from_octet(const struct qlb_wire_block *block, uint32_t skip)
{
    if (skip >= 8) {
        const uint32_t bits = 8 * (skip - 8) & 15;
        return (struct qlb_block){
            block->start.high >> bits | (bits ? block->rest << (64 - bits) : 0),
            block->rest >> bits,
        };
    }
    const uint32_t bits = 8 * skip & 63;
    return (struct qlb_block){
        block->start.low >> bits | block->start.high << (64 - bits),
        block->start.high >> bits | block->rest << (64 - bits),
    };
}

/* Join two halves and return the first 16 octets of the block. The right half begins in octet `skip`, 2 to 9. If the
 * length is odd, the other nibble of that octet belongs to the left half. */
QLB_INLINE struct qlb_block qlb_join(const struct qlb_block *left, const struct qlb_block *right, uint32_t skip)
{
    if (skip >= 8)
        return (struct qlb_block){left->low, left->high | right->low << (8 * (skip - 8) & 15)};
    const uint32_t bits = 8 * skip & 63;
    return (struct qlb_block){
        left->low | right->low << bits,
        left->high | right->high << bits | right->low >> (64 - bits),
    };
}

/* Apply one pass: to ^= AES(expand(plaintext_len, pass, from)), on the bits of its own half. A lane is 16 octets that
 * begin with a half; the last two are the length and the number of the pass. */
QLB_INLINE void qlb_pass(const struct qlb_view *view, const struct qlb_config *config, uint64_t pass,
                         const struct qlb_block *from, struct qlb_block *to, const uint8_t *to_mask)
{
    const uint64_t plaintext_len = (uint64_t)config->server_id_len + config->nonce_len;
    struct qlb_block block = {from->low, from->high | plaintext_len << 48 | pass << 56};
    qlb_aes_encrypt(view, &config->encrypt_schedule, &block);
    block = qlb_masked(block, to_mask);
    to->low ^= block.low;
    to->high ^= block.high;
}

/* Undo the passes. Return the block, or the part of it that three passes recover, with the server ID at its start.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE struct qlb_block qlb_undo_passes(const struct qlb_view *view, const struct qlb_config *config,
                                            const struct qlb_wire_block *wire)
{
    const uint32_t right_at = ((uint32_t)config->server_id_len + config->nonce_len) / 2;
    struct qlb_block left = qlb_masked(wire->start, config->left_mask);
    struct qlb_block right = qlb_masked(qlb_from_octet(wire, right_at), config->right_mask);
    qlb_pass(view, config, 4, &right, &left, config->left_mask);
    qlb_pass(view, config, 3, &left, &right, config->right_mask);
    qlb_pass(view, config, 2, &right, &left, config->left_mask);
    if (config->algorithm != QLB_FOUR_PASS)
        return left;
    qlb_pass(view, config, 1, &left, &right, config->right_mask);
    return qlb_join(&left, &right, right_at);
}

/* Return the server ID of a wire block, with zeros after its end. */
QLB_INLINE struct qlb_block qlb_decode(const struct qlb_view *view, const struct qlb_config *config,
                                       const struct qlb_wire_block *wire)
{
    struct qlb_block block = wire->start;
    if (config->algorithm == QLB_SINGLE_PASS)
        qlb_aes_decrypt(view, &config->decrypt_schedule, &block);
    else if (config->algorithm != QLB_PLAINTEXT)
        block = qlb_undo_passes(view, config, wire);
    return qlb_masked(block, config->server_id_mask);
}

/* Return the backend index of a server ID under a CID config, or ~QLB_UNKNOWN_SERVER_ID.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE int32_t qlb_find_server(const struct qlb_view *view, uint32_t config_id, struct qlb_block server_id)
{
    const struct qlb_head *head = qlb_head(view);
    if (!head)
        return ~QLB_UNKNOWN_SERVER_ID;
    server_id.high |= (uint64_t)config_id << 56;
    const uint32_t first = qlb_server_hash(head->server_seed, &server_id);
    for (uint32_t probe = 0; probe < QLB_SERVER_PROBES; probe++) {
        const struct qlb_server *server = qlb_server_slot(view, first + probe);
        if (!server || server->index == QLB_NO_BACKEND)
            break;
        if (server->low == server_id.low && server->high == server_id.high)
            return (int32_t)server->index;
    }
    return ~QLB_UNKNOWN_SERVER_ID;
}

/* Return the backend index of an encrypted ID under a CID config, from the memo if possible, or ~QLB_UNKNOWN_SERVER_ID.
 * The memo stores only IDs that route, so that random IDs cannot push out the IDs of live connections.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE int32_t qlb_find_encrypted(const struct qlb_view *view, uint32_t config_id, const struct qlb_config *config,
                                      struct qlb_wire_block *wire)
{
    const uint32_t plaintext_len = (uint32_t)config->server_id_len + config->nonce_len;
    wire->start.low &= qlb_octets_mask(plaintext_len, 0);
    wire->start.high &= qlb_octets_mask(plaintext_len, 8);
    wire->rest &= qlb_octets_mask(plaintext_len, 16);
    int32_t index = qlb_memo_get(view, config_id, wire);
    if (index >= 0)
        return index;
    index = qlb_find_server(view, config_id, qlb_decode(view, config, wire));
    if (index >= 0)
        qlb_memo_put(view, config_id, wire, index);
    return index;
}

/* Forwarding step 1: return the backend index that a destination ID decodes to, or ~reason if it is unroutable.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change it. */
QLB_INLINE int32_t qlb_find(const struct qlb_view *view, const struct qlb_header *header, const uint8_t *end)
{
    const uint8_t *dcid = header->dcid;
    if (!header->dcid_len || !QLB_HAS(dcid, 1, end))
        return ~QLB_TOO_SHORT;
    const uint32_t config_id = dcid[0] >> QLB_CONFIG_SHIFT;
    const struct qlb_config *config = qlb_config_at(view, config_id);
    if (!config || config->algorithm == QLB_NOT_CONFIGURED)
        return config_id == QLB_RESERVED_CONFIG_ID ? ~QLB_RESERVED_CONFIG : ~QLB_NO_CONFIG;
    if (header->form == QLB_LONG && config->length_self_encoded &&
        (dcid[0] & QLB_LENGTH_MASK) + 1u != header->dcid_len)
        return ~QLB_LENGTH_MISMATCH;
    if (header->dcid_len < 1u + config->server_id_len + config->nonce_len)
        return ~QLB_TOO_SHORT;
    struct qlb_wire_block wire = qlb_read_block(dcid, end);
    if (config->algorithm == QLB_PLAINTEXT)
        return qlb_find_server(view, config_id, qlb_decode(view, config, &wire));
    return qlb_find_encrypted(view, config_id, config, &wire);
}

#endif
