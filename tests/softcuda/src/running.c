// What a stream's thread does with one op, and whether that was safe where it was.
//
// Besides doing the work, each op is compared with all that was sent before it and has not ended: two
// that use the same page, one of them writing, with nothing that orders them, are a hazard. So a
// missing fence is seen even when the work happened to end in time.
#include "soft.h"

#include <stdlib.h>
#include <string.h>

static struct Engine {
    uint64_t given, served;
} engines[2];

uint64_t soft_ticket(Way way) { return ++engines[way].given; }

void soft_reset_engines(void) { memset(engines, 0, sizeof engines); }

int soft_overlaps(const Op *op, uint64_t address, uint64_t bytes) {
    for (int index = 0; index < op->range_count; index++) {
        const Range *range = &op->ranges[index];
        if (range->address < address + bytes && address < range->address + range->bytes) return 1;
    }
    return 0;
}

static int is_in_conflict(const Op *op, const Op *other) {
    for (int one = 0; one < op->touch_count; one++)
        for (int two = 0; two < other->touch_count; two++)
            if (op->touches[one].owner == other->touches[two].owner &&
                (op->touches[one].writes || other->touches[two].writes))
                return 1;
    return 0;
}

static void compare_with_earlier(const Op *op) {
    for (const Op *other = soft_submitted; other && other->number < op->number;
         other = other->behind)
        if (other->stream != op->stream && is_in_conflict(op, other)) {
            int reads = other->kind == COPY && other->way == TO_CARD;
            soft_hazard(reads ? "memory was used before a copy to it was done"
                              : "memory was written while earlier work used it",
                        op->ranges[0].address);
            return;
        }
}

// Whether the card may access all that the op uses, and finds there what was there when it was sent.
static int is_mapped(const Op *op) {
    Touch *touches = NULL;
    int count = 0;
    for (int index = 0; index < op->range_count && count >= 0; index++)
        count = soft_resolve(&op->ranges[index], &touches, count);
    int is_same = count == op->touch_count;
    for (int index = 0; is_same && index < count; index++)
        is_same = touches[index].owner == op->touches[index].owner;
    free(touches);
    if (count >= 0 && !is_same)
        soft_hazard("pages were exchanged under work that was sent before", op->ranges[0].address);
    return count >= 0;
}

static void begin(Op *op) {
    op->runs = 1;
    pthread_mutex_unlock(&soft_lock);
}

static void end(Op *op) {
    pthread_mutex_lock(&soft_lock);
    op->runs = 0;
}

// One copy at a time per direction, in the order in which they were ready: priorities count nothing.
static void copy(Op *op) {
    struct Engine *engine = &engines[op->way];
    if (!op->ticket) op->ticket = soft_ticket(op->way);
    while (engine->served + 1 != op->ticket && !soft_sticky)
        pthread_cond_wait(&soft_changed, &soft_lock);
    uint64_t duration_ns = soft_copy_delay_ns;
    if (soft_copy_bytes_per_second)
        duration_ns += op->bytes * 1000000000ull / soft_copy_bytes_per_second;
    begin(op);
    // The bytes come last: who reads before the end reads the old ones.
    if (duration_ns) soft_sleep_ns(duration_ns);
    memcpy((void *)(uintptr_t)op->target, (void *)(uintptr_t)op->source, op->bytes);
    end(op);
    engine->served++;
}

static void happen(Op *op) {
    op->event->happened = op->turn;
    op->event->instant_ns = soft_now_ns();
}

static void wait_for(Op *op) {
    while (op->event->happened < op->turn && !soft_sticky && !op->stream->closing)
        pthread_cond_wait(&soft_changed, &soft_lock);
}

static void launch(Op *op) {
    begin(op);
    Status status = op->kernel(op->argument);
    end(op);
    if (status) soft_break(status);
}

void soft_run(Op *op) {
    if (!is_mapped(op)) {
        soft_break(ILLEGAL_ADDRESS);
        return;
    }
    compare_with_earlier(op);
    switch (op->kind) {
        case COPY:
            copy(op);
            break;
        case FILL:
            begin(op);
            memset((void *)(uintptr_t)op->target, (int)op->source, op->bytes);
            end(op);
            break;
        case RECORD:
            happen(op);
            break;
        case WAIT:
            wait_for(op);
            break;
        case KERNEL:
            launch(op);
            break;
        case FUNCTION:
            begin(op);
            op->function(op->argument);
            end(op);
            break;
    }
}

// --- what is sent to streams ---------------------------------------------------------------------

static Status send_copy(uint64_t target, uint64_t source, size_t bytes, uint64_t handle, Way way) {
    Stream *stream = soft_stream(handle);
    if (!stream) return INVALID_HANDLE;
    uint64_t of_host = way == TO_CARD ? source : target, of_card = way == TO_CARD ? target : source;
    // Legal, but the real driver then copies in the call itself, twice.
    if (!soft_is_pinned(of_host, bytes)) soft_hazard("a copy's host memory is not pinned", of_host);
    Op op = {.kind = COPY, .way = way, .target = target, .source = source, .bytes = bytes};
    op.ranges[0] = (Range){of_card, bytes, way == TO_CARD};
    op.range_count = 1;
    if (soft_is_pinned(of_host, bytes))
        op.ranges[op.range_count++] = (Range){of_host, bytes, way == FROM_CARD};
    return soft_submit(stream, op);
}

EXPORT Status cuMemcpyHtoDAsync(uint64_t target, void *source, size_t bytes, uint64_t stream) {
    ENTER(IN_CONTEXT, target, source, bytes, stream);
    LEAVE(send_copy(target, (uint64_t)(uintptr_t)source, bytes, stream, TO_CARD));
}

EXPORT Status cuMemcpyDtoHAsync(void *target, uint64_t source, size_t bytes, uint64_t stream) {
    ENTER(IN_CONTEXT, target, source, bytes, stream);
    LEAVE(send_copy((uint64_t)(uintptr_t)target, source, bytes, stream, FROM_CARD));
}

// The one copy that waits for its end. What torch's stand-in has for the card's is the host's memory,
// of which the driver knows nothing: only reserved addresses are checked.
EXPORT Status cuMemcpyDtoH(void *target, uint64_t source, size_t bytes) {
    ENTER(NOT_IN_CAPTURE, target, source, bytes, 0);
    Touch *touches = NULL;
    int count = soft_resolve(&(Range){source, bytes, 0}, &touches, 0);
    free(touches);
    if (count < 0 && soft_is_reserved(source)) {
        soft_break(ILLEGAL_ADDRESS);
        LEAVE(ILLEGAL_ADDRESS);
    }
    memcpy(target, (void *)(uintptr_t)source, bytes);
    LEAVE(SUCCESS);
}

EXPORT Status cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, uint64_t handle) {
    ENTER(IN_CONTEXT, address, value, bytes, handle);
    Stream *stream = soft_stream(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    Op op = {.kind = FILL, .way = NO_WAY, .target = address, .source = value, .bytes = bytes};
    op.ranges[0] = (Range){address, bytes, 1};
    op.range_count = 1;
    LEAVE(soft_submit(stream, op));
}

EXPORT Status cuLaunchHostFunc(uint64_t handle, Function function, void *argument) {
    ENTER(IN_CONTEXT, handle, function, argument, 0);
    Stream *stream = soft_stream(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    LEAVE(soft_submit(stream, (Op){.kind = FUNCTION, .function = function, .argument = argument}));
}

// In place of cuLaunchKernel: a function of the host that says which memory it will use. A status
// other than 0 is a fault on the card.
EXPORT Status soft_launch_kernel(uint64_t handle, Kernel kernel, void *argument,
                                 const Range *ranges, int range_count) {
    ENTER(IN_CONTEXT, handle, kernel, argument, range_count);
    Stream *stream = soft_stream(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    if (range_count > RANGES_MAX) LEAVE(INVALID_VALUE);
    Op op = {.kind = KERNEL, .kernel = kernel, .argument = argument, .range_count = range_count};
    memcpy(op.ranges, ranges, range_count * sizeof *ranges);
    LEAVE(soft_submit(stream, op));
}
