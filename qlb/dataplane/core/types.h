/* Fixed-width integers, octets of packets as integers, and the few words in which user space and BPF differ.
 *
 * Everything in core/ compiles as C11 (gcc, clang) and as BPF (clang -target bpf). It is pure: no libc, no
 * allocation, no state, no loop without a constant bound. The rest of core/ never asks which of the two it
 * is; what differs is here.
 */
#ifndef QLB_CORE_TYPES_H
#define QLB_CORE_TYPES_H

#ifdef __bpf__
/* No libc headers there; the very types of vmlinux.h, so that both may be included. */
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
/* One copy, called: what is too large to repeat in a BPF program. Of external linkage there, because the verifier
 * walks through such a function once and not at each call; it then demands arguments of known size that are
 * checked for null, and a result. */
#ifdef __bpf__
#define QLB_CALL __attribute__((noinline))
#else
#define QLB_CALL static __attribute__((noinline, unused))
#endif

/* Keep clang from rewriting how a value was made. */
#ifdef __bpf__
#define QLB_AS_WRITTEN(value) __asm__ volatile("" : "+r"(value))
#else
#define QLB_AS_WRITTEN(value) (void)(value)
#endif

/* Whether size octets lie at `at`, before end: all that stands between a pointer and a load.
 * BPF: the one form of the comparison that its verifier learns from. User space: one that never builds a
 * pointer beyond the end. */
#ifdef __bpf__
#define QLB_HAS(at, size, end) ((at) + (size) <= (end))
#else
#define QLB_HAS(at, size, end) ((uint64_t)((end) - (at)) >= (uint64_t)(size))
#endif

/* The pointer `size` octets on, where no QLB_HAS holds that did not hold at the end. size: below 65,536.
 * BPF: a pointer of its own, since what the verifier learns about it must be learnt from itself. */
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

/* 16 octets, or up to 16, as two integers: `low` holds octets 0 to 7 and `high` octets 8 to 15, the earlier
 * octet in the lower bits, on every machine. Shifting right by 8 drops the first octet. */
struct qlb_block {
    uint64_t low;
    uint64_t high;
};

/* Octets to integer, the first octet lowest. Any alignment, except on BPF's own stack and in its maps. */
#if defined(__bpf__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* clang would make single loads of what stands below, and the kernel reads packets at any alignment. */
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

/* As many of the 8 octets from `at + skip` as there are before end, zeros after them. The slow way, for a
 * packet that ends with its connection ID. */
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

/* All ones where left < right, else 0. Without a branch: the verifier would follow both ways of each. */
QLB_INLINE uint64_t qlb_if_less(uint32_t left, uint32_t right)
{
    int64_t difference = (int64_t)left - (int64_t)right;
    QLB_AS_WRITTEN(difference);
    return (uint64_t)(difference >> 63);
}

/* A mask for the 8 octets from `skip` on of something that is len octets long. skip: a multiple of 8. */
QLB_INLINE uint64_t qlb_octets_mask(uint32_t len, uint32_t skip)
{
    return qlb_if_less(skip + 7, len) | (qlb_if_less(skip, len) & (((uint64_t)1 << 8 * (len & 7)) - 1));
}

#endif
