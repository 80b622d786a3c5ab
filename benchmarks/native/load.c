/* Clients and servers of a measurement in one thread, so that one core can drive a forwarder on another core.
 *
 * load PORT FLOWS BACKENDS SIZE BURST there|back CIDS CID_BYTES
 *
 * The flows take turns in sending BURST datagrams of SIZE octets to 127.0.0.1:PORT (0: directly to the servers). With
 * `back`, the servers echo. The program prints the servers' ports as a line of JSON. Then it reads commands, one per
 * line, and answers each with a line of JSON:
 *
 *   probe MS              send until a datagram arrives, at most MS milliseconds
 *   closed WINDOW COUNT   send COUNT datagrams with at most WINDOW in flight: as fast as the forwarder forwards them
 *   paced RATE COUNT      send COUNT datagrams at RATE per second, even if some are lost, and record the latencies
 */
#define _GNU_SOURCE
#include "clients.h"
#include "servers.h"

#define EVENTS 256
#define LOST_AFTER_NS 200000000u
#define PROBE_NS 20000000u

struct load {
    struct traffic traffic;
    struct clients clients;
    struct tally tally;
    struct inbox inbox;
    int poller, *servers;
    uint64_t sent, begun_ns, sent_ns;
};

/* Serve all readable sockets; return 0 if there were none. It never sleeps: waking it would cost the forwarder time. */
static int turn(struct load *load)
{
    struct epoll_event events[EVENTS];
    const int ready = epoll_wait(load->poller, events, EVENTS, 0);
    for (int i = 0; i < ready; i++) {
        const uint32_t index = events[i].data.u32;
        if (index == load->traffic.backends)
            receive_and_count(&load->inbox, load->clients.fd, &load->tally, &load->traffic);
        else if (load->traffic.answered)
            receive_and_echo(&load->inbox, load->servers[index], &load->traffic);
        else
            receive_and_count(&load->inbox, load->servers[index], &load->tally, &load->traffic);
    }
    return ready > 0;
}

static void begin(struct load *load, uint64_t kept)
{
    load->traffic.run++;
    load->sent = 0;
    tally_open(&load->tally, kept);
    load->begun_ns = load->tally.last_ns = clock_ns();
}

/* Send bursts, at most this number and at most one batch; return how many. */
static uint32_t send_some(struct load *load, uint64_t bursts)
{
    const uint32_t count = bursts < CLIENT_BATCH ? (uint32_t)bursts : CLIENT_BATCH;
    send_bursts(&load->clients, &load->traffic, count);
    load->sent += (uint64_t)count * load->traffic.burst;
    return count;
}

/* Wait for datagrams in flight, until all arrived or none arrived for LOST_AFTER_NS. */
static void settle(struct load *load)
{
    const uint64_t from = clock_ns();
    while (load->tally.received < load->sent) {
        const uint64_t latest = load->tally.last_ns > from ? load->tally.last_ns : from;
        if (!turn(load) && clock_ns() - latest > LOST_AFTER_NS)
            return;
    }
}

static void run_closed(struct load *load, uint64_t window, uint64_t count)
{
    uint64_t written_off = 0;
    begin(load, 0);
    while (load->sent < count) {
        const uint64_t under_way = load->sent - load->tally.received - written_off;
        const uint64_t room = under_way < window ? window - under_way : 0, rest = count - load->sent;
        if (room >= load->traffic.burst)
            send_some(load, (room < rest ? room : rest + load->traffic.burst - 1) / load->traffic.burst);
        if (!turn(load) && clock_ns() - load->tally.last_ns > LOST_AFTER_NS) {
            written_off = load->sent - load->tally.received;
            load->tally.last_ns = clock_ns();
        }
    }
    load->sent_ns = clock_ns();
    settle(load);
}

static void run_paced(struct load *load, double rate, uint64_t count)
{
    const double interval_ns = 1e9 * load->traffic.burst / rate;
    const uint64_t all = (count + load->traffic.burst - 1) / load->traffic.burst;
    uint64_t bursts = 0;
    begin(load, all * load->traffic.burst);
    while (bursts < all) {
        const uint64_t due = (uint64_t)((double)(clock_ns() - load->begun_ns) / interval_ns) + 1;
        if (bursts < due)
            bursts += send_some(load, (due < all ? due : all) - bursts);
        turn(load);
    }
    load->sent_ns = clock_ns();
    settle(load);
}

static void run_probe(struct load *load, uint64_t timeout_ms)
{
    begin(load, 0);
    for (uint64_t now = load->begun_ns; !load->tally.received && now - load->begun_ns < timeout_ms * 1000000u;) {
        send_some(load, 1);
        for (const uint64_t sent = now; !load->tally.received && now - sent < PROBE_NS; now = clock_ns())
            turn(load);
    }
    load->sent_ns = clock_ns();
}

static void report(struct load *load)
{
    const uint64_t kept = tally_sort(&load->tally), laps = load->traffic.bursts / load->traffic.flows + 1;
    printf("{\"sent\": %llu, \"received\": %llu, \"send_s\": %.6f, \"elapsed_s\": %.6f, ", (unsigned long long)load->sent,
           (unsigned long long)load->tally.received, (double)(load->sent_ns - load->begun_ns) / 1e9,
           (double)(load->tally.last_ns - load->begun_ns) / 1e9);
    printf("\"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, ", tally_quantile_us(&load->tally, kept, 0.5),
           tally_quantile_us(&load->tally, kept, 0.99), tally_quantile_us(&load->tally, kept, 0.999));
    printf("\"repeated\": %s}\n", laps * load->traffic.burst > load->traffic.laps ? "true" : "false");
    fflush(stdout);
}

static void open_all(struct load *load, char **words)
{
    struct traffic *traffic = &load->traffic;
    raise_file_limit(traffic->backends + 64);
    read_cids(traffic, words[7]);
    load->poller = epoll_create1(0);
    load->servers = calloc(traffic->backends, sizeof *load->servers);
    if (load->poller < 0 || !load->servers)
        fail("epoll_create1");
    inbox_open(&load->inbox, traffic);
    const uint16_t *ports = open_servers(traffic, load->poller, load->servers);
    open_clients(&load->clients, traffic, (uint16_t)atoi(words[1]), ports);
    watch(load->poller, load->clients.fd, traffic->backends);
    for (uint32_t i = 0; i < traffic->backends; i++)
        printf("%s%u", i ? ", " : "{\"backends\": [", ports[i]);
    printf("]}\n");
    fflush(stdout);
}

int main(int count, char **words)
{
    static struct load load;
    struct traffic *traffic = &load.traffic;
    if (count == 9) {
        traffic->flows = (uint32_t)atoi(words[2]);
        traffic->backends = (uint32_t)atoi(words[3]);
        traffic->size = (uint32_t)atoi(words[4]);
        traffic->burst = (uint32_t)atoi(words[5]);
        traffic->answered = !strcmp(words[6], "back");
        traffic->cid_bytes = (uint32_t)atoi(words[8]);
    }
    if (!traffic->flows || !traffic->backends || !traffic->burst || traffic->cid_bytes > MAX_CID_BYTES ||
        traffic->size < 1 + traffic->cid_bytes + STAMP_BYTES || traffic->size > MAX_SIZE_BYTES ||
        traffic->burst > MAX_SEGMENTS || traffic->burst * traffic->size > MAX_BURST_BYTES) {
        fprintf(stderr, "load PORT FLOWS BACKENDS SIZE BURST there|back CIDS CID_BYTES\n");
        return 2;
    }
    open_all(&load, words);
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        double first = 0;
        unsigned long long datagrams = 0;
        if (sscanf(line, "closed %lf %llu", &first, &datagrams) == 2)
            run_closed(&load, (uint64_t)first, datagrams);
        else if (sscanf(line, "paced %lf %llu", &first, &datagrams) == 2)
            run_paced(&load, first, datagrams);
        else if (sscanf(line, "probe %lf", &first) == 1)
            run_probe(&load, (uint64_t)first);
        else
            return 2;
        report(&load);
    }
    return 0;
}
