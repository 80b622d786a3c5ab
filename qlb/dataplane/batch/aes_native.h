/* AES-128 of one block by the instructions of x86 (AES-NI) and ARMv8. Only in user space, selected at run time.
 *
 * flat.h calls it if qlb_aes_native_probe() returns 1. The functions use the same schedules as core/aes.h and return
 * the same results. Each has its own target attribute, so that the other code also runs on a CPU without the
 * instructions. On other CPUs, or with a compiler that does not know the instructions, qlb_aes_native_probe() returns 0
 * and the tables of core/aes.h are used.
 *
 * Hot: run `python -m benchmarks.core` (AES native) before you change these functions.
 */
#ifndef QLB_BATCH_AES_NATIVE_H
#define QLB_BATCH_AES_NATIVE_H

#include "../core/aes.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define QLB_AES_TARGET __attribute__((target("aes,sse2"), noinline, unused))

/* Return 1 if this CPU has the instructions, else 0. */
QLB_INLINE int qlb_aes_native_probe(void)
{
    unsigned int a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_AES) != 0;
}

#define QLB_AES_KEY(round) _mm_loadu_si128((const __m128i *)(const void *)(schedule->octets + 16 * (round)))

static QLB_AES_TARGET int qlb_aes_native_encrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    __m128i state = _mm_loadu_si128((const __m128i *)(const void *)block);
    state = _mm_xor_si128(state, QLB_AES_KEY(0));
    for (int round = 1; round < QLB_AES_ROUNDS; round++)
        state = _mm_aesenc_si128(state, QLB_AES_KEY(round));
    state = _mm_aesenclast_si128(state, QLB_AES_KEY(QLB_AES_ROUNDS));
    _mm_storeu_si128((__m128i *)(void *)block, state);
    return 0;
}

static QLB_AES_TARGET int qlb_aes_native_decrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    __m128i state = _mm_loadu_si128((const __m128i *)(const void *)block);
    state = _mm_xor_si128(state, QLB_AES_KEY(0));
    for (int round = 1; round < QLB_AES_ROUNDS; round++)
        state = _mm_aesdec_si128(state, QLB_AES_KEY(round));
    state = _mm_aesdeclast_si128(state, QLB_AES_KEY(QLB_AES_ROUNDS));
    _mm_storeu_si128((__m128i *)(void *)block, state);
    return 0;
}

#undef QLB_AES_KEY

/* clang before 16 has ARM's intrinsics only if the whole file may use the instructions, as on Apple's machines. */
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && \
    (defined(__linux__) || defined(__APPLE__)) && \
    (defined(__ARM_FEATURE_AES) || !defined(__clang__) || __clang_major__ >= 16)

#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

#ifdef __clang__
#define QLB_AES_TARGET __attribute__((target("aes"), noinline, unused))
#else
#define QLB_AES_TARGET __attribute__((target("+crypto"), noinline, unused))
#endif

/* Return 1 if this CPU has the instructions, else 0. All of Apple's have them. */
QLB_INLINE int qlb_aes_native_probe(void)
{
#ifdef __linux__
    return (getauxval(AT_HWCAP) & (1UL << 3)) != 0; /* HWCAP_AES */
#else
    return 1;
#endif
}

/* An ARM round adds the key first, so the last round uses the last two round keys. */
static QLB_AES_TARGET int qlb_aes_native_encrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    uint8x16_t state = vld1q_u8((const uint8_t *)block);
    for (int round = 0; round < QLB_AES_ROUNDS - 1; round++)
        state = vaesmcq_u8(vaeseq_u8(state, vld1q_u8(schedule->octets + 16 * round)));
    state = vaeseq_u8(state, vld1q_u8(schedule->octets + 16 * (QLB_AES_ROUNDS - 1)));
    vst1q_u8((uint8_t *)block, veorq_u8(state, vld1q_u8(schedule->octets + 16 * QLB_AES_ROUNDS)));
    return 0;
}

static QLB_AES_TARGET int qlb_aes_native_decrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    uint8x16_t state = vld1q_u8((const uint8_t *)block);
    for (int round = 0; round < QLB_AES_ROUNDS - 1; round++)
        state = vaesimcq_u8(vaesdq_u8(state, vld1q_u8(schedule->octets + 16 * round)));
    state = vaesdq_u8(state, vld1q_u8(schedule->octets + 16 * (QLB_AES_ROUNDS - 1)));
    vst1q_u8((uint8_t *)block, veorq_u8(state, vld1q_u8(schedule->octets + 16 * QLB_AES_ROUNDS)));
    return 0;
}

#else

QLB_INLINE int qlb_aes_native_probe(void) { return 0; }
QLB_INLINE int qlb_aes_native_encrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    return qlb_aes_table_encrypt(schedule, block);
}
QLB_INLINE int qlb_aes_native_decrypt(const struct qlb_schedule *schedule, struct qlb_block *block)
{
    return qlb_aes_table_decrypt(schedule, block);
}

#endif

#endif
