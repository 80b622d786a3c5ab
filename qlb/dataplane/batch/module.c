/* The extension module qlb.dataplane._core: the C core for Python.
 *
 * It is optional: without it, the package runs on the asyncio plane. It uses the limited API, so one build works with
 * every CPython from 3.11 on. The functions in this file are for tests and for use by hand. The packet path is the
 * class Forwarder; the class Router makes the same decisions without sockets. No function reads beyond its arguments: a
 * wrong size raises ValueError.
 */
#include "module.h"

#include <stdlib.h>
#include <string.h>

#include "../core/route.h"
#include "flows.h"

int qlb_table_copy(struct qlb_table *table, const Py_buffer *octets)
{
    void *memory = malloc((size_t)octets->len + 1);
    if (!memory) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(memory, octets->buf, (size_t)octets->len);
    const char *problem = qlb_view_open(&table->view, memory, (uint64_t)octets->len);
    if (problem) {
        free(memory);
        PyErr_Format(PyExc_ValueError, "not a valid table for this core (%zd octets): %s", octets->len, problem);
        return -1;
    }
    table->memory = memory;
    return 0;
}

void qlb_table_free(struct qlb_table *table)
{
    free(table->memory);
    table->memory = NULL;
}

/* Run one block through AES, by instructions if the caller asks for `native`, else by tables. */
static PyObject *aes(PyObject *args, int (*by_table)(const struct qlb_schedule *, struct qlb_block *),
                     int (*by_instructions)(const struct qlb_schedule *, struct qlb_block *))
{
    Py_buffer schedule, octets;
    int native = 0;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*|p", &schedule, &octets, &native))
        return NULL;
    if (schedule.len != QLB_AES_SCHEDULE_BYTES || octets.len != 16) {
        PyErr_SetString(PyExc_ValueError, "expected 176 octets of round keys and a block of 16 octets");
    } else if (native && !qlb_aes_native_probe()) {
        PyErr_SetString(PyExc_ValueError, "this CPU has no AES instructions that the core can use");
    } else {
        const uint8_t *in = octets.buf;
        struct qlb_block block = {qlb_load64(in), qlb_load64(in + 8)};
        (native ? by_instructions : by_table)(schedule.buf, &block);
        uint8_t out[16];
        for (int i = 0; i < 16; i++)
            out[i] = (uint8_t)((i < 8 ? block.low : block.high) >> (8 * (i & 7)));
        result = PyBytes_FromStringAndSize((const char *)out, sizeof out);
    }
    PyBuffer_Release(&schedule);
    PyBuffer_Release(&octets);
    return result;
}

static PyObject *aes_encrypt(PyObject *module, PyObject *args)
{
    (void)module;
    return aes(args, qlb_aes_table_encrypt, qlb_aes_native_encrypt);
}

static PyObject *aes_decrypt(PyObject *module, PyObject *args)
{
    (void)module;
    return aes(args, qlb_aes_table_decrypt, qlb_aes_native_decrypt);
}

static PyObject *has_native_aes(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyBool_FromLong(qlb_aes_native_probe());
}

static PyObject *parse(PyObject *module, PyObject *datagram)
{
    (void)module;
    Py_buffer octets;
    if (PyObject_GetBuffer(datagram, &octets, PyBUF_SIMPLE) < 0)
        return NULL;
    const uint8_t *data = octets.buf;
    const struct qlb_header header = qlb_parse(data, data + octets.len);
    PyObject *result = Py_BuildValue("IIy#y#", header.form, header.version, (const char *)header.dcid,
                                     (Py_ssize_t)header.dcid_len, (const char *)header.scid,
                                     (Py_ssize_t)header.scid_len);
    PyBuffer_Release(&octets);
    return result;
}

/* Return the server ID of a connection ID, or None if the ID is too short or the table does not have the CID config. */
static PyObject *decoded(const struct qlb_view *view, unsigned int config_id, const Py_buffer *cid)
{
    const struct qlb_config *config = qlb_config_at(view, config_id);
    const uint8_t *octets = cid->buf;
    if (config->algorithm == QLB_NOT_CONFIGURED || cid->len < 1 + config->server_id_len + config->nonce_len)
        Py_RETURN_NONE;
    const struct qlb_wire_block wire = qlb_read_block(octets, octets + cid->len);
    const struct qlb_block server_id = qlb_decode(view, config, &wire);
    uint8_t out[16];
    for (int i = 0; i < 16; i++)
        out[i] = (uint8_t)((i < 8 ? server_id.low : server_id.high) >> (8 * (i & 7)));
    return PyBytes_FromStringAndSize((const char *)out, config->server_id_len);
}

static PyObject *decode(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer octets, cid;
    unsigned int config_id;
    int native = 1;
    struct qlb_table table = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*Iy*|p", &octets, &config_id, &cid, &native))
        return NULL;
    if (qlb_table_copy(&table, &octets) == 0) {
        table.view.aes_native &= native;
        result = decoded(&table.view, config_id, &cid);
        qlb_table_free(&table);
    }
    PyBuffer_Release(&octets);
    PyBuffer_Release(&cid);
    return result;
}

static PyMethodDef functions[] = {
    {"has_native_aes", has_native_aes, METH_NOARGS, "has_native_aes() -> True if the core can use this CPU's AES"},
    {"aes_encrypt", aes_encrypt, METH_VARARGS, "aes_encrypt(schedule, block, native=False) -> block"},
    {"aes_decrypt", aes_decrypt, METH_VARARGS, "aes_decrypt(schedule, block, native=False) -> block"},
    {"parse", parse, METH_O, "parse(datagram) -> (form, version, dcid, scid)"},
    {"decode", decode, METH_VARARGS, "decode(table, config_id, cid, native=True) -> server ID, or None if too short"},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (!type)
        return -1;
    const int failed = PyModule_AddObjectRef(module, name, type);
    Py_DECREF(type);
    return failed;
}

static int fill(PyObject *module)
{
#ifdef __linux__
    if (add_type(module, "Forwarder", &qlb_forwarder_spec) < 0)
        return -1;
#endif
    return add_type(module, "Router", &qlb_router_spec);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)fill},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "qlb.dataplane._core",
    .m_doc = "The C core: parse, decode and route datagrams by a compiled table.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
