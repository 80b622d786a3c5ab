/* The table of sessions: the hash table, the two lists for eviction, and the local ports. sessions.h explains it.
 *
 * forward.c, session_sockets.c and ports.c call these functions, all on the thread of the loop. They open and close no
 * sockets.
 */
#include "sessions.h"

#include <stdlib.h>
#include <unistd.h>

#include "siphash.h"

/* Bounds on the work of one search: sessions that the clock hand skips before it returns the next one anyway, and
 * sessions that a search for a backend checks. */
#define QLB_HAND_STEPS 64
#define QLB_SEARCH_STEPS 4096

static uint32_t buckets_for(uint32_t limit)
{
    uint32_t buckets = 1;
    while (buckets < limit && buckets < 1u << 31)
        buckets *= 2;
    return buckets;
}

int qlb_sessions_init(struct qlb_sessions *sessions, uint32_t limit)
{
    *sessions = (struct qlb_sessions){.limit = limit, .bucket_mask = buckets_for(limit) - 1};
    if (getentropy(sessions->secret, sizeof sessions->secret) < 0)
        return -1;
    sessions->buckets = calloc((size_t)sessions->bucket_mask + 1, sizeof *sessions->buckets);
    sessions->ports = calloc(1, sizeof *sessions->ports);
    if (sessions->buckets && sessions->ports)
        return 0;
    qlb_sessions_free(sessions);
    return -1;
}

void qlb_sessions_free(struct qlb_sessions *sessions)
{
    qlb_sessions_free_closed(sessions);
    free(sessions->buckets);
    free(sessions->ports);
    sessions->buckets = NULL;
    sessions->ports = NULL;
}

static struct qlb_session **bucket_of(const struct qlb_sessions *sessions, const struct qlb_session_key *key)
{
    const uint32_t hash = qlb_siphash(sessions->secret, key, sizeof *key / 8);
    return &sessions->buckets[hash & sessions->bucket_mask];
}

struct qlb_session *qlb_session_find(const struct qlb_sessions *sessions, const struct qlb_session_key *key)
{
    struct qlb_session *session = *bucket_of(sessions, key);
    while (session && memcmp(&session->key, key, sizeof *key) != 0)
        session = session->next;
    return session;
}

/* Add a session to its list, as the newest. */
static void list(struct qlb_sessions *sessions, struct qlb_session *session)
{
    struct qlb_session_list *own = &sessions->lists[session->is_protected];
    session->older = own->newest;
    session->newer = NULL;
    *(own->newest ? &own->newest->newer : &own->oldest) = session;
    own->newest = session;
    own->count++;
}

static void unlist(struct qlb_sessions *sessions, struct qlb_session *session)
{
    struct qlb_session_list *own = &sessions->lists[session->is_protected];
    if (sessions->sweep == session)
        sessions->sweep = session->newer;
    *(session->older ? &session->older->newer : &own->oldest) = session->newer;
    *(session->newer ? &session->newer->older : &own->newest) = session->older;
    own->count--;
}

struct qlb_session *qlb_session_add(struct qlb_sessions *sessions, const struct qlb_session_key *key)
{
    struct qlb_session *session = aligned_alloc(_Alignof(struct qlb_session), sizeof *session);
    if (!session)
        return NULL;
    memset(session, 0, sizeof *session);
    struct qlb_session **bucket = bucket_of(sessions, key);
    session->watched = QLB_WATCHED_SESSION;
    session->key = *key;
    session->client_len = (uint8_t)qlb_endpoint_to(&key->client, &session->client);
    session->fd = -1;
    session->receives = 1;
    session->next = *bucket;
    *bucket = session;
    list(sessions, session);
    sessions->count++;
    return session;
}

static void release_port(struct qlb_ports *ports, struct qlb_session *session)
{
    struct qlb_session **link = &ports->first[session->port];
    while (*link != session)
        link = &(*link)->port_next;
    *link = session->port_next;
    if (!ports->first[session->port]) {
        const uint16_t last = ports->used[--ports->count];
        ports->index_of[last] = ports->index_of[session->port];
        ports->used[ports->index_of[last]] = last;
    }
}

void qlb_session_set_port(struct qlb_sessions *sessions, struct qlb_session *session, uint16_t port)
{
    struct qlb_ports *ports = sessions->ports;
    if (session->port)
        release_port(ports, session);
    session->port = 0;
    if (!port)
        return;
    if (!ports->first[port]) {
        ports->index_of[port] = (uint16_t)ports->count;
        ports->used[ports->count++] = port;
    }
    session->port = port;
    session->port_next = ports->first[port];
    ports->first[port] = session;
}

int qlb_session_use(struct qlb_sessions *sessions, struct qlb_session *session, uint64_t now_ns)
{
    session->renewed = session->last_used_ns != 0; /* a source that sent only one packet is evicted first */
    session->last_used_ns = now_ns;
    if (session->is_protected || now_ns - session->first_used_ns < QLB_PROTECT_AFTER_NS)
        return 0;
    unlist(sessions, session);
    session->is_protected = 1;
    list(sessions, session);
    return 1;
}

void qlb_session_remove(struct qlb_sessions *sessions, struct qlb_session *session)
{
    struct qlb_session **link = bucket_of(sessions, &session->key);
    while (*link != session)
        link = &(*link)->next;
    *link = session->next;
    if (session->port)
        release_port(sessions->ports, session);
    unlist(sessions, session);
    sessions->count--;
    session->next = sessions->closed;
    sessions->closed = session;
}

void qlb_sessions_free_closed(struct qlb_sessions *sessions)
{
    while (sessions->closed) {
        struct qlb_session *session = sessions->closed;
        sessions->closed = session->next;
        free(session);
    }
}

struct qlb_session *qlb_sessions_next_to_sweep(struct qlb_sessions *sessions)
{
    struct qlb_session *session = sessions->sweep;
    if (!session) {
        sessions->sweep_list ^= 1;
        session = sessions->lists[sessions->sweep_list].oldest;
    }
    sessions->sweep = session ? session->newer : NULL;
    return session;
}

struct qlb_session *qlb_session_any(const struct qlb_sessions *sessions)
{
    return sessions->lists[0].oldest ? sessions->lists[0].oldest : sessions->lists[1].oldest;
}

struct qlb_session *qlb_session_idlest(struct qlb_sessions *sessions)
{
    struct qlb_session_list *from = &sessions->lists[sessions->lists[0].count == 0];
    for (int i = 0; i < QLB_HAND_STEPS; i++) {
        struct qlb_session *session = from->oldest;
        if (!session || !session->renewed)
            return session;
        session->renewed = 0;
        unlist(sessions, session);
        list(sessions, session);
    }
    return from->oldest;
}

static struct qlb_session *idlest_of(const struct qlb_session_list *from, const struct qlb_endpoint *backend)
{
    struct qlb_session *found = NULL;
    uint32_t steps = 0;
    for (struct qlb_session *each = from->oldest; each && steps < QLB_SEARCH_STEPS; each = each->newer, steps++) {
        if (memcmp(&each->backend, backend, sizeof *backend) != 0)
            continue;
        if (!each->renewed)
            return each;
        if (!found || each->last_used_ns < found->last_used_ns)
            found = each;
    }
    return found;
}

struct qlb_session *qlb_session_idlest_to(struct qlb_sessions *sessions, const struct qlb_endpoint *backend)
{
    struct qlb_session *found = idlest_of(&sessions->lists[0], backend);
    return found ? found : idlest_of(&sessions->lists[1], backend);
}

int qlb_sessions_resize(struct qlb_sessions *sessions, uint32_t limit)
{
    const uint32_t mask = buckets_for(limit) - 1;
    if (mask != sessions->bucket_mask) {
        struct qlb_session **buckets = calloc((size_t)mask + 1, sizeof *buckets);
        if (!buckets)
            return -1;
        free(sessions->buckets);
        sessions->buckets = buckets;
        sessions->bucket_mask = mask;
        for (int i = 0; i < 2; i++) {
            for (struct qlb_session *each = sessions->lists[i].oldest; each; each = each->newer) {
                struct qlb_session **bucket = bucket_of(sessions, &each->key);
                each->next = *bucket;
                *bucket = each;
            }
        }
    }
    sessions->limit = limit;
    return 0;
}
