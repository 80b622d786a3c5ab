/* Coverage-guided fuzzing of the C core under ASan and UBSan, with hostile datagrams and hostile tables.
 *
 * QLB_FUZZ_TABLE names a compiled table; lab/fuzz/core_seeds.py writes one, and a corpus. An input consists of
 *   flags: bit 0: the table is corrupted first; bits 1 and 2: the size of the flow tables;
 *   if corrupted: a count, and that many patches (offset, 3 octets, little-endian; value);
 *   any number of (control, size, datagram): the control octet selects the client and the time that passes.
 * Each datagram is in memory of exactly its size, so that ASan detects a read of one octet too many. Two routers, one
 * for each AES implementation, must make the same decisions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/route.h"

#include "batch/flat.h"
#include "batch/flows.h"

#define CHECK(law)                                                                                                    \
    do {                                                                                                              \
        if (!(law)) {                                                                                                 \
            fprintf(stderr, "broken: %s\n", #law);                                                                    \
            abort();                                                                                                  \
        }                                                                                                             \
    } while (0)

struct input {
    const uint8_t *at;
    size_t left;
};

static uint8_t *table;
static size_t table_size;

int LLVMFuzzerInitialize(int *count, char ***words);
int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size);

int LLVMFuzzerInitialize(int *count, char ***words)
{
    (void)count, (void)words;
    const char *path = getenv("QLB_FUZZ_TABLE");
    FILE *from = path ? fopen(path, "rb") : NULL;
    if (!from || fseek(from, 0, SEEK_END) < 0) {
        fprintf(stderr, "QLB_FUZZ_TABLE must name a table\n");
        exit(2);
    }
    table_size = (size_t)ftell(from);
    table = malloc(table_size);
    rewind(from);
    CHECK(table && fread(table, 1, table_size, from) == table_size);
    fclose(from);
    return 0;
}

static uint8_t take(struct input *input)
{
    if (!input->left)
        return 0;
    input->left--;
    return *input->at++;
}

static void spoil(uint8_t *copy, struct input *input)
{
    for (uint32_t count = take(input); count; count--) {
        const size_t offset = take(input) | (size_t)take(input) << 8 | (size_t)take(input) << 16;
        copy[offset % table_size] = take(input);
    }
}

static void decide_all(const struct qlb_view *view, struct qlb_flows *flows, struct input *input)
{
    struct qlb_view by_tables = *view;
    by_tables.aes_native = 0;
    uint64_t now_ns = 0;
    while (input->left >= 2) {
        const uint8_t control = take(input);
        size_t size = take(input);
        size = size < input->left ? size : input->left;
        uint8_t *datagram = malloc(size);
        CHECK(datagram || !size);
        if (size)
            memcpy(datagram, input->at, size);
        input->at += size;
        input->left -= size;
        now_ns += (uint64_t)(control >> 6) * 1000000000u;
        struct qlb_four_tuple four_tuple = {.client = {[10] = control & 4 ? 0xff : 0, 0xff, 192, 0, 2, control & 3},
                                            .service = {[10] = control & 8 ? 0 : 0xff, 0xff, 192, 0, 2, 9}};
        const struct qlb_decision decision =
            qlb_decide(view, &flows[0], datagram, datagram + size, &four_tuple, now_ns);
        const struct qlb_decision again =
            qlb_decide(&by_tables, &flows[1], datagram, datagram + size, &four_tuple, now_ns);
        CHECK(decision.outcome == again.outcome && decision.index == again.index);
        CHECK(decision.outcome < QLB_DROP_SEND_FAILED);
        CHECK((decision.index == -1) == (decision.outcome >= QLB_DROP_EMPTY));
        CHECK(decision.index >= -1 && decision.index < (int32_t)view->head->backend_slots);
        for (int which = 0; which < QLB_FLOW_TABLES; which++)
            CHECK(flows[0].tables[which].count <= flows[0].size);
        free(datagram);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
    static const uint32_t sizes[4] = {0, 1, 3, 16};
    static const uint64_t secret[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    struct input input = {octets, size};
    const uint8_t flags = take(&input);
    uint8_t *copy = malloc(table_size);
    CHECK(copy);
    memcpy(copy, table, table_size);
    if (flags & 1)
        spoil(copy, &input);
    struct qlb_view view;
    const char *problem = qlb_view_open(&view, copy, table_size);
    CHECK(!problem || flags & 1);
    if (!problem) {
        const uint32_t entries = sizes[flags >> 1 & 3];
        struct qlb_flows flows[2];
        void *memory[2];
        for (int i = 0; i < 2; i++) {
            memory[i] = malloc((size_t)qlb_flows_bytes(entries));
            CHECK(memory[i]);
            qlb_flows_open(&flows[i], memory[i], entries, 3000000000u, secret);
        }
        decide_all(&view, flows, &input);
        for (int i = 0; i < 2; i++)
            free(memory[i]);
    }
    free(copy);
    return 0;
}
