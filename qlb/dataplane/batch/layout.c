/* Generated from Python by `make generate` (lab/constants.py): do not edit.
 *
 * The compiler stops here if a struct differs from the layout that Python packs and unpacks.
 */
#include <stddef.h>

#include "../core/route.h"
#include "../xdp/layout.h"
#include "addresses.h"
#include "flat.h"
#include "flows.h"

_Static_assert(sizeof(struct qlb_head) == 240, "qlb_head");
_Static_assert(offsetof(struct qlb_head, magic) == 0, "qlb_head.magic");
_Static_assert(offsetof(struct qlb_head, version) == 4, "qlb_head.version");
_Static_assert(offsetof(struct qlb_head, generation) == 8, "qlb_head.generation");
_Static_assert(offsetof(struct qlb_head, size_bytes) == 16, "qlb_head.size_bytes");
_Static_assert(offsetof(struct qlb_head, configs_at) == 20, "qlb_head.configs_at");
_Static_assert(offsetof(struct qlb_head, servers_at) == 24, "qlb_head.servers_at");
_Static_assert(offsetof(struct qlb_head, backends_at) == 28, "qlb_head.backends_at");
_Static_assert(offsetof(struct qlb_head, ring_at) == 32, "qlb_head.ring_at");
_Static_assert(offsetof(struct qlb_head, server_slots) == 36, "qlb_head.server_slots");
_Static_assert(offsetof(struct qlb_head, backend_slots) == 40, "qlb_head.backend_slots");
_Static_assert(offsetof(struct qlb_head, ring_slots) == 44, "qlb_head.ring_slots");
_Static_assert(offsetof(struct qlb_head, server_seed) == 48, "qlb_head.server_seed");
_Static_assert(offsetof(struct qlb_head, unused) == 56, "qlb_head.unused");
_Static_assert(offsetof(struct qlb_head, hash_schedule) == 64, "qlb_head.hash_schedule");

_Static_assert(sizeof(struct qlb_config) == 408, "qlb_config");
_Static_assert(offsetof(struct qlb_config, algorithm) == 0, "qlb_config.algorithm");
_Static_assert(offsetof(struct qlb_config, server_id_len) == 1, "qlb_config.server_id_len");
_Static_assert(offsetof(struct qlb_config, nonce_len) == 2, "qlb_config.nonce_len");
_Static_assert(offsetof(struct qlb_config, length_self_encoded) == 3, "qlb_config.length_self_encoded");
_Static_assert(offsetof(struct qlb_config, unused) == 4, "qlb_config.unused");
_Static_assert(offsetof(struct qlb_config, server_id_mask) == 8, "qlb_config.server_id_mask");
_Static_assert(offsetof(struct qlb_config, left_mask) == 24, "qlb_config.left_mask");
_Static_assert(offsetof(struct qlb_config, right_mask) == 40, "qlb_config.right_mask");
_Static_assert(offsetof(struct qlb_config, encrypt_schedule) == 56, "qlb_config.encrypt_schedule");
_Static_assert(offsetof(struct qlb_config, decrypt_schedule) == 232, "qlb_config.decrypt_schedule");

_Static_assert(sizeof(struct qlb_server) == 24, "qlb_server");
_Static_assert(offsetof(struct qlb_server, low) == 0, "qlb_server.low");
_Static_assert(offsetof(struct qlb_server, high) == 8, "qlb_server.high");
_Static_assert(offsetof(struct qlb_server, index) == 16, "qlb_server.index");
_Static_assert(offsetof(struct qlb_server, unused) == 20, "qlb_server.unused");

_Static_assert(sizeof(struct qlb_endpoint) == 24, "qlb_endpoint");
_Static_assert(offsetof(struct qlb_endpoint, host) == 0, "qlb_endpoint.host");
_Static_assert(offsetof(struct qlb_endpoint, port) == 16, "qlb_endpoint.port");
_Static_assert(offsetof(struct qlb_endpoint, family) == 18, "qlb_endpoint.family");
_Static_assert(offsetof(struct qlb_endpoint, unused) == 19, "qlb_endpoint.unused");
_Static_assert(offsetof(struct qlb_endpoint, scope_id) == 20, "qlb_endpoint.scope_id");

_Static_assert(sizeof(struct qlb_settings) == 40, "qlb_settings");
_Static_assert(offsetof(struct qlb_settings, mode) == 0, "qlb_settings.mode");
_Static_assert(offsetof(struct qlb_settings, gue_port) == 4, "qlb_settings.gue_port");
_Static_assert(offsetof(struct qlb_settings, service_slots) == 8, "qlb_settings.service_slots");
_Static_assert(offsetof(struct qlb_settings, hop_ticks) == 12, "qlb_settings.hop_ticks");
_Static_assert(offsetof(struct qlb_settings, service_seed) == 16, "qlb_settings.service_seed");
_Static_assert(offsetof(struct qlb_settings, service_ports) == 24, "qlb_settings.service_ports");
_Static_assert(offsetof(struct qlb_settings, redirect_only) == 32, "qlb_settings.redirect_only");
_Static_assert(offsetof(struct qlb_settings, unused) == 36, "qlb_settings.unused");

_Static_assert(sizeof(struct qlb_generation) == 264, "qlb_generation");
_Static_assert(offsetof(struct qlb_generation, head) == 0, "qlb_generation.head");
_Static_assert(offsetof(struct qlb_generation, flow_timeout_ticks) == 240, "qlb_generation.flow_timeout_ticks");
_Static_assert(offsetof(struct qlb_generation, number) == 248, "qlb_generation.number");
_Static_assert(offsetof(struct qlb_generation, unused) == 256, "qlb_generation.unused");

_Static_assert(sizeof(struct qlb_destination) == 40, "qlb_destination");
_Static_assert(offsetof(struct qlb_destination, flags) == 0, "qlb_destination.flags");
_Static_assert(offsetof(struct qlb_destination, is_ipv6) == 4, "qlb_destination.is_ipv6");
_Static_assert(offsetof(struct qlb_destination, unused) == 5, "qlb_destination.unused");
_Static_assert(offsetof(struct qlb_destination, address) == 8, "qlb_destination.address");
_Static_assert(offsetof(struct qlb_destination, source) == 24, "qlb_destination.source");

_Static_assert(sizeof(struct qlb_backend) == 80, "qlb_backend");
_Static_assert(offsetof(struct qlb_backend, forwarded) == 0, "qlb_backend.forwarded");
_Static_assert(offsetof(struct qlb_backend, forwarded_bytes) == 24, "qlb_backend.forwarded_bytes");
_Static_assert(offsetof(struct qlb_backend, new_flows) == 32, "qlb_backend.new_flows");
_Static_assert(offsetof(struct qlb_backend, last_seen) == 40, "qlb_backend.last_seen");
_Static_assert(offsetof(struct qlb_backend, hop_expires) == 48, "qlb_backend.hop_expires");
_Static_assert(offsetof(struct qlb_backend, hop_number) == 52, "qlb_backend.hop_number");
_Static_assert(offsetof(struct qlb_backend, hop_ingress) == 56, "qlb_backend.hop_ingress");
_Static_assert(offsetof(struct qlb_backend, hop_interface) == 60, "qlb_backend.hop_interface");
_Static_assert(offsetof(struct qlb_backend, hop_macs) == 64, "qlb_backend.hop_macs");
_Static_assert(offsetof(struct qlb_backend, hop_mtu) == 76, "qlb_backend.hop_mtu");
_Static_assert(offsetof(struct qlb_backend, hop_vlan) == 78, "qlb_backend.hop_vlan");

_Static_assert(sizeof(struct qlb_service) == 24, "qlb_service");
_Static_assert(offsetof(struct qlb_service, low) == 0, "qlb_service.low");
_Static_assert(offsetof(struct qlb_service, high) == 8, "qlb_service.high");
_Static_assert(offsetof(struct qlb_service, port) == 16, "qlb_service.port");

_Static_assert(sizeof(struct qlb_question) == 32, "qlb_question");
_Static_assert(offsetof(struct qlb_question, now) == 0, "qlb_question.now");
_Static_assert(offsetof(struct qlb_question, remember) == 8, "qlb_question.remember");
_Static_assert(offsetof(struct qlb_question, decision) == 12, "qlb_question.decision");
_Static_assert(offsetof(struct qlb_question, outcome) == 16, "qlb_question.outcome");
_Static_assert(offsetof(struct qlb_question, backend) == 20, "qlb_question.backend");
_Static_assert(offsetof(struct qlb_question, interface) == 24, "qlb_question.interface");
_Static_assert(offsetof(struct qlb_question, unused) == 28, "qlb_question.unused");

_Static_assert(sizeof(struct qlb_exit_key) == 16, "qlb_exit_key");
_Static_assert(offsetof(struct qlb_exit_key, ingress) == 0, "qlb_exit_key.ingress");
_Static_assert(offsetof(struct qlb_exit_key, interface) == 4, "qlb_exit_key.interface");
_Static_assert(offsetof(struct qlb_exit_key, mac) == 8, "qlb_exit_key.mac");
_Static_assert(offsetof(struct qlb_exit_key, unused) == 14, "qlb_exit_key.unused");

_Static_assert(sizeof(struct qlb_exit) == 8, "qlb_exit");
_Static_assert(offsetof(struct qlb_exit, interface) == 0, "qlb_exit.interface");
_Static_assert(offsetof(struct qlb_exit, vlan) == 4, "qlb_exit.vlan");

/* Keys that are compared octet by octet have no padding. */
_Static_assert(sizeof(struct qlb_four_tuple) == 40, "qlb_four_tuple");
_Static_assert(sizeof(struct qlb_flow_id) == 32, "qlb_flow_id");
_Static_assert(sizeof(struct qlb_flow_source) == 72, "qlb_flow_source");
_Static_assert(sizeof(struct qlb_flow) == 96, "qlb_flow");

_Static_assert(QLB_MAX_RING_SLOTS >= 1048583, "the largest ring fits");
