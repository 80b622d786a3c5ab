/* AES-128 of one block by table lookups. This form runs everywhere, also in BPF.
 *
 * The XDP plane always uses it (xdp/maps.h). User space uses it if the CPU has no AES instructions (batch/flat.h).
 * The functions guarantee a bounded number of steps and change only the block.
 *
 * Python expands the keys when it compiles the table (key_schedule.py): 11 round keys in FIPS 197's order of octets.
 * The decryption schedule belongs to the equivalent inverse cipher, which the instructions of x86 and ARM also need
 * (batch/aes_native.h).
 *
 * The lookups depend on the key, so their time can reveal something about the key to a process on the same CPU. This
 * is acceptable: the key stops observers of the network from linking users, and an attacker who runs code on the
 * balancer can read the packets anyway.
 *
 * Spec: FIPS 197, sections 5.1 and 5.3.5.
 */
#ifndef QLB_CORE_AES_H
#define QLB_CORE_AES_H

#include "aes_tables.h"
#include "constants.h"
#include "types.h"

struct qlb_schedule {
    uint8_t octets[QLB_AES_SCHEDULE_BYTES];
};

/* The four columns of the state. The octet of row 0 is the lowest one of a column. */
struct qlb_aes_state {
    uint32_t column[4];
};

QLB_INLINE struct qlb_aes_state qlb_aes_begin(const struct qlb_block *block, const uint8_t *key)
{
    return (struct qlb_aes_state){{
        (uint32_t)block->low ^ qlb_load32(key),
        (uint32_t)(block->low >> 32) ^ qlb_load32(key + 4),
        (uint32_t)block->high ^ qlb_load32(key + 8),
        (uint32_t)(block->high >> 32) ^ qlb_load32(key + 12),
    }};
}

QLB_INLINE void qlb_aes_end(const struct qlb_aes_state *state, struct qlb_block *block)
{
    block->low = state->column[0] | (uint64_t)state->column[1] << 32;
    block->high = state->column[2] | (uint64_t)state->column[3] << 32;
}

/* Look up the octet that a column has in `row`. One shift and one mask give the octet times 16, which is the offset of
 * its entry in the table. */
QLB_INLINE uint32_t qlb_aes_entry(const uint32_t (*table)[4], uint32_t column, uint32_t row)
{
    const uint32_t times_16 = (row ? column >> (8 * row - 4) : column << 4) & 0xff0;
    return *(const uint32_t *)((const uint8_t *)table + times_16 + 4 * row);
}

/* Return one column of a round. The caller passes, for each row, the column from which ShiftRows gets the octet. */
QLB_INLINE uint32_t qlb_aes_column(const uint32_t (*table)[4], uint32_t row0, uint32_t row1, uint32_t row2,
                                   uint32_t row3)
{
    return qlb_aes_entry(table, row0, 0) ^ qlb_aes_entry(table, row1, 1) ^ qlb_aes_entry(table, row2, 2) ^
           qlb_aes_entry(table, row3, 3);
}

/* Return one column of the last encryption round, which has no MixColumns. The S-box comes from the forward table: each
 * entry contains the octet that MixColumns multiplies by 1. */
QLB_INLINE uint32_t qlb_aes_last_column(uint32_t row0, uint32_t row1, uint32_t row2, uint32_t row3)
{
    return (qlb_aes_forward[row0 & 0xff][2] & 0xff) ^ (qlb_aes_forward[row1 >> 8 & 0xff][0] & 0xff00) ^
           (qlb_aes_forward[row2 >> 16 & 0xff][0] & 0xff0000) ^ (qlb_aes_forward[row3 >> 24][1] & 0xff000000);
}

/* Return one column of the last decryption round. */
QLB_INLINE uint32_t qlb_aes_last_inverse_column(uint32_t row0, uint32_t row1, uint32_t row2, uint32_t row3)
{
    return (uint32_t)qlb_aes_inverse_sbox[row0 & 0xff] | (uint32_t)qlb_aes_inverse_sbox[row1 >> 8 & 0xff] << 8 |
           (uint32_t)qlb_aes_inverse_sbox[row2 >> 16 & 0xff] << 16 |
           (uint32_t)qlb_aes_inverse_sbox[row3 >> 24] << 24;
}

/* Encrypt a block in place. Return 0, because the verifier requires a result.
 *
 * Hot: run `python -m benchmarks.core` (AES tables) and `python -m benchmarks.xdp` before you change it. */
QLB_CALL int qlb_aes_table_encrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    if (!schedule || !block)
        return 0;
    struct qlb_aes_state s = qlb_aes_begin(block, schedule->octets);
    for (uint32_t round = 1; round < QLB_AES_ROUNDS; round++) {
        const uint8_t *key = schedule->octets + 16 * round;
        const uint32_t a = s.column[0], b = s.column[1], c = s.column[2], d = s.column[3];
        s.column[0] = qlb_aes_column(qlb_aes_forward, a, b, c, d) ^ qlb_load32(key);
        s.column[1] = qlb_aes_column(qlb_aes_forward, b, c, d, a) ^ qlb_load32(key + 4);
        s.column[2] = qlb_aes_column(qlb_aes_forward, c, d, a, b) ^ qlb_load32(key + 8);
        s.column[3] = qlb_aes_column(qlb_aes_forward, d, a, b, c) ^ qlb_load32(key + 12);
    }
    const uint8_t *key = schedule->octets + 16 * QLB_AES_ROUNDS;
    const uint32_t a = s.column[0], b = s.column[1], c = s.column[2], d = s.column[3];
    s.column[0] = qlb_aes_last_column(a, b, c, d) ^ qlb_load32(key);
    s.column[1] = qlb_aes_last_column(b, c, d, a) ^ qlb_load32(key + 4);
    s.column[2] = qlb_aes_last_column(c, d, a, b) ^ qlb_load32(key + 8);
    s.column[3] = qlb_aes_last_column(d, a, b, c) ^ qlb_load32(key + 12);
    qlb_aes_end(&s, block);
    return 0;
}

/* Decrypt a block in place. Return 0, because the verifier requires a result. schedule: of the equivalent inverse
 * cipher, the last round key first.
 *
 * Hot: run `python -m benchmarks.core` (AES tables) and `python -m benchmarks.xdp` before you change it. */
QLB_CALL int qlb_aes_table_decrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    if (!schedule || !block)
        return 0;
    struct qlb_aes_state s = qlb_aes_begin(block, schedule->octets);
    for (uint32_t round = 1; round < QLB_AES_ROUNDS; round++) {
        const uint8_t *key = schedule->octets + 16 * round;
        const uint32_t a = s.column[0], b = s.column[1], c = s.column[2], d = s.column[3];
        s.column[0] = qlb_aes_column(qlb_aes_inverse, a, d, c, b) ^ qlb_load32(key);
        s.column[1] = qlb_aes_column(qlb_aes_inverse, b, a, d, c) ^ qlb_load32(key + 4);
        s.column[2] = qlb_aes_column(qlb_aes_inverse, c, b, a, d) ^ qlb_load32(key + 8);
        s.column[3] = qlb_aes_column(qlb_aes_inverse, d, c, b, a) ^ qlb_load32(key + 12);
    }
    const uint8_t *key = schedule->octets + 16 * QLB_AES_ROUNDS;
    const uint32_t a = s.column[0], b = s.column[1], c = s.column[2], d = s.column[3];
    s.column[0] = qlb_aes_last_inverse_column(a, d, c, b) ^ qlb_load32(key);
    s.column[1] = qlb_aes_last_inverse_column(b, a, d, c) ^ qlb_load32(key + 4);
    s.column[2] = qlb_aes_last_inverse_column(c, b, a, d) ^ qlb_load32(key + 8);
    s.column[3] = qlb_aes_last_inverse_column(d, c, b, a) ^ qlb_load32(key + 12);
    qlb_aes_end(&s, block);
    return 0;
}

#endif
