/* Make routing decisions about the same datagrams repeatedly; print the ns of one: the minimum of several rounds.
 *
 * core_loop TABLE DATAGRAMS AES FLOWS
 *
 * TABLE: file with a compiled table. DATAGRAMS: file with datagrams of 64 octets each. AES: `native` or `tables`.
 * FLOWS: size of each flow table.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/route.h"

#include "batch/flat.h"
#include "batch/flows.h"

#define DATAGRAM_BYTES 64
#define ROUNDS 7
#define ROUND_NS 100000000

struct file {
    uint8_t *octets;
    size_t size;
};

static struct file read_file(const char *path)
{
    struct file file = {0};
    FILE *from = fopen(path, "rb");
    if (!from || fseek(from, 0, SEEK_END) < 0)
        exit(2);
    file.size = (size_t)ftell(from);
    rewind(from);
    file.octets = malloc(file.size + 1);
    if (!file.octets || fread(file.octets, 1, file.size, from) != file.size)
        exit(2);
    fclose(from);
    return file;
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(int count, char **words)
{
    if (count != 5)
        return 2;
    const struct file table = read_file(words[1]), datagrams = read_file(words[2]);
    const uint32_t size = (uint32_t)atoi(words[4]);
    const uint64_t secret[2] = {1, 2};
    struct qlb_view view = {0};
    struct qlb_flows flows;
    const char *problem = qlb_view_open(&view, table.octets, table.size);
    void *memory = malloc(qlb_flows_bytes(size));
    if (problem || !memory || datagrams.size < DATAGRAM_BYTES) {
        fprintf(stderr, "%s\n", problem ? problem : "no memory, or no datagrams");
        return 1;
    }
    view.aes_native &= !strcmp(words[3], "native");
    qlb_flows_open(&flows, memory, size, 30000000000u, secret);

    double least = 1e9;
    uint64_t sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t start = clock_ns();
        uint64_t decided = 0, elapsed;
        do {
            for (size_t at = 0; at + DATAGRAM_BYTES <= datagrams.size; at += DATAGRAM_BYTES, decided++) {
                const uint32_t client = (uint32_t)(at / DATAGRAM_BYTES);
                struct qlb_four_tuple four_tuple = {.client = {[10] = 0xff, [11] = 0xff, [12] = 10},
                                                    .service = {[10] = 0xff, [11] = 0xff, [12] = 10}};
                memcpy(four_tuple.ports, &client, sizeof client);
                const uint8_t *data = datagrams.octets + at;
                const struct qlb_decision decision =
                    qlb_decide(&view, &flows, data, data + DATAGRAM_BYTES, &four_tuple, start);
                sum += decision.outcome + (uint32_t)decision.index;
            }
            elapsed = clock_ns() - start;
        } while (elapsed < ROUND_NS);
        if ((double)elapsed / (double)decided < least)
            least = (double)elapsed / (double)decided;
    }
    printf("%.2f %llu\n", least, (unsigned long long)sum);
    return 0;
}
