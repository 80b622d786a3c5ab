/* Fixed-width integers, octets of packets as integers, and the few macros in which user space and BPF differ.
 *
 * Every header of core/ includes it, and xdp/ too. Everything in core/ compiles as C11 (gcc, clang) and as BPF
 * (clang -target bpf). It is pure: no libc, no allocation, no state, no loop without a constant bound. All differences
 * between the two targets are in this file; the rest of core/ never checks the target.
 */
#ifndef QLB_CORE_TYPES_H
#define QLB_CORE_TYPES_H

#ifdef __bpf__
/* BPF has no libc headers. These are the same types as in vmlinux.h, so that a program may include both. */
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

#define QLB_INLINE static inline __attribute__((always_inline, unused))
/* A function that is called and not inlined, because it is too large to repeat in a BPF program. In BPF it has external
 * linkage: the verifier then checks it once and not at each call. In return, the verifier requires a result, and
 * arguments of known size that the function checks for null. */
#ifdef __bpf__
#define QLB_CALL __attribute__((noinline))
#else
#define QLB_CALL static __attribute__((noinline, unused))
#endif

/* Stop clang from rewriting the computation of a value, which the verifier could then no longer follow. */
#ifdef __bpf__
#define QLB_AS_WRITTEN(value) __asm__ volatile("" : "+r"(value))
#else
#define QLB_AS_WRITTEN(value) (void)(value)
#endif

/* Check that `size` octets at `at` end before `end`. This is the only check between a pointer and a load.
 * BPF: the verifier learns the bounds only from this form of the comparison. User space: this form never computes a
 * pointer beyond the end. */
#ifdef __bpf__
#define QLB_HAS(at, size, end) ((at) + (size) <= (end))
#else
#define QLB_HAS(at, size, end) ((uint64_t)((end) - (at)) >= (uint64_t)(size))
#endif

/* Return `at + size`. If that is beyond `end`, return a pointer for which QLB_HAS fails for every size above 0.
 * size: below 65,536.
 * BPF: the result is a new pointer, because the verifier learns its bounds only from comparisons of this pointer. */
QLB_INLINE const uint8_t *qlb_skip(const uint8_t *at, uint32_t size, const uint8_t *end)
{
#ifdef __bpf__
    (void)end;
    at += size;
    QLB_AS_WRITTEN(at);
    return at;
#else
    return QLB_HAS(at, size, end) ? at + size : end;
#endif
}

/* Up to 16 octets as two integers: `low` has octets 0 to 7 and `high` octets 8 to 15. On every machine, the earlier
 * octet is in the lower bits. Shifting right by 8 drops the first octet. */
struct qlb_block {
    uint64_t low;
    uint64_t high;
};

/* Load octets as an integer, the first octet lowest. Any alignment, except on BPF's own stack and in its maps.
 *
 * Hot: run `python -m benchmarks.core` and `python -m benchmarks.xdp` before you change them. */
#if defined(__bpf__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* In BPF, clang would turn the general form below into loads of single octets. The kernel reads packets at any
 * alignment. */
QLB_INLINE uint32_t qlb_load32(const uint8_t *at) { return *(const uint32_t *)at; }
QLB_INLINE uint64_t qlb_load64(const uint8_t *at) { return *(const uint64_t *)at; }
#else
QLB_INLINE uint32_t qlb_load32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

QLB_INLINE uint64_t qlb_load64(const uint8_t *at)
{
    return qlb_load32(at) | (uint64_t)qlb_load32(at + 4) << 32;
}
#endif

/* Load up to 8 octets from `at + skip`, as many as end before `end`, with zeros after them. Slow: only for a packet
 * that ends with its connection ID. */
QLB_INLINE uint64_t qlb_load_rest(const uint8_t *at, uint32_t skip, const uint8_t *end)
{
    uint64_t octets = 0;
    for (uint32_t i = 0; i < 8; i++) {
        if (!QLB_HAS(at, skip + i + 1, end))
            break;
        octets |= (uint64_t)at[skip + i] << (8 * i);
    }
    return octets;
}

/* Return all ones if left < right, else 0. Without a branch, because the verifier would follow both paths of each. */
QLB_INLINE uint64_t qlb_if_less(uint32_t left, uint32_t right)
{
    int64_t difference = (int64_t)left - (int64_t)right;
    QLB_AS_WRITTEN(difference);
    return (uint64_t)(difference >> 63);
}

/* Return a mask for octets `skip` to `skip + 7` of a field of `len` octets. skip: a multiple of 8. */
QLB_INLINE uint64_t qlb_octets_mask(uint32_t len, uint32_t skip)
{
    return qlb_if_less(skip + 7, len) | (qlb_if_less(skip, len) & (((uint64_t)1 << 8 * (len & 7)) - 1));
}

#endif
