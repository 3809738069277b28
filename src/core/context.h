/* context.h - what every part of the library shares: allocator, threads, device, choice of kernels, errors.
 *
 * There is no hidden global state: two contexts live side by side. A context serves one calling thread at a
 * time; inside one call it uses its own number of threads. */
#ifndef PLX_CORE_CONTEXT_H
#define PLX_CORE_CONTEXT_H

#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct plx_device plx_device;
typedef struct plx_profile plx_profile; /* kernels/profile.c */

/* Processor levels a kernel may need. Each includes those before it; VNNI is AVX-512 with integer dot products; BF16 has dot
 * products of bf16 numbers at twice the rate of f32's multiply-adds; AMX has bf16 tiles that Linux lets this process
 * use. */
typedef enum plx_level {
    PLX_LEVEL_PORTABLE,
    PLX_LEVEL_AVX2,
    PLX_LEVEL_AVX512,
    PLX_LEVEL_VNNI,
    PLX_LEVEL_BF16,
    PLX_LEVEL_AMX,
    PLX_LEVEL_COUNT
} plx_level;

typedef struct plx_kernel_choice {
    char op[48];     /* shell pattern of operation names, "attention.*" */
    char kernel[24]; /* implementation to take where it accepts the arguments */
} plx_kernel_choice;

struct plx_context {
    plx_context_options options; /* resolved: threads >= 1, allocator set */
    const plx_device *device;
    void *device_state;          /* the device's own bookkeeping */
    plx_level level;             /* of the processor, or lower where PLX_LEVEL or the options force it */
    plx_level processor;         /* what it could be */
    bool poison;                 /* fill every arena with NaN before use (tests) */
    plx_kernel_choice choices[16];
    int choice_count;
    void *scratch;               /* the block of plx_kernel_scratch */
    size_t scratch_bytes;
    plx_profile *profile;        /* NULL until first enabled */
    plx_error error;
};

/* "avx2" */
const char *plx_level_name(plx_level level);

/* Host memory from the context's allocator, 64-byte aligned; zeroed. NULL when none is left: the error is recorded. */
void *plx_alloc(plx_context *context, size_t bytes);
/* The same, but with whatever bytes the memory held. */
void *plx_alloc_uncleared(plx_context *context, size_t bytes);
/* The same for memory that fills bit by bit, at many places at once and maybe never all: in small pages, so that the
 * machine gives little more than what has been written. */
void *plx_alloc_sparse(plx_context *context, size_t bytes);
/* count * size with the product checked. */
void *plx_alloc_array(plx_context *context, size_t count, size_t size);
/* Grows (or makes, when pointer is NULL) to new_bytes, those beyond old_bytes zeroed; the old block stays valid on
 * failure. */
void *plx_grow(plx_context *context, void *pointer, size_t old_bytes, size_t new_bytes);
void plx_free(plx_context *context, void *pointer);
char *plx_strdup(plx_context *context, const char *text);
/* printf into a fresh string that the caller frees with plx_free. */
char *plx_format(plx_context *context, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The bytes, 3 or 0, of the mark of UTF-8 (U+FEFF) that some editors put first in a file: no part of a recipe or JSON. */
size_t plx_byte_order_mark(const char *text, size_t bytes);

void plx_log(plx_context *context, plx_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
void plx_progress(plx_context *context, const char *what, double done, double total);
/* PLX_CANCELLED (with its message recorded) once the caller's cancel callback says so, else PLX_OK. */
plx_status plx_check_cancel(plx_context *context);

/* a * b and a + b in size_t; false on overflow. */
bool plx_multiply_sizes(size_t a, size_t b, size_t *product);
bool plx_add_sizes(size_t a, size_t b, size_t *sum);

/* Runs body(argument, index) for index 0 .. count-1 on the context's threads, in no given order. What an
 * index computes must not depend on the thread: work is split by shape, so that results are equal for every
 * number of threads. `thread` is 0 .. threads-1, to choose scratch. Each thread begins with indices of its own, one
 * after the other (of two, the first with the lower half), and helps the others when it is done: where operations divide
 * their rows alike, a row stays in the cache of the same core. */
typedef void (*plx_parallel_body)(void *argument, size_t index, int thread);
void plx_parallel_for(plx_context *context, size_t count, plx_parallel_body body, void *argument);

/* Fills peak_gflops and tile_gflops alone, without the arrays that reading of memory is measured on. ERROR_MEMORY. */
plx_status plx_machine_measure_products(plx_context *context, plx_machine *machine);
/* Memory of the machine that a new allocation may take, bytes (MemAvailable, lowered by a cgroup's limit). */
size_t plx_available_memory(void);
/* Seconds of a clock that never goes back. */
double plx_seconds(void);

/* ---- devices ---- */

/* Where weights, activations and states live. Model code holds pointers to such memory and never reads
 * through them: only kernels (between enter and leave) and the copies below do. The `fenced` device of the
 * tests makes the memory unreadable otherwise. */
struct plx_device {
    const char *name;
    plx_status (*open)(plx_context *context);
    void (*close)(plx_context *context);
    plx_status (*alloc)(plx_context *context, size_t bytes, bool sparse, void **memory);
    void (*free)(plx_context *context, void *memory);
    void (*enter)(plx_context *context); /* a kernel is about to run */
    void (*leave)(plx_context *context);
};
const plx_device *plx_device_find(const char *name); /* "cpu" or "fenced"; NULL when unknown */

plx_status plx_device_alloc(plx_context *context, size_t bytes, void **memory); /* 64-byte aligned, not cleared */
plx_status plx_device_alloc_sparse(plx_context *context, size_t bytes, void **memory); /* as plx_alloc_sparse */
void plx_device_free(plx_context *context, void *memory);
void plx_device_upload(plx_context *context, void *device, const void *host, size_t bytes);
void plx_device_download(plx_context *context, void *host, const void *device, size_t bytes);
void plx_device_fill(plx_context *context, void *device, int byte, size_t bytes);
void plx_device_copy(plx_context *context, void *to, const void *from, size_t bytes); /* may overlap */

#endif
