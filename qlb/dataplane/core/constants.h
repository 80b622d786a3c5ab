/* Generated from Python by `make generate` (lab/constants.py): do not edit.
 *
 * The named Python modules explain each constant.
 */
#ifndef QLB_CORE_CONSTANTS_H
#define QLB_CORE_CONSTANTS_H

/* Forms of a packet, and lengths of connection IDs (qlb/wire/invariants.py, qlb/wire/versions.py, qlb/cid/params.py). */
#define QLB_SHORT 0
#define QLB_LONG 1
#define QLB_EMPTY 2
#define QLB_TRUNCATED 3
#define QLB_MAX_CID_BYTES 255
#define QLB_MAX_PLAINTEXT_BYTES 19
#define QLB_RESERVED_CONFIG_ID 7
#define QLB_VERSION_2 0x6b3343cf

/* Keys of the flow tables (qlb/routing/flows.py). */
#define QLB_MIN_DESTINATION_ID_BYTES 8
#define QLB_FLOW_ID_BYTES 24

/* Reasons for an unroutable ID, forwarding steps, and outcomes (qlb/routing/outcomes.py). */
#define QLB_CONFIGS 7
#define QLB_NO_CONFIG 0
#define QLB_RESERVED_CONFIG 1
#define QLB_TOO_SHORT 2
#define QLB_LENGTH_MISMATCH 3
#define QLB_UNKNOWN_SERVER_ID 4
#define QLB_REASONS 5
#define QLB_BY_SOURCE_ID 0
#define QLB_BY_DESTINATION_ID 1
#define QLB_BY_FOUR_TUPLE 2
#define QLB_BY_FALLBACK 3
#define QLB_STEPS 4
#define QLB_DROP_EMPTY 27
#define QLB_DROP_TRUNCATED 28
#define QLB_DROP_VERSION_NEGOTIATION 29
#define QLB_DROP_NO_BACKEND 30
#define QLB_DROP_SEND_FAILED 31
#define QLB_DROP_NO_SESSION 32
#define QLB_DROP_WORKER_DIED 33
#define QLB_DROP_FRAGMENT 34
#define QLB_DROP_HOP_LIMIT 35
#define QLB_DROP_TOO_BIG 36
#define QLB_DROP_NO_ROUTE 37
#define QLB_DROP_NO_NEIGHBOUR 38
#define QLB_DROP_BAD_SOURCE 39
#define QLB_DROP_OVERLOAD 40
#define QLB_OUTCOMES 41

/* The table (qlb/dataplane/core/table.py, hash_table.py). */
#define QLB_TABLE_MAGIC 0x54424c51u
#define QLB_TABLE_VERSION 1u
#define QLB_TABLE_CONFIGS 8u
#define QLB_SERVER_PROBES 8u
#define QLB_MAX_SERVER_SLOTS 16777216u
#define QLB_NO_BACKEND 0xffffffffu
#define QLB_MAX_BACKENDS 65536u
#define QLB_PRESENT 1u
#define QLB_HEALTHY 2u
#define QLB_ACCEPTS_NEW 4u

/* Algorithms of a CID config, and key schedules (qlb/dataplane/core/table.py, key_schedule.py). */
#define QLB_NOT_CONFIGURED 0
#define QLB_PLAINTEXT 1
#define QLB_SINGLE_PASS 2
#define QLB_THREE_PASS 3
#define QLB_FOUR_PASS 4
#define QLB_AES_ROUNDS 10
#define QLB_AES_SCHEDULE_BYTES 176

/* Slots of the counters (qlb/routing/counters.py). */
#define QLB_SLOT_PACKETS_RECEIVED 0
#define QLB_SLOT_BYTES_RECEIVED 1
#define QLB_SLOT_SESSIONS 2
#define QLB_SLOT_SESSIONS_EVICTED 3
#define QLB_SLOT_RETURN_DROPPED 4
#define QLB_SLOT_RETURN_OVERFLOWED 5
#define QLB_SLOT_SEND_ERRORS 6
#define QLB_SLOT_SESSIONS_REOPENED 7
#define QLB_SLOT_SESSIONS_PROTECTED 8
#define QLB_SLOT_RETURN_PAUSES 9
#define QLB_SLOT_ICMP_FORWARDED 12
#define QLB_SLOT_ICMP_SENT 13
#define QLB_SLOT_HEARTBEAT_MS 14
#define QLB_SLOT_OUTCOME 16
#define QLB_SLOT_CONFIG_LAST_SEEN_MS 80
#define QLB_SLOT_UNCONFIGURED 88
#define QLB_SLOT_UNCONFIGURED_LAST_SEEN_MS 96
#define QLB_SLOT_UNKNOWN 104
#define QLB_SLOT_UNKNOWN_LAST_SEEN_MS 112
#define QLB_SLOT_WRONG_IDS 10
#define QLB_SLOT_BACKEND 120
#define QLB_BACKEND_SLOTS 24
#define QLB_BACKEND_RETURNED 3
#define QLB_BACKEND_LAST_SEEN_MS 4
#define QLB_BACKEND_TOO_LARGE_BYTES 5
#define QLB_BACKEND_FORWARDED_BYTES 6
#define QLB_BACKEND_RETURNED_BYTES 7
#define QLB_BACKEND_NEW_FLOWS 16
#define QLB_BACKEND_SEND_ERRORS 8
#define QLB_SAMPLE_SLOTS 10
#define QLB_SAMPLE_BYTES 64
#define QLB_SEND_ERROR_WOULD_BLOCK 0
#define QLB_SEND_ERROR_NO_BUFFERS 1
#define QLB_SEND_ERROR_REFUSED 2
#define QLB_SEND_ERROR_TOO_LARGE 3
#define QLB_SEND_ERROR_UNREACHABLE 4
#define QLB_SEND_ERROR_NOT_PERMITTED 5
#define QLB_SEND_ERROR_INVALID 6
#define QLB_SEND_ERROR_OTHER 7
#define QLB_SEND_ERROR_KINDS 8

/* Slots after those of the backends (qlb/routing/counters.py). */
#define QLB_SLOT_SAMPLE 1572984u
#define QLB_SLOT_RETURN_SEND_ERRORS 1573394u
#define QLB_SLOT_LATENCY 2097692u
#define QLB_LATENCY_BUCKETS 17u
#define QLB_LATENCY_SLOTS 18u
#define QLB_LATENCY_EVERY 64u
#define QLB_MAX_LATENCY_NS 0xdf8475800u
#define QLB_LATENCY_TO_BACKEND 0u
#define QLB_LATENCY_TO_CLIENT 1u
#define QLB_LATENCY_BOUNDS_US \
    {10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000}
#define QLB_SLOT_SHOWN 1573402u
#define QLB_SHOWN_SLOTS 8u
#define QLB_SHOWN_RIGHT 0u
#define QLB_SHOWN_WRONG 1u
#define QLB_SHOWN_UNROUTABLE 2u
#define QLB_SHOWN_UNKNOWN 3u
#define QLB_SHOWN_LENGTH 4u
#define QLB_SHOWN_ID 5u
#define QLB_SHOWN_ID_BYTES 24u
#define QLB_COUNTER_SLOTS 2097728u

/* The XDP plane (qlb/dataplane/xdp/layout.py, exits.py). */
#define QLB_MODE_L2 0u
#define QLB_MODE_IPIP 1u
#define QLB_MODE_GUE 2u
#define QLB_MEMO_PAGES 16u
#define QLB_MAX_EXITS 16384u

#endif
