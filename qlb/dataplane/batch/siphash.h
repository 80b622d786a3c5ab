/* SipHash-1-3 over 64-bit words: the keyed hash of tables whose keys clients choose (flows.h, sessions.c).
 *
 * Spec: "SipHash: a fast short-input PRF", section 2; without the length, which is the same for all keys of a table.
 */
#ifndef QLB_BATCH_SIPHASH_H
#define QLB_BATCH_SIPHASH_H

#include "../core/types.h"

/* One SipRound. */
QLB_INLINE void qlb_sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = (v[1] << 13 | v[1] >> 51) ^ v[0], v[0] = v[0] << 32 | v[0] >> 32;
    v[2] += v[3], v[3] = (v[3] << 16 | v[3] >> 48) ^ v[2];
    v[0] += v[3], v[3] = (v[3] << 21 | v[3] >> 43) ^ v[0];
    v[2] += v[1], v[1] = (v[1] << 17 | v[1] >> 47) ^ v[2], v[2] = v[2] << 32 | v[2] >> 32;
}

/* Return 32 bits of the hash of `words` words. octets: any alignment.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
QLB_INLINE uint32_t qlb_siphash(const uint64_t secret[2], const void *octets, uint32_t words)
{
    uint64_t v[4] = {secret[0] ^ 0x736f6d6570736575u, secret[1] ^ 0x646f72616e646f6du,
                     secret[0] ^ 0x6c7967656e657261u, secret[1] ^ 0x7465646279746573u};
    for (uint32_t i = 0; i < words; i++) {
        const uint64_t word = qlb_load64((const uint8_t *)octets + 8 * i);
        v[3] ^= word;
        qlb_sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (uint32_t i = 0; i < 3; i++)
        qlb_sip_round(v);
    return (uint32_t)(v[0] ^ v[1] ^ v[2] ^ v[3]);
}

#endif
