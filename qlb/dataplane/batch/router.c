/* The Python class Router: a table, three flow tables, and decide(), which decides as the batch plane does, without
 * sockets.
 *
 * Tests compare it with qlb.routing.router; the daemon does not use it. decide() returns one decision for each datagram
 * and 4-tuple. A call never releases the GIL, and a failed apply() changes nothing.
 */
#include "module.h"

#include <arpa/inet.h>
#include <string.h>

#include "../core/route.h"
#include "decider.h"

typedef struct {
    PyObject_HEAD
    struct qlb_decider decider;
} Router;

/* Replace the table and the bounds; the flow tables' entries stay. Return 0, or -1 with nothing changed. */
static int take(Router *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"table", "flow_table_size", "flow_timeout_ns", "native", NULL};
    Py_buffer octets;
    unsigned long size;
    unsigned long long timeout_ns;
    int native = 1;
    struct qlb_decider next;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y*kK|p", names, &octets, &size, &timeout_ns, &native))
        return -1;
    const int64_t now_size = self->decider.flow_memory ? (int64_t)self->decider.flows.size : -1;
    const int failed = qlb_decider_prepare(&next, &octets, size, timeout_ns, now_size);
    PyBuffer_Release(&octets);
    if (failed)
        return -1;
    next.table.view.aes_native &= native;
    struct qlb_decider old = qlb_decider_adopt(&self->decider, &next);
    qlb_decider_free(&old);
    return 0;
}

static int router_init(PyObject *self, PyObject *args, PyObject *keywords)
{
    return take((Router *)self, args, keywords);
}

static PyObject *router_apply(PyObject *self, PyObject *args, PyObject *keywords)
{
    if (take((Router *)self, args, keywords) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Write an IP literal as 16 octets. Return 0, or -1 with ValueError set. */
static int address(const char *host, uint8_t out[16])
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    memcpy(out, mapped, sizeof mapped);
    if (inet_pton(AF_INET, host, out + 12) == 1 || inet_pton(AF_INET6, host, out) == 1)
        return 0;
    PyErr_Format(PyExc_ValueError, "not an IP address: %s", host);
    return -1;
}

/* Decide one (datagram, four_tuple, now_ns). Return (outcome, index), or NULL with an exception set. */
static PyObject *decide_one(Router *self, PyObject *item)
{
    Py_buffer datagram;
    const char *client, *service;
    unsigned short client_port, service_port;
    unsigned long long now_ns;
    struct qlb_four_tuple four_tuple = {.unused = {0}};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(item, "y*(sHsH)K", &datagram, &client, &client_port, &service, &service_port, &now_ns))
        return NULL;
    if (address(client, four_tuple.client) == 0 && address(service, four_tuple.service) == 0) {
        const uint16_t ports[2] = {htons(client_port), htons(service_port)};
        memcpy(four_tuple.ports, ports, sizeof ports);
        const uint8_t *data = datagram.buf;
        const struct qlb_decision decision =
            qlb_decide(&self->decider.table.view, &self->decider.flows, data, data + datagram.len, &four_tuple, now_ns);
        result = Py_BuildValue("Ii", decision.outcome, decision.index);
    }
    PyBuffer_Release(&datagram);
    return result;
}

static PyObject *router_decide(PyObject *self, PyObject *batch)
{
    if (!((Router *)self)->decider.table.memory || !PyList_Check(batch)) {
        PyErr_SetString(PyExc_TypeError, "decide() needs a list of (datagram, four_tuple, now_ns), after __init__()");
        return NULL;
    }
    PyObject *decisions = PyList_New(0);
    for (Py_ssize_t i = 0; decisions && i < PyList_Size(batch); i++) {
        PyObject *item = PyList_GetItem(batch, i);
        Py_INCREF(item);
        PyObject *decision = decide_one((Router *)self, item);
        Py_DECREF(item);
        if (!decision || PyList_Append(decisions, decision) < 0)
            Py_CLEAR(decisions);
        Py_XDECREF(decision);
    }
    return decisions;
}

static PyObject *router_flows(PyObject *self, PyObject *unused)
{
    (void)unused;
    const struct qlb_flow_table *tables = ((Router *)self)->decider.flows.tables;
    return Py_BuildValue("III", tables[QLB_FLOWS_BY_SOURCE_ID].count, tables[QLB_FLOWS_BY_DESTINATION_ID].count,
                         tables[QLB_FLOWS_BY_FOUR_TUPLE].count);
}

static void router_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    qlb_decider_free(&((Router *)self)->decider);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef router_methods[] = {
    {"apply", (PyCFunction)(void (*)(void))router_apply, METH_VARARGS | METH_KEYWORDS,
     "apply(table, flow_table_size, flow_timeout_ns, native=True): replace the table; the flows stay"},
    {"decide", router_decide, METH_O, "decide([(datagram, four_tuple, now_ns)]) -> [(outcome, backend index)]"},
    {"flows", router_flows, METH_NOARGS, "flows() -> number of entries of each flow table, expired ones included"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot router_slots[] = {
    {Py_tp_doc, "Router(table, flow_table_size, flow_timeout_ns, native=True): the C twin of qlb.routing.router"},
    {Py_tp_init, (void *)router_init},
    {Py_tp_dealloc, (void *)router_dealloc},
    {Py_tp_methods, router_methods},
    {0, NULL},
};

PyType_Spec qlb_router_spec = {
    .name = "qlb.dataplane._core.Router",
    .basicsize = sizeof(Router),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = router_slots,
};
