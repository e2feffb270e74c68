// Memory: pages without addresses, addresses without pages, what lies where, and the host's own.
//
// A page is a file in memory; reserved addresses are a mapping that nobody may touch. So a page keeps
// its contents wherever it is mapped, and what is mapped nowhere can't be read by accident.
#define _GNU_SOURCE
#include "soft.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct Page {
    uint64_t bytes;
    int file, mappings, is_released;
    struct Page *next;
} Page;

typedef struct Mapping {
    uint64_t address, bytes;
    Page *page;
    int is_open;  // by cuMemSetAccess
    struct Mapping *next;
} Mapping;

typedef struct Block {
    uint64_t address, bytes;
    int kind;  // RESERVED, PINNED, HOST or PLAIN
    struct Block *next;
} Block;

static Page *pages;
static Mapping *mappings;
static Block *blocks;
static uint64_t used_bytes;

static void *at(uint64_t address) { return (void *)(uintptr_t)address; }

static int is_inside(uint64_t address, uint64_t bytes, uint64_t outer, uint64_t outer_bytes) {
    return outer <= address && address + bytes <= outer + outer_bytes;
}

static int meets(uint64_t address, uint64_t bytes, uint64_t other, uint64_t other_bytes) {
    return address < other + other_bytes && other < address + bytes;
}

static int is_granular(uint64_t value) { return value % GRANULARITY_BYTES == 0; }

static Page *page_of(uint64_t handle) {
    for (Page *page = pages; page; page = page->next)
        if (page == at(handle) && !page->is_released) return page;
    return NULL;
}

static Block *block_around(uint64_t address, uint64_t bytes, int kind) {
    for (Block *block = blocks; block; block = block->next)
        if (block->kind == kind && is_inside(address, bytes, block->address, block->bytes))
            return block;
    return NULL;
}

static void keep_block(uint64_t address, uint64_t bytes, int kind) {
    Block *block = malloc(sizeof *block);
    *block = (Block){address, bytes, kind, blocks};
    blocks = block;
    soft_living[kind]++;
}

static int drop_block(uint64_t address, int kind, uint64_t *bytes) {
    for (Block **place = &blocks; *place; place = &(*place)->next)
        if ((*place)->kind == kind && (*place)->address == address) {
            Block *block = *place;
            *bytes = block->bytes;
            *place = block->next;
            free(block);
            soft_living[kind]--;
            return 1;
        }
    return 0;
}

static Mapping *mapping_meeting(uint64_t address, uint64_t bytes) {
    for (Mapping *mapping = mappings; mapping; mapping = mapping->next)
        if (meets(address, bytes, mapping->address, mapping->bytes)) return mapping;
    return NULL;
}

static void bar(uint64_t address, uint64_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    mmap(at(address), bytes, PROT_NONE, flags, -1, 0);
}

static void free_if_unused(Page *page) {
    if (!page->is_released || page->mappings) return;
    for (Page **place = &pages; *place; place = &(*place)->next)
        if (*place == page) {
            *place = page->next;
            break;
        }
    used_bytes -= page->bytes;
    close(page->file);
    free(page);
}

// --- pages and addresses -------------------------------------------------------------------------

EXPORT Status cuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    ENTER(IN_CONTEXT, 0, 0, 0, 0);
    *free_bytes = soft_memory_bytes - used_bytes;
    *total_bytes = soft_memory_bytes;
    LEAVE(SUCCESS);
}

EXPORT Status cuMemCreate(uint64_t *handle, size_t bytes, const void *properties, uint64_t flags) {
    ENTER(NOT_IN_CAPTURE, bytes, 0, 0, 0);
    if (!properties || flags || !bytes || !is_granular(bytes)) LEAVE(INVALID_VALUE);
    if (used_bytes + bytes > soft_memory_bytes) LEAVE(OUT_OF_MEMORY);
    Page *page = calloc(1, sizeof *page);
    *page = (Page){.bytes = bytes, .file = memfd_create("page", MFD_CLOEXEC), .next = pages};
    if (ftruncate(page->file, bytes)) LEAVE(OUT_OF_MEMORY);
    pages = page;
    used_bytes += bytes;
    soft_living[PAGES]++;
    *handle = (uint64_t)(uintptr_t)page;
    LEAVE(SUCCESS);
}

EXPORT Status cuMemRelease(uint64_t handle) {
    ENTER(IN_CONTEXT, handle, 0, 0, 0);
    Page *page = page_of(handle);
    if (!page) LEAVE(INVALID_HANDLE);
    // The real driver keeps the memory until it is unmapped; whoever forgets that leaks it.
    if (page->mappings) soft_hazard("a page was released while mapped", handle);
    page->is_released = 1;
    soft_living[PAGES]--;
    free_if_unused(page);
    LEAVE(SUCCESS);
}

EXPORT Status cuMemAddressReserve(uint64_t *address, size_t bytes, size_t alignment, uint64_t wish,
                                  uint64_t flags) {
    ENTER(IN_CONTEXT, bytes, alignment, 0, 0);
    if (!bytes || !is_granular(bytes) || wish || flags) LEAVE(INVALID_VALUE);
    if (alignment & (alignment - 1)) LEAVE(INVALID_VALUE);
    uint64_t step = alignment > GRANULARITY_BYTES ? alignment : GRANULARITY_BYTES;
    int flags_of_map = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *found = mmap(NULL, bytes + step, PROT_NONE, flags_of_map, -1, 0);
    if (found == MAP_FAILED) LEAVE(OUT_OF_MEMORY);
    uint64_t begin = (uint64_t)(uintptr_t)found, aligned = (begin + step - 1) / step * step;
    if (aligned > begin) munmap(found, aligned - begin);
    if (begin + step > aligned) munmap(at(aligned + bytes), begin + step - aligned);
    keep_block(aligned, bytes, RESERVED);
    *address = aligned;
    LEAVE(SUCCESS);
}

EXPORT Status cuMemAddressFree(uint64_t address, size_t bytes) {
    ENTER(IN_CONTEXT, address, bytes, 0, 0);
    Block *block = block_around(address, bytes, RESERVED);
    if (!block || block->address != address || block->bytes != bytes) LEAVE(INVALID_VALUE);
    if (mapping_meeting(address, bytes)) LEAVE(INVALID_VALUE);
    uint64_t dropped;
    drop_block(address, RESERVED, &dropped);
    munmap(at(address), bytes);
    LEAVE(SUCCESS);
}

EXPORT Status cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle,
                       uint64_t flags) {
    ENTER(IN_CONTEXT, address, bytes, handle, 0);
    Page *page = page_of(handle);
    if (!page) LEAVE(INVALID_HANDLE);
    if (flags || !bytes || !is_granular(address | bytes | offset)) LEAVE(INVALID_VALUE);
    if (offset + bytes > page->bytes) LEAVE(INVALID_VALUE);
    if (!block_around(address, bytes, RESERVED)) LEAVE(INVALID_VALUE);
    if (mapping_meeting(address, bytes)) LEAVE(ALREADY_MAPPED);
    int way = MAP_SHARED | MAP_FIXED;
    if (mmap(at(address), bytes, PROT_NONE, way, page->file, offset) == MAP_FAILED)
        LEAVE(OUT_OF_MEMORY);
    Mapping *mapping = malloc(sizeof *mapping);
    *mapping = (Mapping){address, bytes, page, 0, mappings};
    mappings = mapping;
    page->mappings++;
    soft_living[MAPPED]++;
    LEAVE(SUCCESS);
}

// Whether a range consists of whole mappings, without gaps.
static int is_tiled(uint64_t address, uint64_t bytes) {
    uint64_t covered = 0;
    for (Mapping *mapping = mappings; mapping; mapping = mapping->next) {
        if (!meets(address, bytes, mapping->address, mapping->bytes)) continue;
        if (!is_inside(mapping->address, mapping->bytes, address, bytes)) return 0;
        covered += mapping->bytes;
    }
    return bytes && covered == bytes;
}

EXPORT Status cuMemSetAccess(uint64_t address, size_t bytes, const void *access, size_t count) {
    ENTER(IN_CONTEXT, address, bytes, 0, 0);
    if (!access || count != 1) LEAVE(INVALID_VALUE);
    if (!is_tiled(address, bytes)) LEAVE(INVALID_VALUE);
    for (Mapping *mapping = mappings; mapping; mapping = mapping->next)
        if (is_inside(mapping->address, mapping->bytes, address, bytes)) {
            mprotect(at(mapping->address), mapping->bytes, PROT_READ | PROT_WRITE);
            mapping->is_open = 1;
        }
    LEAVE(SUCCESS);
}

static int is_used(uint64_t address, uint64_t bytes, int only_running) {
    for (Op *op = soft_submitted; op; op = op->behind)
        if ((op->runs || !only_running) && soft_overlaps(op, address, bytes)) return 1;
    return 0;
}

// The real driver waits for nothing; what still uses the range faults. Here as well, but the memory
// stays until what runs has ended, so that the fault is the card's and not the process's.
static void fault_if_used(uint64_t address, uint64_t bytes, const char *what) {
    if (!is_used(address, bytes, 0)) return;
    soft_hazard(what, address);
    soft_break(ILLEGAL_ADDRESS);
    while (is_used(address, bytes, 1)) pthread_cond_wait(&soft_changed, &soft_lock);
}

EXPORT Status cuMemUnmap(uint64_t address, size_t bytes) {
    ENTER(IN_CONTEXT, address, bytes, 0, 0);
    if (!mapping_meeting(address, bytes)) LEAVE(NOT_MAPPED);
    if (!is_tiled(address, bytes)) LEAVE(INVALID_VALUE);
    fault_if_used(address, bytes, "a page was unmapped under work that was sent before");
    bar(address, bytes);
    for (Mapping **place = &mappings; *place;) {
        Mapping *mapping = *place;
        if (!is_inside(mapping->address, mapping->bytes, address, bytes)) {
            place = &mapping->next;
            continue;
        }
        *place = mapping->next;
        mapping->page->mappings--;
        free_if_unused(mapping->page);
        free(mapping);
        soft_living[MAPPED]--;
    }
    LEAVE(soft_sticky);
}

// --- memory that is not made of pages ------------------------------------------------------------

static Status allocate(uint64_t *address, size_t bytes, int kind) {
    uint64_t whole = (bytes + 4095) / 4096 * 4096;
    if (!bytes) return INVALID_VALUE;
    if (kind == PLAIN && used_bytes + whole > soft_memory_bytes) return OUT_OF_MEMORY;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *found = mmap(NULL, whole, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (found == MAP_FAILED) return OUT_OF_MEMORY;
    if (kind == PLAIN) used_bytes += whole;
    *address = (uint64_t)(uintptr_t)found;
    keep_block(*address, whole, kind);
    return SUCCESS;
}

static Status give_back(uint64_t address, int kind) {
    uint64_t bytes;
    if (!drop_block(address, kind, &bytes)) return INVALID_VALUE;
    fault_if_used(address, bytes, "memory was freed under work that was sent before");
    if (kind == PLAIN) used_bytes -= bytes;
    munmap(at(address), bytes);
    return soft_sticky;
}

EXPORT Status cuMemAlloc(uint64_t *address, size_t bytes) {
    ENTER(NOT_IN_CAPTURE, bytes, 0, 0, 0);
    LEAVE(allocate(address, bytes, PLAIN));
}

EXPORT Status cuMemFree(uint64_t address) {
    ENTER(NOT_IN_CAPTURE, address, 0, 0, 0);
    LEAVE(give_back(address, PLAIN));
}

EXPORT Status cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    ENTER(NOT_IN_CAPTURE, bytes, flags, 0, 0);
    LEAVE(allocate((uint64_t *)address, bytes, HOST));
}

EXPORT Status cuMemFreeHost(void *address) {
    ENTER(NOT_IN_CAPTURE, address, 0, 0, 0);
    LEAVE(give_back((uint64_t)(uintptr_t)address, HOST));
}

EXPORT Status cuMemHostRegister(void *address, size_t bytes, unsigned flags) {
    ENTER(NOT_IN_CAPTURE, address, bytes, flags, 0);
    if (!address || !bytes) LEAVE(INVALID_VALUE);
    for (Block *block = blocks; block; block = block->next)
        if (block->kind == PINNED &&
            meets((uint64_t)(uintptr_t)address, bytes, block->address, block->bytes))
            LEAVE(HOST_MEMORY_ALREADY_REGISTERED);
    keep_block((uint64_t)(uintptr_t)address, bytes, PINNED);
    LEAVE(SUCCESS);
}

EXPORT Status cuMemHostUnregister(void *address) {
    ENTER(NOT_IN_CAPTURE, address, 0, 0, 0);
    uint64_t bytes;
    int was_there = drop_block((uint64_t)(uintptr_t)address, PINNED, &bytes);
    LEAVE(was_there ? SUCCESS : HOST_MEMORY_NOT_REGISTERED);
}

EXPORT Status cuMemHostGetDevicePointer(uint64_t *found, void *address, unsigned flags) {
    ENTER(IN_CONTEXT, address, flags, 0, 0);
    *found = (uint64_t)(uintptr_t)address;
    LEAVE(soft_is_pinned(*found, 1) ? SUCCESS : INVALID_VALUE);
}

// --- for the other files -------------------------------------------------------------------------

int soft_is_pinned(uint64_t address, uint64_t bytes) {
    return block_around(address, bytes, PINNED) || block_around(address, bytes, HOST);
}

int soft_is_reserved(uint64_t address) { return block_around(address, 1, RESERVED) != NULL; }

static int add(Touch **touches, int count, void *owner, int writes) {
    *touches = realloc(*touches, (count + 1) * sizeof **touches);
    (*touches)[count] = (Touch){owner, writes};
    return count + 1;
}

int soft_resolve(const Range *range, Touch **touches, int count) {
    static const int kinds[] = {PLAIN, HOST, PINNED};
    for (size_t index = 0; index < sizeof kinds / sizeof *kinds; index++) {
        Block *block = block_around(range->address, range->bytes, kinds[index]);
        if (block) return add(touches, count, block, range->writes);
    }
    uint64_t covered = 0;
    for (Mapping *mapping = mappings; mapping; mapping = mapping->next) {
        if (!meets(range->address, range->bytes, mapping->address, mapping->bytes)) continue;
        if (!mapping->is_open) return -1;
        uint64_t begin = mapping->address, end = begin + mapping->bytes;
        if (begin < range->address) begin = range->address;
        if (end > range->address + range->bytes) end = range->address + range->bytes;
        covered += end - begin;
        count = add(touches, count, mapping->page, range->writes);
    }
    return covered == range->bytes ? count : -1;
}

void soft_reset_memory(void) {
    while (mappings) {
        Mapping *mapping = mappings;
        bar(mapping->address, mapping->bytes);
        mapping->page->mappings--;
        mappings = mapping->next;
        free(mapping);
    }
    while (pages) {
        pages->is_released = 1;
        free_if_unused(pages);
    }
    while (blocks) {
        Block *block = blocks;
        if (block->kind != PINNED) munmap(at(block->address), block->bytes);
        blocks = block->next;
        free(block);
    }
    used_bytes = 0;
}
