/* device.c - the two devices of this build: `cpu`, and `fenced`, which the tests use in a GPU's place.
 *
 * fenced gives memory of its own mapping that no one may read or write but between enter and leave, so code that
 * would break on a GPU (a module that reads an activation) breaks on any machine, at the very access. An allocation
 * ends within 64 bytes of an unreadable page, so that kernels that run past it are caught as well. */
#include "core/context.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- cpu ---- */

static plx_status cpu_open(plx_context *context)
{
    (void)context;
    return PLX_OK;
}

static void cpu_nothing(plx_context *context) { (void)context; }

static plx_status cpu_alloc(plx_context *context, size_t bytes, bool sparse, void **memory)
{
    void *made = (sparse ? plx_alloc_sparse : plx_alloc_uncleared)(context, bytes);
    if (made == NULL) return PLX_ERROR_MEMORY;
    *memory = made;
    return PLX_OK;
}

/* ---- fenced ---- */

typedef struct plx_fenced_region {
    struct plx_fenced_region *next;
    char *base;      /* of the mapping: `open` bytes that kernels may use, then one page that nobody may */
    size_t open, mapped;
    char *memory;    /* what the caller has */
} plx_fenced_region;

typedef struct plx_fenced {
    plx_fenced_region *regions;
    int depth; /* enters without their leave: a kernel may run another */
} plx_fenced;

static plx_status fenced_open(plx_context *context)
{
    context->device_state = plx_alloc(context, sizeof(plx_fenced));
    return context->device_state != NULL ? PLX_OK : PLX_ERROR_MEMORY;
}

static void fenced_close(plx_context *context)
{
    plx_fenced *fenced = context->device_state;
    for (plx_fenced_region *region = fenced->regions, *next; region != NULL; region = next) {
        next = region->next;
        munmap(region->base, region->mapped);
        plx_free(context, region);
    }
    plx_free(context, fenced);
    context->device_state = NULL;
}

static plx_status fenced_alloc(plx_context *context, size_t bytes, bool sparse, void **memory)
{
    (void)sparse; /* a mapping of its own is in small pages anyway */
    plx_fenced *fenced = context->device_state;
    if (bytes > SIZE_MAX / 2) return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for %zu bytes", bytes);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t padded = (bytes > 0 ? bytes + 63 : 64) & ~(size_t)63;
    size_t open = (padded + page - 1) & ~(page - 1), mapped = open + page;
    /* The record comes from the context's allocator, so that an injected failure reaches this device too. */
    plx_fenced_region *region = plx_alloc(context, sizeof *region);
    if (region == NULL) return PLX_ERROR_MEMORY;
    char *base = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        plx_free(context, region);
        return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for %zu bytes", bytes);
    }
    *region = (plx_fenced_region){fenced->regions, base, open, mapped, base + open - padded};
    if (fenced->depth > 0) mprotect(base, open, PROT_READ | PROT_WRITE);
    fenced->regions = region;
    *memory = region->memory;
    return PLX_OK;
}

static void fenced_free(plx_context *context, void *memory)
{
    plx_fenced *fenced = context->device_state;
    for (plx_fenced_region **link = &fenced->regions; *link != NULL; link = &(*link)->next) {
        plx_fenced_region *region = *link;
        if (region->memory != memory) continue;
        *link = region->next;
        munmap(region->base, region->mapped);
        plx_free(context, region);
        return;
    }
}

/* A refused mprotect cannot be reported from here; the access that follows stops the test. */
static void fenced_protect(const plx_fenced *fenced, int protection)
{
    for (const plx_fenced_region *region = fenced->regions; region != NULL; region = region->next)
        mprotect(region->base, region->open, protection);
}

static void fenced_enter(plx_context *context)
{
    plx_fenced *fenced = context->device_state;
    if (fenced->depth++ == 0) fenced_protect(fenced, PROT_READ | PROT_WRITE);
}

static void fenced_leave(plx_context *context)
{
    plx_fenced *fenced = context->device_state;
    if (--fenced->depth == 0) fenced_protect(fenced, PROT_NONE);
}

/* ---- the interface ---- */

static const plx_device devices[] = {
    {"cpu", cpu_open, cpu_nothing, cpu_alloc, plx_free, cpu_nothing, cpu_nothing},
    {"fenced", fenced_open, fenced_close, fenced_alloc, fenced_free, fenced_enter, fenced_leave},
};

const plx_device *plx_device_find(const char *name)
{
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++)
        if (strcmp(devices[i].name, name) == 0) return &devices[i];
    return NULL;
}

plx_status plx_device_alloc(plx_context *context, size_t bytes, void **memory)
{
    return context->device->alloc(context, bytes, false, memory);
}

plx_status plx_device_alloc_sparse(plx_context *context, size_t bytes, void **memory)
{
    return context->device->alloc(context, bytes, true, memory);
}

void plx_device_free(plx_context *context, void *memory)
{
    if (memory != NULL) context->device->free(context, memory);
}

void plx_device_copy(plx_context *context, void *to, const void *from, size_t bytes)
{
    if (bytes == 0) return;
    context->device->enter(context);
    memmove(to, from, bytes);
    context->device->leave(context);
}

void plx_device_upload(plx_context *context, void *device, const void *host, size_t bytes)
{
    plx_device_copy(context, device, host, bytes);
}

void plx_device_download(plx_context *context, void *host, const void *device, size_t bytes)
{
    plx_device_copy(context, host, device, bytes);
}

typedef struct fill {
    char *to;
    int byte;
    size_t bytes;
} fill;
#define FILL_PART ((size_t)1 << 20)

static void fill_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const fill *job = argument;
    size_t first = index * FILL_PART, left = job->bytes - first;
    memset(job->to + first, job->byte, left < FILL_PART ? left : FILL_PART);
}

void plx_device_fill(plx_context *context, void *device, int byte, size_t bytes)
{
    if (bytes == 0) return;
    fill job = {device, byte, bytes};
    context->device->enter(context);
    plx_parallel_for(context, (bytes + FILL_PART - 1) / FILL_PART, fill_part, &job);
    context->device->leave(context);
}
