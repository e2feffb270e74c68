// Streams and events: each stream is a thread, so that work ends later than the call that sent it.
#include "soft.h"

#include <stdlib.h>
#include <string.h>

#define HANDLES_MAX 65536

// Handles of what was destroyed are never given out again, so that their use is seen.
static Stream *streams[HANDLES_MAX];
static Event *events[HANDLES_MAX];
static int stream_count, event_count;
static uint64_t submitted_count;
Op *soft_submitted;  // oldest first
static Op *newest;

Stream *soft_stream(uint64_t handle) {
    for (int index = stream_count; index--;)
        if ((uintptr_t)streams[index] == handle) return streams[index]->alive ? streams[index] : NULL;
    return NULL;
}

Event *soft_event(uint64_t handle) {
    for (int index = event_count; index--;)
        if ((uintptr_t)events[index] == handle) return events[index]->alive ? events[index] : NULL;
    return NULL;
}

static void forget(Op *op) {
    if (op->before) op->before->behind = op->behind;
    else soft_submitted = op->behind;
    if (op->behind) op->behind->before = op->before;
    else newest = op->before;
    free(op->touches);
    free(op);
}

static void *serve(void *argument) {
    Stream *stream = argument;
    pthread_mutex_lock(&soft_lock);
    for (;;) {
        while ((!stream->first && !stream->closing) || (soft_is_stalled && !stream->closing))
            pthread_cond_wait(&soft_changed, &soft_lock);
        Op *op = stream->first;
        if (!op) break;
        // After a fault nothing runs any more, and no event happens.
        if (!soft_sticky && !soft_is_stalled) soft_run(op);
        stream->first = op->next;
        if (!stream->first) stream->last = NULL;
        forget(op);
        pthread_cond_broadcast(&soft_changed);
    }
    pthread_mutex_unlock(&soft_lock);
    return NULL;
}

// Whether all that is before an op in its stream is on its way to the copy engine already.
static int is_ready_for_the_engine(const Stream *stream) {
    for (const Op *op = stream->first; op; op = op->next)
        if (op->kind != RECORD && !op->ticket) return 0;
    return 1;
}

Status soft_submit(Stream *stream, Op op) {
    if (stream->captured) return soft_append(stream->captured, &op);
    Op *own = malloc(sizeof op);
    *own = op;
    own->stream = stream;
    own->number = ++submitted_count;
    own->next = NULL;
    own->touches = NULL;
    own->touch_count = 0;
    for (int index = 0; index < op.range_count; index++) {
        int count = soft_resolve(&op.ranges[index], &own->touches, own->touch_count);
        if (count >= 0) own->touch_count = count;
    }
    if (op.kind == RECORD) own->turn = ++op.event->asked;
    own->ticket = op.kind == COPY && is_ready_for_the_engine(stream) ? soft_ticket(op.way) : 0;
    if (stream->last) stream->last->next = own;
    else stream->first = own;
    stream->last = own;
    own->before = newest;
    own->behind = NULL;
    if (newest) newest->behind = own;
    else soft_submitted = own;
    newest = own;
    pthread_cond_broadcast(&soft_changed);
    return SUCCESS;
}

// --- streams -------------------------------------------------------------------------------------

EXPORT Status cuStreamCreateWithPriority(Stream **found, unsigned flags, int priority) {
    ENTER(IN_CONTEXT, flags, priority, 0, 0);
    if (stream_count == HANDLES_MAX) LEAVE(OUT_OF_MEMORY);
    Stream *stream = calloc(1, sizeof *stream);
    stream->alive = 1;
    pthread_create(&stream->thread, NULL, serve, stream);
    streams[stream_count++] = *found = stream;
    soft_living[STREAMS]++;
    LEAVE(SUCCESS);
}

EXPORT Status cuStreamCreate(Stream **found, unsigned flags) {
    return cuStreamCreateWithPriority(found, flags, 0);
}

EXPORT Status cuStreamDestroy(uint64_t handle) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Stream *stream = soft_stream(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    if (stream->captured) LEAVE(STREAM_CAPTURE_UNSUPPORTED);
    stream->alive = 0;
    stream->closing = 1;
    soft_living[STREAMS]--;
    pthread_cond_broadcast(&soft_changed);
    pthread_mutex_unlock(&soft_lock);
    pthread_join(stream->thread, NULL);
    return SUCCESS;
}

static Status idle(Stream *only) {
    for (int index = 0; index < stream_count; index++) {
        Stream *stream = streams[index];
        while ((!only || stream == only) && stream->alive && stream->first && !soft_sticky)
            pthread_cond_wait(&soft_changed, &soft_lock);
    }
    return soft_sticky;
}

EXPORT Status cuStreamSynchronize(uint64_t handle) {
    ENTER(NOT_IN_CAPTURE, handle, 0, 0, 0);
    Stream *stream = soft_stream(handle);
    LEAVE(stream ? idle(stream) : INVALID_HANDLE);
}

EXPORT Status cuCtxSynchronize(void) {
    ENTER(NOT_IN_CAPTURE, 0, 0, 0, 0);
    LEAVE(idle(NULL));
}

EXPORT Status cuStreamWaitEvent(uint64_t handle, uint64_t event_handle, unsigned flags) {
    ENTER(IN_CONTEXT, handle, event_handle, flags, 0);
    Stream *stream = soft_stream(handle);
    Event *event = soft_event(event_handle);
    if (!stream || !event) LEAVE(INVALID_HANDLE);
    LEAVE(soft_submit(stream, (Op){.kind = WAIT, .event = event, .turn = event->asked}));
}

// --- events --------------------------------------------------------------------------------------

EXPORT Status cuEventCreate(Event **found, unsigned flags) {
    enum { NO_TIMING = 2 };
    ENTER(IN_CONTEXT, flags, 0, 0, 0);
    if (event_count == HANDLES_MAX) LEAVE(OUT_OF_MEMORY);
    Event *event = calloc(1, sizeof *event);
    event->alive = 1;
    event->has_timing = !(flags & NO_TIMING);
    events[event_count++] = *found = event;
    soft_living[EVENTS]++;
    LEAVE(SUCCESS);
}

EXPORT Status cuEventDestroy(uint64_t handle) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Event *event = soft_event(handle);
    if (!event) LEAVE(INVALID_HANDLE);
    event->alive = 0;
    soft_living[EVENTS]--;
    LEAVE(SUCCESS);
}

EXPORT Status cuEventRecordWithFlags(uint64_t handle, uint64_t stream_handle, unsigned flags) {
    enum { EXTERNAL = 1 };
    ENTER(IN_CONTEXT, handle, stream_handle, flags, 0);
    Stream *stream = soft_stream(stream_handle);
    Event *event = soft_event(handle);
    if (!stream || !event) LEAVE(INVALID_HANDLE);
    event->was_captured = stream->captured && !(flags & EXTERNAL);
    if (event->was_captured) LEAVE(SUCCESS);  // a mark in the capture, not a node
    LEAVE(soft_submit(stream, (Op){.kind = RECORD, .event = event}));
}

EXPORT Status cuEventRecord(uint64_t handle, uint64_t stream) {
    return cuEventRecordWithFlags(handle, stream, 0);
}

EXPORT Status cuEventSynchronize(uint64_t handle) {
    ENTER(NOT_IN_CAPTURE, handle, 0, 0, 0);
    Event *event = soft_event(handle);
    if (!event) LEAVE(INVALID_HANDLE);
    if (event->was_captured) LEAVE(CAPTURED_EVENT);
    uint64_t turn = event->asked;
    while (event->happened < turn && !soft_sticky) pthread_cond_wait(&soft_changed, &soft_lock);
    soft_note("waited", handle, 0, 0, 0);
    LEAVE(soft_sticky);
}

EXPORT Status cuEventQuery(uint64_t handle) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Event *event = soft_event(handle);
    if (!event) LEAVE(INVALID_HANDLE);
    if (event->was_captured) LEAVE(CAPTURED_EVENT);
    LEAVE(event->happened < event->asked ? NOT_READY : SUCCESS);
}

EXPORT Status cuEventElapsedTime(float *elapsed_ms, uint64_t first, uint64_t second) {
    ENTER(IN_CONTEXT, first, second, 0, 0);
    Event *begin = soft_event(first), *end = soft_event(second);
    if (!begin || !end || !begin->has_timing || !end->has_timing) LEAVE(INVALID_HANDLE);
    if (!begin->asked || !end->asked) LEAVE(INVALID_HANDLE);
    if (begin->happened < begin->asked || end->happened < end->asked) LEAVE(NOT_READY);
    *elapsed_ms = (float)((double)(end->instant_ns - begin->instant_ns) / 1e6);
    LEAVE(SUCCESS);
}

// --- capture -------------------------------------------------------------------------------------

int soft_is_captured_here(void) {
    for (int index = 0; index < stream_count; index++)
        if (streams[index]->captured && pthread_equal(streams[index]->captured_by, pthread_self()))
            return 1;
    return 0;
}

void soft_invalidate_captures_here(void) {
    for (int index = 0; index < stream_count; index++)
        if (streams[index]->captured && pthread_equal(streams[index]->captured_by, pthread_self()))
            streams[index]->capture_is_broken = 1;
}

void soft_reset_streams(void) {
    pthread_mutex_lock(&soft_lock);
    soft_is_stalled = 0;
    soft_break(ILLEGAL_ADDRESS);  // what waits for work goes on
    for (int index = 0; index < stream_count; index++) streams[index]->closing = 1;
    pthread_cond_broadcast(&soft_changed);
    pthread_mutex_unlock(&soft_lock);
    for (int index = 0; index < stream_count; index++) {
        if (streams[index]->alive) pthread_join(streams[index]->thread, NULL);
        free(streams[index]);
    }
    for (int index = 0; index < event_count; index++) free(events[index]);
    stream_count = event_count = 0;
}
