// A CUDA driver in software: what its files share. README.md says what it is for and what it keeps.
//
// Prototypes are written by hand, so that no cuda.h is needed; names and numbers are those of the
// CUDA driver API 13.0. One lock (`soft_lock`) guards everything, one condition tells of changes.
#ifndef SOFT_H
#define SOFT_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define GRANULARITY_BYTES (2ull << 20)
#define RANGES_MAX 8

typedef int Status;
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    ALREADY_MAPPED = 208,
    NOT_MAPPED = 211,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    HOST_MEMORY_ALREADY_REGISTERED = 712,
    HOST_MEMORY_NOT_REGISTERED = 713,
    LAUNCH_FAILED = 719,
    STREAM_CAPTURE_UNSUPPORTED = 900,
    STREAM_CAPTURE_INVALIDATED = 901,
    STREAM_CAPTURE_UNMATCHED = 903,
    CAPTURED_EVENT = 907,
    STREAM_CAPTURE_WRONG_THREAD = 908,
};

// What is counted while it lives, in the order of `KINDS` in card.py.
enum { PAGES, MAPPED, RESERVED, PINNED, HOST, PLAIN, STREAMS, EVENTS, GRAPHS, EXECUTABLES, KINDS };

typedef struct Range {
    uint64_t address, bytes;
    int writes;
} Range;

// One piece of memory that an op uses: a page, or a block outside of pages. `owner` is its identity.
typedef struct Touch {
    void *owner;
    int writes;
} Touch;

typedef struct Event {
    int alive, has_timing, was_captured;
    uint64_t asked, happened;  // how often it was recorded, and how often that came true
    int64_t instant_ns;
} Event;

typedef enum { KERNEL = 0, COPY = 1, FILL = 2, FUNCTION = 3, WAIT = 6, RECORD = 7 } OpKind;
// The numbers are those of CUgraphNodeType.
typedef enum { TO_CARD, FROM_CARD, NO_WAY } Way;

typedef Status (*Kernel)(void *);
typedef void (*Function)(void *);

// What a stream does, or what a node of a graph will.
typedef struct Op {
    OpKind kind;
    Way way;
    uint64_t target, source, bytes;
    Event *event;
    uint64_t turn;  // of the event
    Kernel kernel;
    Function function;
    void *argument;
    Range ranges[RANGES_MAX];
    int range_count;
    // From here on: of an op in a stream.
    struct Stream *stream;
    uint64_t number;  // in the order of submission, over all streams
    uint64_t ticket;  // place in the queue of the copy engine; 0: none yet
    int runs;
    Touch *touches;
    int touch_count;
    struct Op *next;             // in its stream
    struct Op *before, *behind;  // among all that were submitted and have not ended
} Op;

typedef struct Node {
    int alive;
    Op op;
    struct Graph *graph;
    struct Node *next;
} Node;

typedef struct Graph {
    int alive;
    Node *first, *last;
} Graph;

typedef struct Stream {
    int alive, closing;
    pthread_t thread;
    Op *first, *last;
    Graph *captured;  // while it is captured
    int capture_is_broken;
    pthread_t captured_by;
} Stream;

extern pthread_mutex_t soft_lock;
extern pthread_cond_t soft_changed;
extern Status soft_sticky;
extern int soft_is_stalled;
extern uint64_t soft_copy_bytes_per_second, soft_copy_delay_ns, soft_memory_bytes;
extern int64_t soft_living[KINDS];
extern Op *soft_submitted;

// core.c
enum { ANYWHERE = 0, IN_CONTEXT = 1, NOT_IN_CAPTURE = 2 };
// Begin a call: take the lock, note it, and say why it can't be served (then the lock is free).
Status soft_enter(const char *name, int rules, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
Status soft_leave(Status status);
void soft_note(const char *name, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
// Break the card for good, as a fault of a kernel does.
void soft_break(Status status);
// Note that an order of actions was not safe, whatever came of it.
void soft_hazard(const char *what, uint64_t address);
int64_t soft_now_ns(void);
void soft_sleep_ns(uint64_t duration_ns);
#define ENTER(rules, a, b, c, d)                                                           \
    do {                                                                                   \
        Status soft_why_ = soft_enter(__func__, rules, (uint64_t)(a), (uint64_t)(b),       \
                                      (uint64_t)(c), (uint64_t)(d));                       \
        if (soft_why_) return soft_why_;                                                   \
    } while (0)
#define LEAVE(status) return soft_leave(status)
#define EXPORT __attribute__((visibility("default")))

// memory.c
// Find the memory behind a range; NULL-safe count by return value, -1 where the card can't access it.
int soft_resolve(const Range *range, Touch **touches, int count);
int soft_is_pinned(uint64_t address, uint64_t bytes);
int soft_is_reserved(uint64_t address);
void soft_reset_memory(void);

// streams.c
Stream *soft_stream(uint64_t handle);
Event *soft_event(uint64_t handle);
Status soft_submit(Stream *stream, Op op);
int soft_is_captured_here(void);
void soft_invalidate_captures_here(void);
void soft_reset_streams(void);

// running.c
void soft_run(Op *op);
uint64_t soft_ticket(Way way);
void soft_reset_engines(void);
int soft_overlaps(const Op *op, uint64_t address, uint64_t bytes);

// graphs.c
Status soft_append(Graph *graph, const Op *op);
void soft_reset_graphs(void);

#endif
