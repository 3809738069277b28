/* context.c - making a context; its allocator, threads, messages and choice of kernels. */
#include "core/context.h"

#include "kernels/kernels.h"

#include <cblas.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <omp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- levels ---- */

static const char *const level_names[PLX_LEVEL_COUNT] = {"portable", "avx2", "avx512", "vnni", "bf16", "amx"};

#if defined(__x86_64__)
/* Bit 5 of leaf 7, subleaf 1; the code around the products looks bytes up as well (powers.h). */
static bool has_bf16(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx512vbmi") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1) != 0;
}

/* Bits 22 (AMX-BF16), 24 (AMX-TILE) and 25 (AMX-INT8) of leaf 7; then Linux must be asked once a process for the tiles'
 * registers, or the first instruction on them ends the process. */
static bool tiles_usable(void)
{
    unsigned a, b, c, d;
    const unsigned tiles = 1u << 22 | 1u << 24 | 1u << 25;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles) != tiles) return false;
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

static plx_level processor_level(void)
{
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni"), bf16 = vnni && has_bf16();
    if (bf16 && tiles_usable()) return PLX_LEVEL_AMX;
    /* AMD's take as long as a multiply-add of f32, Intel's four times as long: f32 is the faster one there */
    if (bf16 && __builtin_cpu_is("amd")) return PLX_LEVEL_BF16;
    if (vnni) return PLX_LEVEL_VNNI;
    if (avx512) return PLX_LEVEL_AVX512;
    return avx2 ? PLX_LEVEL_AVX2 : PLX_LEVEL_PORTABLE;
#else
    return PLX_LEVEL_PORTABLE;
#endif
}

/* Lowers *level to the named one; a level that the processor lacks changes nothing. False for an unknown name. */
static bool lower_level(plx_level *level, const char *name)
{
    if (name == NULL || name[0] == '\0') return true;
    for (int i = 0; i < PLX_LEVEL_COUNT; i++) {
        if (strcmp(name, level_names[i]) != 0) continue;
        if ((plx_level)i < *level) *level = (plx_level)i;
        return true;
    }
    return false;
}

/* ---- creation ---- */

static void *malloc_resize(void *user, void *pointer, size_t bytes)
{
    (void)user;
    return realloc(pointer, bytes);
}

static void malloc_release(void *user, void *pointer)
{
    (void)user;
    free(pointer);
}

static int processor_count(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    return omp_get_num_procs();
}

plx_status plx_context_create(const plx_context_options *options, plx_context **context)
{
    plx_context_options resolved = options != NULL ? *options : (plx_context_options){0};
    bool own = resolved.allocator.resize != NULL && resolved.allocator.release != NULL;
    if (!own && (resolved.allocator.resize != NULL || resolved.allocator.release != NULL)) return PLX_ERROR_VALUE;
    if (!own) resolved.allocator = (plx_allocator){malloc_resize, malloc_release, NULL};
    if (resolved.threads < 0 || resolved.threads > 1024) return PLX_ERROR_VALUE;
    if (resolved.threads == 0) resolved.threads = processor_count();
    const plx_device *device = plx_device_find(resolved.device != NULL ? resolved.device : "cpu");
    if (device == NULL) return PLX_ERROR_VALUE;
    const plx_level processor = processor_level();
    plx_level level = processor;
    if (!lower_level(&level, getenv("PLX_LEVEL")) || !lower_level(&level, resolved.level)) return PLX_ERROR_VALUE;

    plx_context *made = resolved.allocator.resize(resolved.allocator.user, NULL, sizeof *made);
    if (made == NULL) return PLX_ERROR_MEMORY;
    memset(made, 0, sizeof *made);
    resolved.device = device->name; /* the caller's strings need not outlive this call */
    resolved.level = level_names[level];
    made->options = resolved;
    made->device = device;
    made->level = level;
    made->processor = processor;
    plx_status status = device->open(made);
    if (status != PLX_OK) {
        resolved.allocator.release(resolved.allocator.user, made);
        return status;
    }
    /* BLAS's own threads would split sums by their number; products are split by shape on ours instead. This is for
     * builds with a pool of their own; for those with OpenMP see plx_parallel_for. */
    if (openblas_get_parallel() == OPENBLAS_THREAD && openblas_get_num_threads() != 1) openblas_set_num_threads(1);
    *context = made;
    return PLX_OK;
}

void plx_context_free(plx_context *context)
{
    if (context == NULL) return;
    plx_free(context, context->scratch);
    plx_profile_clear(context);
    context->device->close(context);
    plx_allocator allocator = context->options.allocator;
    allocator.release(allocator.user, context);
}

const plx_error *plx_context_error(const plx_context *context) { return &context->error; }
int plx_context_threads(const plx_context *context) { return context->options.threads; }
const char *plx_context_level(const plx_context *context) { return level_names[context->level]; }
const char *plx_level_name(plx_level level) { return level_names[level]; }
void plx_context_poison(plx_context *context, bool on) { context->poison = on; }

plx_status plx_context_choose_kernel(plx_context *context, const char *op_pattern, const char *kernel)
{
    plx_kernel_choice choice;
    const int limit = sizeof context->choices / sizeof context->choices[0];
    if (strlen(op_pattern) >= sizeof choice.op || strlen(kernel) >= sizeof choice.kernel)
        return plx_fail(context, PLX_ERROR_VALUE, "the choice of kernel %.60s for %.60s is too long a name", kernel,
                        op_pattern);
    int at = 0;
    while (at < context->choice_count && strcmp(context->choices[at].op, op_pattern) != 0) at++;
    if (at == limit)
        return plx_fail(context, PLX_ERROR_VALUE, "at most %d kernel choices can be made in one context", limit);
    snprintf(choice.op, sizeof choice.op, "%s", op_pattern);
    snprintf(choice.kernel, sizeof choice.kernel, "%s", kernel);
    if (at == context->choice_count) context->choice_count++;
    for (; at + 1 < context->choice_count; at++) context->choices[at] = context->choices[at + 1];
    context->choices[at] = choice; /* the last, which counts */
    return PLX_OK;
}

/* ---- memory ----
 * A block is [padding | address given by the allocator | 64-byte aligned bytes of the caller]. */

#define PLX_ALIGNMENT ((size_t)64)
#define HUGE_PAGE ((uintptr_t)1 << 21)

/* Asks Linux for pages of 2 MB, which many systems give only where asked: with those of 4 KB a pass over activations
 * spends much of its time on translating addresses. Or for small ones, where few bytes of each huge one would be used.
 * A refusal changes nothing else. */
static void ask_for_pages(void *memory, size_t bytes, bool huge)
{
    uintptr_t first = ((uintptr_t)memory + HUGE_PAGE - 1) & -HUGE_PAGE, end = ((uintptr_t)memory + bytes) & -HUGE_PAGE;
    if (end > first) (void)madvise((void *)first, end - first, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void *alloc_pages(plx_context *context, size_t bytes, bool huge)
{
    size_t total;
    char *block = NULL;
    if (plx_add_sizes(bytes > 0 ? bytes : 1, PLX_ALIGNMENT + sizeof(void *), &total) && total <= PTRDIFF_MAX)
        block = context->options.allocator.resize(context->options.allocator.user, NULL, total);
    if (block == NULL) {
        plx_fail(context, PLX_ERROR_MEMORY, "no memory left for %zu bytes", bytes);
        return NULL;
    }
    if (total >= 2 * HUGE_PAGE) ask_for_pages(block, total, huge);
    uintptr_t first = (uintptr_t)block + sizeof(void *);
    size_t shift = (size_t)(-first & (PLX_ALIGNMENT - 1));
    char *aligned = block + sizeof(void *) + shift;
    memcpy(aligned - sizeof(void *), &block, sizeof(void *));
    return aligned;
}

void *plx_alloc_uncleared(plx_context *context, size_t bytes) { return alloc_pages(context, bytes, true); }
void *plx_alloc_sparse(plx_context *context, size_t bytes) { return alloc_pages(context, bytes, false); }

void *plx_alloc(plx_context *context, size_t bytes)
{
    void *memory = plx_alloc_uncleared(context, bytes);
    if (memory != NULL) memset(memory, 0, bytes);
    return memory;
}

void *plx_alloc_array(plx_context *context, size_t count, size_t size)
{
    size_t bytes;
    if (!plx_multiply_sizes(count, size, &bytes)) {
        plx_fail(context, PLX_ERROR_MEMORY, "no memory left for %zu elements of %zu bytes", count, size);
        return NULL;
    }
    return plx_alloc(context, bytes);
}

void *plx_grow(plx_context *context, void *pointer, size_t old_bytes, size_t new_bytes)
{
    /* Not by resize: it keeps no alignment. */
    char *memory = plx_alloc_uncleared(context, new_bytes);
    if (memory == NULL) return NULL;
    size_t kept = pointer == NULL ? 0 : old_bytes < new_bytes ? old_bytes : new_bytes;
    if (kept > 0) memcpy(memory, pointer, kept);
    memset(memory + kept, 0, new_bytes - kept);
    plx_free(context, pointer);
    return memory;
}

void plx_free(plx_context *context, void *pointer)
{
    if (pointer == NULL) return;
    void *block;
    memcpy(&block, (char *)pointer - sizeof(void *), sizeof(void *));
    context->options.allocator.release(context->options.allocator.user, block);
}

char *plx_strdup(plx_context *context, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = plx_alloc_uncleared(context, bytes);
    if (copy != NULL) memcpy(copy, text, bytes);
    return copy;
}

size_t plx_byte_order_mark(const char *text, size_t bytes)
{
    return bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}

char *plx_format(plx_context *context, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = NULL;
    if (length < 0)
        plx_fail(context, PLX_ERROR_INTERNAL, "a text could not be formatted");
    else
        text = plx_alloc_uncleared(context, (size_t)length + 1);
    if (text != NULL) vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void *plx_kernel_scratch(plx_context *context, size_t bytes)
{
    if (bytes > context->scratch_bytes || context->scratch == NULL) {
        plx_free(context, context->scratch);
        context->scratch_bytes = 0;
        context->scratch = plx_alloc_uncleared(context, bytes);
        if (context->scratch == NULL) return NULL;
        context->scratch_bytes = bytes;
    }
    if (context->poison) memset(context->scratch, 0xFF, bytes); /* all bits set: NaN in every type */
    return context->scratch;
}

bool plx_multiply_sizes(size_t a, size_t b, size_t *product) { return !__builtin_mul_overflow(a, b, product); }
bool plx_add_sizes(size_t a, size_t b, size_t *sum) { return !__builtin_add_overflow(a, b, sum); }

/* ---- callbacks ---- */

void plx_log(plx_context *context, plx_log_level level, const char *format, ...)
{
    if (context->options.log == NULL) return;
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    context->options.log(context->options.user, level, message);
}

void plx_progress(plx_context *context, const char *what, double done, double total)
{
    if (context->options.progress != NULL) context->options.progress(context->options.user, what, done, total);
}

plx_status plx_check_cancel(plx_context *context)
{
    if (context->options.cancel == NULL || !context->options.cancel(context->options.user)) return PLX_OK;
    return plx_fail(context, PLX_CANCELLED, "stopped as asked");
}

/* ---- threads ---- */

/* The indices of one thread, which others help with when they are done. */
typedef struct share {
    _Alignas(64) size_t next;
    size_t end;
} share;

void plx_parallel_for(plx_context *context, size_t count, plx_parallel_body body, void *argument)
{
    int threads = context->options.threads;
    if ((size_t)threads > count) threads = (int)count;
    /* An OpenBLAS built with OpenMP takes the number of its threads from the calling thread's, whatever was set before
     * on another one; its own split of a product would give other digits. 1 while bodies run, then as the caller had
     * it. */
    int callers = omp_get_max_threads();
    omp_set_num_threads(1);
    if (threads <= 1) {
        for (size_t i = 0; i < count; i++) body(argument, i, 0);
    } else {
        share shares[threads];
        for (int t = 0; t < threads; t++)
            shares[t] = (share){.next = count * (size_t)t / (size_t)threads,
                                .end = count * ((size_t)t + 1) / (size_t)threads};
#pragma omp parallel num_threads(threads)
        {
            int own = omp_get_thread_num();
            for (int turn = 0; turn < threads; turn++) {
                share *from = &shares[(own + turn) % threads];
                size_t i;
                while ((i = __atomic_fetch_add(&from->next, 1, __ATOMIC_RELAXED)) < from->end) body(argument, i, own);
            }
        }
    }
    omp_set_num_threads(callers);
}

double plx_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- types ---- */

size_t plx_type_size(plx_type type) { return type == PLX_F64 ? 8 : type == PLX_F32 ? 4 : 2; }

const char *plx_type_name(plx_type type)
{
    static const char *const names[] = {"f32", "f64", "bf16", "f16"};
    return (size_t)type < sizeof names / sizeof names[0] ? names[type] : "unknown";
}
