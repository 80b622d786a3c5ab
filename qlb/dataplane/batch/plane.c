/* The Python class Forwarder: the batch plane.
 *
 * qlb/dataplane/batch/plane.py creates one in each worker. run() forwards without the GIL until another thread calls
 * stop(). apply() replaces the whole configuration between two packets, or raises and changes nothing. The loop itself
 * is in loop.c.
 */
#include "module.h"

#include <stdlib.h>

#include "forwarder.h"

typedef struct {
    PyObject_HEAD
    struct qlb_forwarder *forwarder; /* a null pointer before __init__() and after close() */
    Py_buffer counters;
    int running; /* run() has not returned yet; the GIL protects this field */
} Forwarder;

static struct qlb_forwarder *opened(PyObject *self)
{
    struct qlb_forwarder *forwarder = ((Forwarder *)self)->forwarder;
    if (!forwarder)
        PyErr_SetString(PyExc_ValueError, "this forwarder is closed");
    return forwarder;
}

static void shut(Forwarder *self)
{
    if (!self->forwarder)
        return;
    qlb_forwarder_close(self->forwarder);
    pthread_cond_destroy(&self->forwarder->taken);
    pthread_mutex_destroy(&self->forwarder->mutex);
    free(self->forwarder);
    self->forwarder = NULL;
    PyBuffer_Release(&self->counters);
}

/* Read descriptors from a list. Return 0, or -1 with an exception set. */
static int read_listeners(struct qlb_forwarder *forwarder, PyObject *descriptors)
{
    const Py_ssize_t count = PyList_Size(descriptors);
    if (count < 1 || count > QLB_MAX_LISTENERS) {
        PyErr_Format(PyExc_ValueError, "listeners: expected 1 to %d descriptors", QLB_MAX_LISTENERS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const long descriptor = PyLong_AsLong(PyList_GetItem(descriptors, i));
        if (descriptor == -1 && PyErr_Occurred())
            return -1;
        forwarder->listeners[i].watched = QLB_WATCHED_LISTENER;
        forwarder->listeners[i].fd = (int)descriptor;
    }
    forwarder->listeners_count = (uint32_t)count;
    return 0;
}

/* Read ports from a list, or a null pointer. Return 0, or -1 with an exception set. */
static int read_avoided(struct qlb_forwarder *forwarder, PyObject *ports)
{
    const Py_ssize_t count = ports ? PyList_Size(ports) : 0;
    if (count > QLB_AVOIDED_PORTS) {
        PyErr_Format(PyExc_ValueError, "avoided_ports: must be at most %d ports", QLB_AVOIDED_PORTS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const long port = PyLong_AsLong(PyList_GetItem(ports, i));
        if (port == -1 && PyErr_Occurred())
            return -1;
        forwarder->avoided_ports[forwarder->avoided_count++] = (uint16_t)port;
    }
    return 0;
}

static int forwarder_init(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"listeners", "counters", "offload", "avoided_ports", NULL};
    Forwarder *self = (Forwarder *)object;
    PyObject *descriptors, *avoided_ports = NULL;
    Py_buffer counters;
    int offload = 1;
    if (self->forwarder) {
        PyErr_SetString(PyExc_ValueError, "this forwarder is already open");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "Ow*|pO!", names, &descriptors, &counters, &offload, &PyList_Type,
                                     &avoided_ports))
        return -1;
    struct qlb_forwarder *forwarder = calloc(1, sizeof *forwarder);
    if (!forwarder) {
        PyBuffer_Release(&counters);
        PyErr_NoMemory();
        return -1;
    }
    forwarder->watched = QLB_WATCHED_WAKE;
    forwarder->epoll = forwarder->wake = -1;
    forwarder->gro = forwarder->gso = offload;
    forwarder->slots = counters.buf;
    pthread_mutex_init(&forwarder->mutex, NULL);
    pthread_cond_init(&forwarder->taken, NULL);
    self->forwarder = forwarder;
    self->counters = counters;
    if (counters.len < QLB_COUNTER_SLOTS * 8 || (uintptr_t)counters.buf % 8)
        PyErr_Format(PyExc_ValueError, "counters: expected %d octets, aligned to 8", QLB_COUNTER_SLOTS * 8);
    else if (read_listeners(forwarder, descriptors) == 0 && read_avoided(forwarder, avoided_ports) == 0 &&
             qlb_forwarder_open(forwarder) < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    if (!PyErr_Occurred())
        return 0;
    forwarder->listeners_count = 0; /* the caller still owns the descriptors */
    shut(self);
    return -1;
}

/* Read orders from apply()'s arguments. Return 0, or -1 with an exception set. */
static int read_orders(const struct qlb_forwarder *forwarder, PyObject *args, PyObject *keywords,
                       struct qlb_orders *orders)
{
    static char *names[] = {"table", "endpoints", "flow_table_size", "flow_timeout_ns", "max_sessions",
                            "session_timeout_ns", "gso_to_backends", "routable_timeout_ns", "max_ports", "dscp", NULL};
    Py_buffer table, endpoints;
    unsigned long flow_table_size;
    unsigned int max_sessions, max_ports = UINT32_MAX;
    unsigned long long flow_timeout_ns, session_timeout_ns, routable_timeout_ns = 0;
    orders->dscp = -1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y*y*kKIKp|KIi", names, &table, &endpoints, &flow_table_size,
                                     &flow_timeout_ns, &max_sessions, &session_timeout_ns, &orders->gso_to_backends,
                                     &routable_timeout_ns, &max_ports, &orders->dscp))
        return -1;
    orders->max_ports = max_ports;
    orders->routable_timeout_ns = routable_timeout_ns;
    const int64_t now_size = forwarder->decider.flow_memory ? (int64_t)forwarder->decider.flows.size : -1;
    orders->max_sessions = max_sessions;
    orders->session_timeout_ns = session_timeout_ns;
    if (max_sessions < 1) {
        PyErr_SetString(PyExc_ValueError, "max_sessions: must be 1 or more");
    } else if (qlb_decider_prepare(&orders->decider, &table, flow_table_size, flow_timeout_ns, now_size) == 0) {
        const size_t wanted = (size_t)orders->decider.table.view.head->backend_slots * sizeof *orders->endpoints;
        orders->endpoints = malloc(wanted + 1);
        if (!orders->endpoints)
            PyErr_NoMemory();
        else if ((size_t)endpoints.len != wanted)
            PyErr_Format(PyExc_ValueError, "endpoints: expected %zu octets for this table", wanted);
        else
            memcpy(orders->endpoints, endpoints.buf, wanted);
    }
    PyBuffer_Release(&table);
    PyBuffer_Release(&endpoints);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *forwarder_apply(PyObject *self, PyObject *args, PyObject *keywords)
{
    struct qlb_forwarder *forwarder = opened(self);
    struct qlb_orders orders = {.endpoints = NULL};
    if (!forwarder)
        return NULL;
    const int failed = read_orders(forwarder, args, keywords, &orders);
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        qlb_forwarder_submit(forwarder, &orders);
        Py_END_ALLOW_THREADS
    }
    qlb_decider_free(&orders.decider);
    free(orders.endpoints);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *forwarder_run(PyObject *object, PyObject *unused)
{
    (void)unused;
    Forwarder *self = (Forwarder *)object;
    struct qlb_forwarder *forwarder = opened(object);
    int error;
    if (!forwarder)
        return NULL;
    if (self->running || !forwarder->endpoints) {
        PyErr_SetString(PyExc_RuntimeError, "call run() after the first apply(), and only once at a time");
        return NULL;
    }
    self->running = 1;
    Py_BEGIN_ALLOW_THREADS
    error = qlb_forwarder_run(forwarder);
    Py_END_ALLOW_THREADS
    self->running = 0;
    if (!error)
        Py_RETURN_NONE;
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *forwarder_stop(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct qlb_forwarder *forwarder = opened(self);
    if (!forwarder)
        return NULL;
    qlb_forwarder_stop(forwarder);
    Py_RETURN_NONE;
}

static PyObject *forwarder_set_paused(PyObject *self, PyObject *paused)
{
    struct qlb_forwarder *forwarder = opened(self);
    const int is_paused = PyObject_IsTrue(paused);
    int error;
    if (!forwarder || is_paused < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = qlb_forwarder_pause(forwarder, is_paused);
    Py_END_ALLOW_THREADS
    if (!error)
        Py_RETURN_NONE;
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *forwarder_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    Forwarder *self = (Forwarder *)object;
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "call close() after run() has returned");
        return NULL;
    }
    shut(self);
    Py_RETURN_NONE;
}

static PyObject *forwarder_offloads(PyObject *self, PyObject *unused)
{
    (void)unused;
    const struct qlb_forwarder *forwarder = opened(self);
    return forwarder ? Py_BuildValue("NN", PyBool_FromLong(forwarder->gro), PyBool_FromLong(forwarder->gso)) : NULL;
}

static void forwarder_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    shut((Forwarder *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef forwarder_methods[] = {
    {"apply", (PyCFunction)(void (*)(void))forwarder_apply, METH_VARARGS | METH_KEYWORDS,
     "apply(table, endpoints, flow_table_size, flow_timeout_ns, max_sessions, session_timeout_ns, gso_to_backends, "
     "routable_timeout_ns=0, max_ports=no limit, dscp=-1): replace all of it between two packets, then return; do not "
     "call it from several threads at once"},
    {"run", forwarder_run, METH_NOARGS, "run(): forward without the GIL until stop()"},
    {"stop", forwarder_stop, METH_NOARGS, "stop(): make run() return, from any thread; sessions stay open"},
    {"set_paused", forwarder_set_paused, METH_O,
     "set_paused(paused): pause reading from clients, or resume it; replies continue; returns when it has taken effect"},
    {"close", forwarder_close, METH_NOARGS, "close(): close sessions and listeners"},
    {"offloads", forwarder_offloads, METH_NOARGS, "offloads() -> (UDP GRO is in use, UDP GSO is in use)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot forwarder_slots[] = {
    {Py_tp_doc, "Forwarder(listeners, counters, offload=True, avoided_ports=[]): the batch plane; it owns the "
                "descriptors, writes the counters, and its sessions avoid these local ports if possible"},
    {Py_tp_init, (void *)forwarder_init},
    {Py_tp_dealloc, (void *)forwarder_dealloc},
    {Py_tp_methods, forwarder_methods},
    {0, NULL},
};

PyType_Spec qlb_forwarder_spec = {
    .name = "qlb.dataplane._core.Forwarder",
    .basicsize = sizeof(Forwarder),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = forwarder_slots,
};
