// Graphs: what is sent to a captured stream becomes nodes, and a launch sends them again.
#include "soft.h"

#include <stdlib.h>
#include <string.h>

#define HANDLES_MAX 65536

typedef struct Executable {
    int alive;
    Op *ops;
    int count;
} Executable;

static Graph *graphs[HANDLES_MAX];
static Executable *executables[HANDLES_MAX];
static int graph_count, executable_count;

static Graph *graph_of(uint64_t handle) {
    for (int index = graph_count; index--;)
        if ((uintptr_t)graphs[index] == handle) return graphs[index]->alive ? graphs[index] : NULL;
    return NULL;
}

static Executable *executable_of(uint64_t handle) {
    for (int index = executable_count; index--;)
        if ((uintptr_t)executables[index] == handle)
            return executables[index]->alive ? executables[index] : NULL;
    return NULL;
}

Status soft_append(Graph *graph, const Op *op) {
    Node *node = calloc(1, sizeof *node);
    *node = (Node){.alive = 1, .op = *op, .graph = graph};
    if (graph->last) graph->last->next = node;
    else graph->first = node;
    graph->last = node;
    return SUCCESS;
}

// Modes 0 (global) and 2 (relaxed) are not for a process with two lanes: nothing here asks for them.
EXPORT Status cuStreamBeginCapture(uint64_t handle, int mode) {
    enum { THREAD_LOCAL = 1 };
    ENTER(IN_CONTEXT, handle, mode, 0, 0);
    Stream *stream = soft_stream(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    if (mode != THREAD_LOCAL || stream->captured || graph_count == HANDLES_MAX) LEAVE(INVALID_VALUE);
    stream->captured = calloc(1, sizeof *stream->captured);
    stream->captured_by = pthread_self();
    stream->capture_is_broken = 0;
    LEAVE(SUCCESS);
}

EXPORT Status cuStreamEndCapture(uint64_t handle, Graph **found) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Stream *stream = soft_stream(handle);
    *found = NULL;
    if (!stream) LEAVE(INVALID_HANDLE);
    if (!stream->captured) LEAVE(STREAM_CAPTURE_UNMATCHED);
    if (!pthread_equal(stream->captured_by, pthread_self())) LEAVE(STREAM_CAPTURE_WRONG_THREAD);
    Graph *graph = stream->captured;
    stream->captured = NULL;
    graphs[graph_count++] = graph;
    if (stream->capture_is_broken) LEAVE(STREAM_CAPTURE_INVALIDATED);
    graph->alive = 1;
    soft_living[GRAPHS]++;
    *found = graph;
    LEAVE(SUCCESS);
}

EXPORT Status cuGraphGetNodes(uint64_t handle, Node **nodes, size_t *count) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Graph *graph = graph_of(handle);
    if (!graph) LEAVE(INVALID_HANDLE);
    size_t number = 0;
    for (Node *node = graph->first; node; node = node->next)
        if (node->alive) {
            if (nodes && number < *count) nodes[number] = node;
            number++;
        }
    *count = number;
    LEAVE(SUCCESS);
}

EXPORT Status cuGraphNodeGetType(Node *node, int *kind) {
    ENTER(IN_CONTEXT, node, 0, 0, 0);
    *kind = node->op.kind;
    LEAVE(node->alive ? SUCCESS : INVALID_HANDLE);
}

EXPORT Status cuGraphDestroyNode(Node *node) {
    ENTER(IN_CONTEXT, node, 0, 0, 0);
    Status status = node->alive ? SUCCESS : INVALID_HANDLE;
    node->alive = 0;
    LEAVE(status);
}

EXPORT Status cuGraphDestroy(uint64_t handle) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Graph *graph = graph_of(handle);
    if (!graph) LEAVE(INVALID_HANDLE);
    graph->alive = 0;
    soft_living[GRAPHS]--;
    LEAVE(SUCCESS);
}

// An executable has what the graph had then: the graph may change or go afterwards.
EXPORT Status cuGraphInstantiateWithFlags(Executable **found, uint64_t handle, uint64_t flags) {
    ENTER(NOT_IN_CAPTURE, handle, flags, 0, 0);
    Graph *graph = graph_of(handle);
    if (!graph) LEAVE(INVALID_HANDLE);
    if (executable_count == HANDLES_MAX) LEAVE(OUT_OF_MEMORY);
    Executable *executable = calloc(1, sizeof *executable);
    executable->alive = 1;
    for (Node *node = graph->first; node; node = node->next) {
        if (!node->alive) continue;
        executable->ops =
            realloc(executable->ops, (executable->count + 1) * sizeof *executable->ops);
        executable->ops[executable->count++] = node->op;
    }
    executables[executable_count++] = *found = executable;
    soft_living[EXECUTABLES]++;
    LEAVE(SUCCESS);
}

EXPORT Status cuGraphUpload(uint64_t handle, uint64_t stream) {
    ENTER(IN_CONTEXT, handle, stream, 0, 0);
    LEAVE(executable_of(handle) && soft_stream(stream) ? SUCCESS : INVALID_HANDLE);
}

EXPORT Status cuGraphLaunch(uint64_t handle, uint64_t stream_handle) {
    ENTER(IN_CONTEXT, handle, stream_handle, 0, 0);
    Executable *executable = executable_of(handle);
    Stream *stream = soft_stream(stream_handle);
    if (!executable || !stream) LEAVE(INVALID_HANDLE);
    for (int index = 0; index < executable->count; index++) {
        const Op *op = &executable->ops[index];
        if (op->event && !op->event->alive) LEAVE(INVALID_HANDLE);
        soft_submit(stream, *op);
    }
    LEAVE(SUCCESS);
}

EXPORT Status cuGraphExecDestroy(uint64_t handle) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Executable *executable = executable_of(handle);
    if (!executable) LEAVE(INVALID_HANDLE);
    executable->alive = 0;
    free(executable->ops);
    executable->ops = NULL;
    soft_living[EXECUTABLES]--;
    LEAVE(SUCCESS);
}

void soft_reset_graphs(void) {
    for (int index = 0; index < graph_count; index++) {
        for (Node *node = graphs[index]->first; node;) {
            Node *next = node->next;
            free(node);
            node = next;
        }
        free(graphs[index]);
    }
    for (int index = 0; index < executable_count; index++) {
        free(executables[index]->ops);
        free(executables[index]);
    }
    graph_count = executable_count = 0;
}
