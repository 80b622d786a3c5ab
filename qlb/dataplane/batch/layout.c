/* Tell Python what the compiler made of the structs and constants that the two write down separately. */
#include "module.h"

#include <stddef.h>

#include "../core/route.h"
#include "addresses.h"
#include "counters.h"
#include "flows.h"

struct qlb_named {
    const char *name;
    size_t value;
};

#define SIZE(type) {#type, sizeof(struct type)}
#define FIELD(type, field) {#type "." #field, offsetof(struct type, field)}
#define CONSTANT(name) {#name, (size_t)(name)}

static const struct qlb_named qlb_names[] = {
    SIZE(qlb_head),
    FIELD(qlb_head, magic),
    FIELD(qlb_head, version),
    FIELD(qlb_head, generation),
    FIELD(qlb_head, size_bytes),
    FIELD(qlb_head, configs_at),
    FIELD(qlb_head, servers_at),
    FIELD(qlb_head, backends_at),
    FIELD(qlb_head, ring_at),
    FIELD(qlb_head, server_slots),
    FIELD(qlb_head, backend_slots),
    FIELD(qlb_head, ring_slots),
    FIELD(qlb_head, server_seed),
    FIELD(qlb_head, unused),
    FIELD(qlb_head, hash_schedule),
    SIZE(qlb_config),
    FIELD(qlb_config, algorithm),
    FIELD(qlb_config, server_id_len),
    FIELD(qlb_config, nonce_len),
    FIELD(qlb_config, length_self_encoded),
    FIELD(qlb_config, unused),
    FIELD(qlb_config, server_id_mask),
    FIELD(qlb_config, left_mask),
    FIELD(qlb_config, right_mask),
    FIELD(qlb_config, encrypt_schedule),
    FIELD(qlb_config, decrypt_schedule),
    SIZE(qlb_server),
    FIELD(qlb_server, low),
    FIELD(qlb_server, high),
    FIELD(qlb_server, index),
    FIELD(qlb_server, unused),
    SIZE(qlb_four_tuple),
    SIZE(qlb_flow_id),
    SIZE(qlb_flow_source),
    SIZE(qlb_flow),
    SIZE(qlb_endpoint),
    FIELD(qlb_endpoint, host),
    FIELD(qlb_endpoint, port),
    FIELD(qlb_endpoint, family),
    FIELD(qlb_endpoint, unused),
    FIELD(qlb_endpoint, scope_id),
    CONSTANT(QLB_TABLE_MAGIC),
    CONSTANT(QLB_TABLE_VERSION),
    CONSTANT(QLB_TABLE_CONFIGS),
    CONSTANT(QLB_AES_SCHEDULE_BYTES),
    CONSTANT(QLB_SERVER_PROBES),
    CONSTANT(QLB_NOBODY),
    CONSTANT(QLB_MAX_BACKENDS),
    CONSTANT(QLB_MAX_RING_SLOTS),
    CONSTANT(QLB_MAX_SERVER_SLOTS),
    CONSTANT(QLB_NOT_CONFIGURED),
    CONSTANT(QLB_PLAINTEXT),
    CONSTANT(QLB_SINGLE_PASS),
    CONSTANT(QLB_THREE_PASS),
    CONSTANT(QLB_FOUR_PASS),
    CONSTANT(QLB_PRESENT),
    CONSTANT(QLB_HEALTHY),
    CONSTANT(QLB_ACCEPTS_NEW),
    CONSTANT(QLB_SHORT),
    CONSTANT(QLB_LONG),
    CONSTANT(QLB_EMPTY),
    CONSTANT(QLB_TRUNCATED),
    CONSTANT(QLB_MAX_CID_BYTES),
    CONSTANT(QLB_MAX_PLAINTEXT_BYTES),
    CONSTANT(QLB_FLOW_ID_BYTES),
    CONSTANT(QLB_MIN_DESTINATION_ID_BYTES),
    CONSTANT(QLB_CONFIGS),
    CONSTANT(QLB_RESERVED_CONFIG_ID),
    CONSTANT(QLB_NO_CONFIG),
    CONSTANT(QLB_RESERVED_CONFIG),
    CONSTANT(QLB_TOO_SHORT),
    CONSTANT(QLB_LENGTH_MISMATCH),
    CONSTANT(QLB_UNKNOWN_SERVER_ID),
    CONSTANT(QLB_REASONS),
    CONSTANT(QLB_BY_SOURCE_ID),
    CONSTANT(QLB_BY_DESTINATION_ID),
    CONSTANT(QLB_BY_FOUR_TUPLE),
    CONSTANT(QLB_BY_FALLBACK),
    CONSTANT(QLB_STEPS),
    CONSTANT(QLB_DROP_EMPTY),
    CONSTANT(QLB_DROP_TRUNCATED),
    CONSTANT(QLB_DROP_VERSION_NEGOTIATION),
    CONSTANT(QLB_DROP_NO_BACKEND),
    CONSTANT(QLB_DROP_SEND_FAILED),
    CONSTANT(QLB_DROP_NO_SESSION),
    CONSTANT(QLB_DROP_WORKER_DIED),
    CONSTANT(QLB_OUTCOMES),
    CONSTANT(QLB_SLOT_PACKETS_RECEIVED),
    CONSTANT(QLB_SLOT_BYTES_RECEIVED),
    CONSTANT(QLB_SLOT_SESSIONS),
    CONSTANT(QLB_SLOT_SESSIONS_EVICTED),
    CONSTANT(QLB_SLOT_RETURN_DROPPED),
    CONSTANT(QLB_SLOT_RETURN_OVERFLOWED),
    CONSTANT(QLB_SLOT_SEND_ERRORS),
    CONSTANT(QLB_SEND_ERROR_WOULD_BLOCK),
    CONSTANT(QLB_SEND_ERROR_NO_BUFFERS),
    CONSTANT(QLB_SEND_ERROR_REFUSED),
    CONSTANT(QLB_SEND_ERROR_TOO_LARGE),
    CONSTANT(QLB_SEND_ERROR_UNREACHABLE),
    CONSTANT(QLB_SEND_ERROR_OTHER),
    CONSTANT(QLB_SEND_ERROR_KINDS),
    CONSTANT(QLB_SLOT_OUTCOME),
    CONSTANT(QLB_SLOT_CONFIG_LAST_SEEN_MS),
    CONSTANT(QLB_SLOT_BACKEND),
    CONSTANT(QLB_BACKEND_SLOTS),
    CONSTANT(QLB_BACKEND_RETURNED),
    CONSTANT(QLB_BACKEND_LAST_SEEN_MS),
    CONSTANT(QLB_SLOT_SAMPLE),
    CONSTANT(QLB_SAMPLE_SLOTS),
    CONSTANT(QLB_SAMPLE_BYTES),
    CONSTANT(QLB_COUNTER_SLOTS),
};

PyObject *qlb_layout(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *layout = PyDict_New();
    for (size_t i = 0; layout && i < sizeof qlb_names / sizeof *qlb_names; i++) {
        PyObject *value = PyLong_FromSize_t(qlb_names[i].value);
        if (!value || PyDict_SetItemString(layout, qlb_names[i].name, value) < 0)
            Py_CLEAR(layout);
        Py_XDECREF(value);
    }
    return layout;
}
