// The card itself: its lock, its log, its faults, its context, and the tests' own door to all that.
#define _GNU_SOURCE
#include "soft.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_MAX 400000
#define HAZARDS_MAX 64
#define FAILURES_MAX 8
#define DRIVER_VERSION 13000

pthread_mutex_t soft_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t soft_changed = PTHREAD_COND_INITIALIZER;
Status soft_sticky;
int soft_is_stalled;
uint64_t soft_copy_bytes_per_second, soft_copy_delay_ns, soft_memory_bytes = 64ull << 30;
int64_t soft_living[KINDS];

static struct Line {
    const char *name;
    uint64_t arguments[4];
} log_lines[LOG_MAX];
static int log_count;
static char hazards[HAZARDS_MAX][96];
static int hazard_count;
static struct Failure {
    char name[64];
    int after;
    Status status;
} failures[FAILURES_MAX];
static int context;  // its address is the handle
static __thread void *current_context;

int64_t soft_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

void soft_sleep_ns(uint64_t duration_ns) {
    struct timespec duration = {duration_ns / 1000000000, duration_ns % 1000000000};
    nanosleep(&duration, NULL);
}

void soft_note(const char *name, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    if (log_count < LOG_MAX) log_lines[log_count++] = (struct Line){name, {a, b, c, d}};
}

void soft_break(Status status) {
    if (!soft_sticky) soft_sticky = status;
    pthread_cond_broadcast(&soft_changed);
}

void soft_hazard(const char *what, uint64_t address) {
    if (hazard_count < HAZARDS_MAX)
        snprintf(hazards[hazard_count++], sizeof *hazards, "%s at %#llx", what,
                 (unsigned long long)address);
}

// The executor's process gets its faults by a file, at the first launch after that was made.
static void look_for_the_fault_file(const char *name) {
    const char *path = getenv("SOFTCUDA_FAULT_FILE");
    char word[8] = "";
    if (!path || strcmp(name, "cuGraphLaunch")) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    int is_read = fscanf(file, "%7s", word);
    fclose(file);
    if (is_read != 1 || unlink(path)) return;
    if (!strcmp(word, "hang")) soft_is_stalled = 1;
    if (!strcmp(word, "fault")) soft_break(ILLEGAL_ADDRESS);
}

static Status injected(const char *name) {
    for (struct Failure *failure = failures; failure < failures + FAILURES_MAX; failure++)
        if (!strcmp(failure->name, name) && failure->after-- == 0) {
            failure->name[0] = 0;
            return failure->status;
        }
    return SUCCESS;
}

Status soft_enter(const char *name, int rules, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    pthread_mutex_lock(&soft_lock);
    soft_note(name, a, b, c, d);
    look_for_the_fault_file(name);
    Status status = injected(name);
    // Sticky: of an earlier call's work, and told by every call from then on.
    if (soft_sticky) status = soft_sticky;
    if (!status && rules && current_context != &context) status = INVALID_CONTEXT;
    if (!status && rules == NOT_IN_CAPTURE && soft_is_captured_here()) {
        soft_invalidate_captures_here();
        status = STREAM_CAPTURE_UNSUPPORTED;
    }
    return status ? soft_leave(status) : SUCCESS;
}

Status soft_leave(Status status) {
    pthread_mutex_unlock(&soft_lock);
    return status;
}

// --- device and context --------------------------------------------------------------------------

EXPORT Status cuInit(unsigned flags) {
    ENTER(ANYWHERE, flags, 0, 0, 0);
    const char *bytes = getenv("SOFTCUDA_MEMORY_BYTES");
    if (bytes) soft_memory_bytes = strtoull(bytes, NULL, 10);
    LEAVE(SUCCESS);
}

EXPORT Status cuDriverGetVersion(int *version) {
    *version = DRIVER_VERSION;
    return SUCCESS;
}

EXPORT Status cuDeviceGetCount(int *count) {
    *count = 1;
    return SUCCESS;
}

EXPORT Status cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}

EXPORT Status cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, size, "Software card");
    return device == 0 ? SUCCESS : INVALID_DEVICE;
}

EXPORT Status cuDeviceTotalMem(size_t *bytes, int device) {
    *bytes = soft_memory_bytes;
    return device == 0 ? SUCCESS : INVALID_DEVICE;
}

EXPORT Status cuDeviceGetAttribute(int *value, int attribute, int device) {
    enum { MAJOR = 75, VIRTUAL_MEMORY = 102 };
    *value = attribute == MAJOR ? 9 : attribute == VIRTUAL_MEMORY;
    return device == 0 ? SUCCESS : INVALID_DEVICE;
}

EXPORT Status cuDevicePrimaryCtxRetain(void **found, int device) {
    ENTER(ANYWHERE, device, 0, 0, 0);
    *found = &context;
    LEAVE(SUCCESS);
}

EXPORT Status cuDevicePrimaryCtxRelease(int device) {
    ENTER(ANYWHERE, device, 0, 0, 0);
    LEAVE(SUCCESS);
}

EXPORT Status cuCtxSetCurrent(void *wanted) {
    ENTER(ANYWHERE, wanted, 0, 0, 0);
    current_context = wanted;
    LEAVE(wanted == &context ? SUCCESS : INVALID_CONTEXT);
}

EXPORT Status cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER(IN_CONTEXT, 0, 0, 0, 0);
    *least = 0;
    *greatest = -5;
    LEAVE(SUCCESS);
}

EXPORT Status cuGetErrorName(Status status, const char **name) {
    static __thread char text[32];
    snprintf(text, sizeof text, status ? "CUDA_ERROR_%d" : "CUDA_SUCCESS", status);
    *name = text;
    return SUCCESS;
}

// What is not here is NULL: calling it raises in the bindings, loudly.
EXPORT Status cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags,
                                  int *result) {
    (void)version, (void)flags;
    static void *own;
    if (!own) {
        Dl_info place;
        dladdr((void *)cuInit, &place);
        own = dlopen(place.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    }
    *found = dlsym(own, name);
    if (result) *result = *found ? 0 : 1;
    return *found ? SUCCESS : NOT_FOUND;
}

// --- for tests -----------------------------------------------------------------------------------

// Give everything back, whole or broken; afterwards the card is new. No other call may be going on.
EXPORT void soft_reset(void) {
    soft_reset_streams();
    soft_reset_engines();
    soft_reset_graphs();
    soft_reset_memory();
    memset(soft_living, 0, sizeof soft_living);
    memset(failures, 0, sizeof failures);
    soft_sticky = SUCCESS;
    log_count = hazard_count = 0;
    soft_copy_bytes_per_second = soft_copy_delay_ns = 0;
    soft_memory_bytes = 64ull << 30;
}

EXPORT int64_t soft_count(int kind) {
    pthread_mutex_lock(&soft_lock);
    int64_t count = soft_living[kind];
    pthread_mutex_unlock(&soft_lock);
    return count;
}

EXPORT void soft_set_memory_bytes(uint64_t bytes) { soft_memory_bytes = bytes; }

// Copies take so long beside the copying itself; 0: nothing.
EXPORT void soft_set_copy_time(uint64_t bytes_per_second, uint64_t delay_ns) {
    soft_copy_bytes_per_second = bytes_per_second;
    soft_copy_delay_ns = delay_ns;
}

// Have one later call of a function answer with a status: the `after`-th from now, from 0 on.
EXPORT int soft_fail(const char *name, int after, Status status) {
    pthread_mutex_lock(&soft_lock);
    int done = 0;
    for (struct Failure *failure = failures; !done && failure < failures + FAILURES_MAX; failure++)
        if (!failure->name[0]) {
            snprintf(failure->name, sizeof failure->name, "%s", name);
            failure->after = after;
            failure->status = status;
            done = 1;
        }
    pthread_mutex_unlock(&soft_lock);
    return done;
}

EXPORT void soft_break_card(Status status) {
    pthread_mutex_lock(&soft_lock);
    soft_note("soft_break_card", status, 0, 0, 0);  // what stands behind it was told of the fault
    soft_break(status);
    pthread_mutex_unlock(&soft_lock);
}

// While stalled the card takes work and does none of it: no event happens.
EXPORT void soft_stall(int is_stalled) {
    pthread_mutex_lock(&soft_lock);
    soft_is_stalled = is_stalled;
    pthread_cond_broadcast(&soft_changed);
    pthread_mutex_unlock(&soft_lock);
}

EXPORT int soft_log_count(void) {
    pthread_mutex_lock(&soft_lock);
    int count = log_count;
    pthread_mutex_unlock(&soft_lock);
    return count;
}

EXPORT const char *soft_log_line(int index, uint64_t *arguments) {
    memcpy(arguments, log_lines[index].arguments, sizeof log_lines[index].arguments);
    return log_lines[index].name;
}

EXPORT void soft_log_clear(void) {
    pthread_mutex_lock(&soft_lock);
    log_count = 0;
    pthread_mutex_unlock(&soft_lock);
}

EXPORT int soft_hazard_count(void) { return hazard_count; }
EXPORT const char *soft_hazard_text(int index) { return hazards[index]; }
