/* test_core.c - contexts, allocation, threads, devices, choice of kernels, and random numbers. Trees of YAML and JSON:
 * test_node.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/context.h"
#include "core/random.h"
#include "kernels/kernels.h"

#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- an allocator that counts, and fails at one call ---- */

typedef struct counter {
    long calls, fail_at, live; /* fail_at: 1 is the first call; 0 never */
} counter;

static void *counting_resize(void *user, void *pointer, size_t bytes)
{
    counter *count = user;
    if (++count->calls == count->fail_at) return NULL;
    void *memory = realloc(pointer, bytes);
    if (memory != NULL && pointer == NULL) count->live++;
    if (memory != NULL && pointer == NULL) memset(memory, 0xA5, bytes); /* nobody may rely on cleared memory */
    return memory;
}

static void counting_release(void *user, void *pointer)
{
    counter *count = user;
    if (pointer != NULL) count->live--;
    free(pointer);
}

static plx_context *make_context(const char *device, const char *level, int threads)
{
    plx_context *context = NULL;
    plx_context_options options = {.device = device, .level = level, .threads = threads};
    assert_int_equal(plx_context_create(&options, &context), PLX_OK);
    return context;
}

/* ---- status ---- */

static plx_status try_it(plx_context *context)
{
    PLX_TRY(plx_fail(context, PLX_ERROR_FILE, "cannot read '%s'", "a.txt"));
    return PLX_OK;
}

static void test_status(void **state)
{
    (void)state;
    assert_string_equal(plx_status_name(PLX_OK), "OK");
    assert_string_equal(plx_status_name(PLX_CANCELLED), "CANCELLED");
    assert_non_null(plx_status_name((plx_status)1234));
    plx_context *context = make_context(NULL, NULL, 1);
    assert_int_equal(try_it(context), PLX_ERROR_FILE);
    assert_string_equal(plx_context_error(context)->message, "cannot read 'a.txt'");
    assert_non_null(strstr(plx_context_error(context)->where, "test_core.c:"));
    assert_int_equal(plx_fail_prefix(context, PLX_ERROR_FILE, "step %d", 3), PLX_ERROR_FILE);
    assert_string_equal(plx_context_error(context)->message, "step 3: cannot read 'a.txt'");
    plx_fail(context, PLX_ERROR_VALUE, "again %s", plx_context_error(context)->message); /* quoting itself */
    assert_string_equal(plx_context_error(context)->message, "again step 3: cannot read 'a.txt'");
    plx_fail(context, PLX_ERROR_VALUE, "one\nline\033[1m");
    assert_string_equal(plx_context_error(context)->message, "one?line?[1m");

    char *text = malloc(3001); /* too long: cut, and no character in the middle */
    for (int i = 0; i < 1000; i++) memcpy(text + 3 * i, "\xE2\x82\xAC", 3);
    text[3000] = '\0';
    plx_fail(context, PLX_ERROR_VALUE, "%s", text);
    assert_int_equal(strlen(plx_context_error(context)->message) % 3, 0);
    assert_int_equal(plx_fail_prefix(context, PLX_ERROR_VALUE, "%s", text), PLX_ERROR_VALUE);
    assert_true(strlen(plx_context_error(context)->message) < sizeof plx_context_error(context)->message);
    free(text);
    plx_context_free(context);
}

/* ---- contexts ---- */

static void test_context_options(void **state)
{
    (void)state;
    plx_context *context = NULL;
    plx_context_options unknown_device = {.device = "tpu"}, unknown_level = {.level = "sse9"},
                        negative = {.threads = -1};
    plx_context_options half_allocator = {.allocator = {.resize = counting_resize}};
    assert_int_equal(plx_context_create(&unknown_device, &context), PLX_ERROR_VALUE);
    assert_int_equal(plx_context_create(&unknown_level, &context), PLX_ERROR_VALUE);
    assert_int_equal(plx_context_create(&negative, &context), PLX_ERROR_VALUE);
    assert_int_equal(plx_context_create(&half_allocator, &context), PLX_ERROR_VALUE);
    assert_null(context);
    assert_int_equal(plx_context_create(NULL, &context), PLX_OK);
    assert_true(plx_context_threads(context) >= 1);
    plx_context_free(context);
    plx_context_free(NULL);
}

/* PLX_LEVEL and the option lower the level, never raise it. */
static void test_levels(void **state)
{
    (void)state;
    const char *given = getenv("PLX_LEVEL");
    char *kept = given != NULL ? strdup(given) : NULL;
    unsetenv("PLX_LEVEL");
    plx_context *best = make_context(NULL, NULL, 1), *forced = make_context(NULL, "portable", 1);
    assert_string_equal(plx_context_level(forced), "portable");
    plx_context *middle = make_context(NULL, "avx2", 1), *most = make_context(NULL, "amx", 1);
    assert_true(middle->level <= PLX_LEVEL_AVX2 && middle->level <= best->level);
    assert_int_equal(most->level, best->level);
    setenv("PLX_LEVEL", "portable", 1);
    plx_context *by_environment = make_context(NULL, "avx512", 1);
    assert_string_equal(plx_context_level(by_environment), "portable");
    setenv("PLX_LEVEL", "fast", 1);
    plx_context *none = NULL;
    assert_int_equal(plx_context_create(NULL, &none), PLX_ERROR_VALUE);
    if (kept != NULL) setenv("PLX_LEVEL", kept, 1);
    else unsetenv("PLX_LEVEL");
    free(kept);
    plx_context *all[] = {best, forced, middle, most, by_environment};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) plx_context_free(all[i]);
}

static void test_allocator(void **state)
{
    (void)state;
    counter count = {0};
    plx_context_options options = {.allocator = {counting_resize, counting_release, &count}, .threads = 1};
    plx_context *context = NULL;
    assert_int_equal(plx_context_create(&options, &context), PLX_OK);
    long at_rest = count.live;
    for (size_t bytes = 0; bytes < 300; bytes += 7) {
        unsigned char *memory = plx_alloc(context, bytes);
        assert_int_equal((uintptr_t)memory % 64, 0);
        for (size_t i = 0; i < bytes; i++) assert_int_equal(memory[i], 0);
        memset(memory, 0xFF, bytes);
        unsigned char *grown = plx_grow(context, memory, bytes, bytes + 100);
        assert_int_equal((uintptr_t)grown % 64, 0);
        for (size_t i = 0; i < bytes + 100; i++) assert_int_equal(grown[i], i < bytes ? 0xFF : 0);
        plx_free(context, grown);
    }
    char *text = plx_format(context, "%d and %s", 7, "eight"), *copy = plx_strdup(context, text);
    assert_string_equal(copy, "7 and eight");
    plx_free(context, text);
    plx_free(context, copy);
    plx_free(context, NULL);
    assert_int_equal(count.live, at_rest);

    count.fail_at = count.calls + 1;
    assert_null(plx_alloc(context, 10));
    assert_int_equal(plx_context_error(context)->code, PLX_ERROR_MEMORY);
    char *old = plx_strdup(context, "still here");
    count.fail_at = count.calls + 1;
    assert_null(plx_grow(context, old, 11, 1000));
    assert_string_equal(old, "still here");
    plx_free(context, old);
    assert_null(plx_alloc_array(context, SIZE_MAX / 2, 3));
    assert_null(plx_alloc(context, SIZE_MAX - 8));
    size_t size;
    assert_false(plx_multiply_sizes(SIZE_MAX, 2, &size));
    assert_false(plx_add_sizes(SIZE_MAX, 1, &size));
    assert_true(plx_multiply_sizes(6, 7, &size) && size == 42);

    void *scratch = plx_kernel_scratch(context, 1000);
    assert_ptr_equal(plx_kernel_scratch(context, 500), scratch);
    plx_context_poison(context, true);
    float *poisoned = plx_kernel_scratch(context, 4000);
    for (int i = 0; i < 1000; i++) assert_true(isnan(poisoned[i]));
    count.fail_at = count.calls + 1;
    assert_null(plx_kernel_scratch(context, 100000));
    assert_non_null(plx_kernel_scratch(context, 10));
    plx_context_free(context);
    assert_int_equal(count.live, 0);
}

/* Every allocation of a context's life failing in turn: an error, and nothing left. */
static void test_create_without_memory(void **state)
{
    (void)state;
    const char *devices[] = {"cpu", "fenced"};
    for (int d = 0; d < 2; d++) {
        plx_status status = PLX_ERROR_MEMORY;
        for (long fail_at = 1; status != PLX_OK; fail_at++) {
            assert_true(fail_at < 20);
            counter count = {.fail_at = fail_at};
            plx_context_options options = {.device = devices[d],
                                           .allocator = {counting_resize, counting_release, &count}};
            plx_context *context = NULL;
            void *memory = NULL;
            status = plx_context_create(&options, &context);
            if (status == PLX_OK) {
                status = plx_device_alloc(context, 100, &memory);
                if (status == PLX_OK) plx_device_free(context, memory);
                else assert_null(memory);
                plx_context_free(context);
            }
            assert_true(status == PLX_OK || status == PLX_ERROR_MEMORY);
            assert_int_equal(count.live, 0);
        }
    }
}

static bool refuse_to_go_on(void *user)
{
    (*(int *)user)++;
    return true;
}

static void count_log(void *user, plx_log_level level, const char *message)
{
    if (level == PLX_LOG_WARNING && strcmp(message, "careful 5") == 0) (*(int *)user)++;
}

static void count_progress(void *user, const char *what, double done, double total)
{
    if (strcmp(what, "reading") == 0 && done == 1.0 && total == 2.0) (*(int *)user)++;
}

static void test_callbacks(void **state)
{
    (void)state;
    int calls = 0;
    plx_context_options options = {
        .log = count_log, .progress = count_progress, .cancel = refuse_to_go_on, .user = &calls};
    plx_context *context = NULL, *silent = make_context(NULL, NULL, 1);
    assert_int_equal(plx_context_create(&options, &context), PLX_OK);
    plx_log(context, PLX_LOG_WARNING, "careful %d", 5);
    plx_progress(context, "reading", 1.0, 2.0);
    assert_int_equal(plx_check_cancel(context), PLX_CANCELLED);
    assert_int_equal(plx_context_error(context)->code, PLX_CANCELLED);
    assert_int_equal(calls, 3);
    plx_log(silent, PLX_LOG_WARNING, "nobody hears");
    plx_progress(silent, "nobody sees", 1.0, 2.0);
    assert_int_equal(plx_check_cancel(silent), PLX_OK);
    plx_context_free(context);
    plx_context_free(silent);
}

/* ---- threads ---- */

typedef struct marks { int seen[1000]; int threads, bad; } marks;

static void mark(void *argument, size_t index, int thread)
{
    marks *all = argument;
    all->seen[index]++;
    if (thread < 0 || thread >= all->threads) all->bad++;
}

static void test_parallel_for(void **state)
{
    (void)state;
    const size_t counts[] = {0, 1, 2, 3, 7, 1000};
    for (int threads = 1; threads <= 5; threads++) {
        plx_context *context = make_context(NULL, NULL, threads);
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            marks all = {.threads = threads};
            plx_parallel_for(context, counts[c], mark, &all);
            assert_int_equal(all.bad, 0);
            for (size_t i = 0; i < 1000; i++) assert_int_equal(all.seen[i], i < counts[c]);
        }
        plx_context_free(context);
    }
}

static void look_at_openmp(void *argument, size_t index, int thread)
{
    (void)thread;
    ((int *)argument)[index] = omp_get_max_threads();
}

/* Whatever the program has OpenMP do, BLAS inside sees one thread, and the program finds its setting again. */
static void test_one_blas_thread(void **state)
{
    (void)state;
    int before = omp_get_max_threads();
    omp_set_num_threads(3);
    for (int threads = 1; threads <= 2; threads++) {
        plx_context *context = make_context(NULL, NULL, threads);
        int inside[4] = {0};
        plx_parallel_for(context, 4, look_at_openmp, inside);
        for (int i = 0; i < 4; i++) assert_int_equal(inside[i], 1);
        assert_int_equal(omp_get_max_threads(), 3);
        plx_context_free(context);
    }
    omp_set_num_threads(before);
}

static void *live_a_life(void *argument)
{
    const char *name = argument;
    for (int i = 0; i < 20; i++) {
        plx_context *context = NULL;
        plx_context_options options = {.threads = 2, .level = i % 2 ? "portable" : NULL};
        if (plx_context_create(&options, &context) != PLX_OK) return "create";
        marks all = {.threads = 2};
        plx_parallel_for(context, 100, mark, &all);
        plx_fail(context, PLX_ERROR_VALUE, "%s", name);
        bool same = strcmp(plx_context_error(context)->message, name) == 0;
        for (int k = 0; k < 100; k++) same = same && all.seen[k] == 1;
        plx_context_free(context);
        if (!same) return "differs";
    }
    return NULL;
}

static void test_two_contexts(void **state)
{
    (void)state;
    pthread_t threads[2];
    char names[2][8] = {"first", "second"};
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, live_a_life, names[i]), 0);
    for (int i = 0; i < 2; i++) {
        void *problem;
        pthread_join(threads[i], &problem);
        assert_null(problem);
    }
    plx_context *a = make_context("cpu", "portable", 1), *b = make_context("fenced", NULL, 2);
    plx_fail(a, PLX_ERROR_FILE, "of a");
    plx_fail(b, PLX_ERROR_VALUE, "of b");
    assert_string_equal(plx_context_error(a)->message, "of a");
    assert_string_equal(plx_context_error(b)->message, "of b");
    assert_int_equal(plx_context_threads(b), 2);
    plx_context_free(a);
    plx_context_free(b);
}

/* ---- devices ---- */

/* How a child process ends that touches one byte of device memory: the signal, or 0. */
static int signal_of_touch(const volatile char *byte, bool write)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        if (write) *(volatile char *)(uintptr_t)byte = 1;
        else (void)*byte;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void test_devices(void **state)
{
    (void)state;
    assert_null(plx_device_find("gpu"));
    const char *devices[] = {"cpu", "fenced"};
    for (int d = 0; d < 2; d++) {
        plx_context *context = make_context(devices[d], NULL, 1);
        void *a, *b, *too_large = NULL;
        char host[300], back[300];
        for (int i = 0; i < 300; i++) host[i] = (char)i;
        assert_int_equal(plx_device_alloc(context, 300, &a), PLX_OK);
        assert_int_equal(plx_device_alloc(context, 300, &b), PLX_OK);
        assert_int_equal((uintptr_t)a % 64, 0);
        plx_device_upload(context, a, host, 300);
        plx_device_copy(context, b, a, 300);
        plx_device_copy(context, (char *)b + 10, b, 200);
        plx_device_fill(context, (char *)b + 290, 7, 10);
        plx_device_download(context, back, b, 300);
        for (int i = 0; i < 300; i++) {
            char expected = i < 10 || (i >= 210 && i < 290) ? (char)i : i >= 290 ? 7 : (char)(i - 10);
            assert_int_equal(back[i], expected);
        }
        assert_int_equal(plx_device_alloc(context, SIZE_MAX - 100, &too_large), PLX_ERROR_MEMORY);
        assert_null(too_large);
        plx_device_free(context, a);
        plx_device_free(context, b);
        plx_device_free(context, NULL);
        plx_context_free(context);
    }
}

static void test_fence(void **state)
{
    (void)state;
    plx_context *context = make_context("fenced", NULL, 1);
    void *memory, *later;
    assert_int_equal(plx_device_alloc(context, 64, &memory), PLX_OK);
    assert_int_equal(signal_of_touch(memory, false), SIGSEGV);
    context->device->enter(context);
    context->device->enter(context); /* a kernel that runs another */
    assert_int_equal(signal_of_touch(memory, true), 0);
    context->device->leave(context);
    assert_int_equal(plx_device_alloc(context, 64, &later), PLX_OK);
    assert_int_equal(signal_of_touch(memory, true), 0);
    assert_int_equal(signal_of_touch(later, true), 0);
    assert_int_equal(signal_of_touch((char *)memory + 64, false), SIGSEGV); /* past the end, even in a kernel */
    context->device->leave(context);
    assert_int_equal(signal_of_touch(memory, true), SIGSEGV);
    assert_int_equal(signal_of_touch(later, false), SIGSEGV);
    plx_device_free(context, memory);
    plx_context_free(context); /* frees what was forgotten */
}

/* ---- choice of kernels ---- */

typedef struct double_args { plx_type type; double *x; } double_args;

static bool only_f32(const void *arguments) { return ((const double_args *)arguments)->type == PLX_F32; }

static plx_status add_one(plx_context *context, const void *arguments)
{
    (void)context;
    *((const double_args *)arguments)->x += 1.0;
    return PLX_OK;
}

static plx_status always_fails(plx_context *context, const void *arguments)
{
    (void)arguments;
    return plx_fail(context, PLX_ERROR_NUMERIC, "as it should");
}

static void test_dispatch(void **state)
{
    (void)state;
    const plx_kernel kernels[] = {
        {"avx512", PLX_LEVEL_AVX512, only_f32, add_one},
        {"portable", PLX_LEVEL_PORTABLE, only_f32, add_one},
        {"other", PLX_LEVEL_PORTABLE, NULL, always_fails},
        {"ref", PLX_LEVEL_PORTABLE, NULL, add_one},
        {0},
    };
    const plx_op op = {"test.add", NULL, kernels}, none = {"test.none", NULL, &kernels[4]};
    plx_context *context = make_context("fenced", "portable", 1);
    void *x;
    double back;
    assert_int_equal(plx_device_alloc(context, sizeof(double), &x), PLX_OK);
    plx_device_fill(context, x, 0, sizeof(double));
    double_args f32 = {PLX_F32, x}, f64 = {PLX_F64, x};
    assert_string_equal(plx_op_choose(context, &op, &f32)->name, "portable");
    assert_string_equal(plx_op_choose(context, &op, NULL)->name, "portable");
    assert_string_equal(plx_op_choose(context, &op, &f64)->name, "other");
    assert_int_equal(plx_op_run(context, &op, &f64), PLX_ERROR_NUMERIC);
    assert_int_equal(plx_context_choose_kernel(context, "test.*", "ref"), PLX_OK);
    assert_string_equal(plx_op_choose(context, &op, &f32)->name, "ref");
    /* not at this level: the other choice */
    assert_int_equal(plx_context_choose_kernel(context, "test.a?d", "avx512"), PLX_OK);
    assert_string_equal(plx_op_choose(context, &op, &f32)->name, "ref");
    assert_int_equal(plx_context_choose_kernel(context, "test.*", "portable"), PLX_OK); /* replaces the first */
    assert_int_equal(context->choice_count, 2);
    assert_string_equal(plx_op_choose(context, &op, &f32)->name, "portable");
    assert_int_equal(plx_context_choose_kernel(context, "test.a?d", "other"), PLX_OK); /* the later pattern counts */
    assert_string_equal(plx_op_choose(context, &op, &f32)->name, "other");
    assert_int_equal(plx_context_choose_kernel(context, "test.a?d", ""), PLX_OK); /* takes a choice back */
    assert_int_equal(plx_op_run(context, &op, &f32), PLX_OK); /* on fenced memory: run opens the fence */
    plx_device_download(context, &back, x, sizeof back);
    assert_true(back == 1.0);
    assert_null(plx_op_choose(context, &none, &f32));
    assert_int_equal(plx_op_run(context, &none, &f32), PLX_ERROR_INTERNAL);

    char pattern[64];
    for (int i = 2; i < 16; i++) {
        snprintf(pattern, sizeof pattern, "op%d", i);
        assert_int_equal(plx_context_choose_kernel(context, pattern, "ref"), PLX_OK);
    }
    assert_int_equal(plx_context_choose_kernel(context, "op16", "ref"), PLX_ERROR_VALUE);
    memset(pattern, 'x', sizeof pattern - 1);
    pattern[sizeof pattern - 1] = '\0';
    assert_int_equal(plx_context_choose_kernel(context, pattern, "ref"), PLX_ERROR_VALUE);
    assert_int_equal(plx_context_choose_kernel(context, "op2", pattern), PLX_ERROR_VALUE);
    plx_device_free(context, x);
    plx_context_free(context);
}

/* ---- profile ---- */

static plx_status wait_a_little(plx_context *context, const void *arguments)
{
    (void)context;
    (void)arguments;
    for (double until = plx_seconds() + 0.002; plx_seconds() < until;) {}
    return PLX_OK;
}
static const plx_kernel waiting_kernels[] = {{"ref", PLX_LEVEL_PORTABLE, NULL, wait_a_little}, {0}};
static double three_flops(const void *arguments) { return arguments != NULL ? 3 : 0; }
static const plx_op waiting_op = {"test.wait", three_flops, waiting_kernels};

static plx_status wait_twice(plx_context *context, const void *arguments)
{
    PLX_TRY(plx_op_run(context, &waiting_op, arguments));
    return plx_op_run(context, &waiting_op, arguments);
}
static const plx_kernel outer_kernels[] = {{"outer", PLX_LEVEL_PORTABLE, NULL, wait_twice}, {0}};
static const plx_op outer_op = {"test.outer", NULL, outer_kernels};

typedef struct seen_rows { int count; plx_profile_row rows[4]; } seen_rows;
static void see_row(void *user, const plx_profile_row *row)
{
    seen_rows *seen = user;
    if (seen->count < 4) seen->rows[seen->count] = *row;
    seen->count++;
}

static void test_profile(void **state)
{
    (void)state;
    plx_context *context = make_context("cpu", "portable", 1);
    seen_rows seen = {0};
    int anything = 0;
    assert_int_equal(plx_op_run(context, &waiting_op, &anything), PLX_OK); /* off: not recorded */
    plx_profile_visit(context, see_row, &seen);
    assert_int_equal(seen.count, 0);
    assert_int_equal(plx_profile_enable(context, false), PLX_OK);
    assert_int_equal(plx_profile_enable(context, true), PLX_OK);
    double before = plx_seconds();
    assert_int_equal(plx_op_run(context, &outer_op, &anything), PLX_OK);
    assert_int_equal(plx_op_run(context, &waiting_op, &anything), PLX_OK);
    double took = plx_seconds() - before;
    assert_int_equal(plx_profile_enable(context, false), PLX_OK);
    assert_int_equal(plx_op_run(context, &waiting_op, &anything), PLX_OK);
    plx_profile_visit(context, see_row, &seen);
    assert_int_equal(seen.count, 2);
    assert_string_equal(seen.rows[0].op, "test.outer");
    assert_string_equal(seen.rows[0].kernel, "outer");
    assert_string_equal(seen.rows[1].op, "test.wait");
    assert_int_equal(seen.rows[0].calls, 1);
    assert_int_equal(seen.rows[1].calls, 3);
    assert_true(seen.rows[0].flops == 0 && seen.rows[1].flops == 9);
    /* the inner operations' time is theirs alone, and the rows add up to what both calls took, not beyond */
    assert_true(seen.rows[1].seconds >= 0.006 && seen.rows[0].seconds >= 0);
    assert_true(seen.rows[0].seconds + seen.rows[1].seconds <= took);
    assert_true(seen.rows[0].seconds < 0.001 + took - 0.006);
    plx_profile_clear(context);
    seen.count = 0;
    plx_profile_visit(context, see_row, &seen);
    assert_int_equal(seen.count, 0);
    plx_context_free(context);
}

static void test_types(void **state)
{
    (void)state;
    assert_int_equal(plx_type_size(PLX_F32), 4);
    assert_int_equal(plx_type_size(PLX_F64), 8);
    assert_int_equal(plx_type_size(PLX_BF16), 2);
    assert_string_equal(plx_type_name(PLX_BF16), "bf16");
    struct { plx_type type; double value; unsigned bits; } cases[] = {
        {PLX_BF16, 1.0, 0x3F80},
        {PLX_BF16, -2.0, 0xC000},
        {PLX_BF16, 1.00390625, 0x3F80}, /* a tie goes to the even one */
        {PLX_BF16, 1.01171875, 0x3F82},
        {PLX_BF16, 1.00390626, 0x3F81},
        {PLX_BF16, -0.0, 0x8000},
        {PLX_BF16, INFINITY, 0x7F80},
        {PLX_BF16, 1e300, 0x7F80},
        {PLX_BF16, -1e300, 0xFF80},
        {PLX_BF16, 0x1p-133, 0x0001},
        {PLX_BF16, 0x1p-134, 0x0000},
        {PLX_BF16, 0x1.FEp127, 0x7F7F},
        {PLX_BF16, 0x1.FFp127, 0x7F80},
        {PLX_BF16, 1e-300, 0},
        {PLX_F16, 1.0, 0x3C00},
        {PLX_F16, 65504.0, 0x7BFF},
        {PLX_F16, 65519.9, 0x7BFF},
        {PLX_F16, 65520.0, 0x7C00},
        {PLX_F16, 0x1p-24, 0x0001},
        {PLX_F16, 0x1p-25, 0x0000},
        {PLX_F16, 0x1.8p-24, 0x0002},
        {PLX_F16, 0x1p-14, 0x0400},
        {PLX_F16, 0x1.FFFp-15, 0x0400},
        {PLX_F16, 1.0 + 0x1p-11 + 0x1p-40, 0x3C01}, /* rounded once, not by way of f32 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint16_t cell[2] = {0x1111, 0x1111};
        plx_put(cell, cases[i].type, 1, cases[i].value);
        assert_int_equal(cell[0], 0x1111);
        assert_int_equal(cell[1], cases[i].bits);
    }
    for (int type = PLX_BF16; type <= PLX_F16; type++) { /* every pattern survives a round trip */
        for (unsigned bits = 0; bits < 0x10000; bits++) {
            uint16_t cell = (uint16_t)bits, again;
            double value = plx_get(&cell, (plx_type)type, 0);
            plx_put(&again, (plx_type)type, 0, value);
            if (isnan(value)) assert_true(isnan(plx_get(&again, (plx_type)type, 0)));
            else assert_int_equal(again, bits);
        }
    }
    uint16_t bf16 = 0x3EAB; /* as the high half of a float */
    uint32_t bits = 0x3EAB0000;
    float as_float;
    memcpy(&as_float, &bits, sizeof bits);
    assert_true(plx_get(&bf16, PLX_BF16, 0) == (double)as_float);
    float f32 = 0.0f;
    double f64 = 0.0;
    plx_put(&f32, PLX_F32, 0, 0.1);
    plx_put(&f64, PLX_F64, 0, 0.1);
    assert_true(f32 == 0.1f && f64 == 0.1);
    assert_true(plx_get(&f32, PLX_F32, 0) == (double)0.1f && plx_get(&f64, PLX_F64, 0) == 0.1);
}

/* ---- random numbers ---- */

/* The vectors of the authors' Random123 library (kat_vectors, philox4x32 10). */
static void test_philox(void **state)
{
    (void)state;
    const struct { uint64_t seed, stream, counter; uint32_t out[4]; } cases[] = {
        {0, 0, 0, {0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}},
        {0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88, {0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        plx_philox(cases[i].seed, cases[i].stream, cases[i].counter, out);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
    plx_random random; /* hands out the blocks in order */
    plx_random_init(&random, 0, 0);
    for (int i = 0; i < 4; i++) assert_int_equal(plx_random_u32(&random), cases[0].out[i]);
    uint32_t next[4];
    plx_philox(0, 0, 1, next);
    assert_true(plx_random_u64(&random) == (next[0] | (uint64_t)next[1] << 32));
}

static void test_distributions(void **state)
{
    (void)state;
    plx_random random;
    plx_random_init(&random, 42, 7);
    const int count = 200000;
    double sum = 0.0, squares = 0.0, fourths = 0.0, mean = 0.0;
    for (int i = 0; i < count; i++) {
        double x = plx_random_normal(&random), u = plx_random_uniform(&random);
        assert_true(isfinite(x) && u >= 0.0 && u < 1.0);
        sum += x;
        squares += x * x;
        fourths += x * x * x * x;
        mean += u;
    }
    assert_true(fabs(sum / count) < 0.01 && fabs(squares / count - 1.0) < 0.02 && fabs(fourths / count - 3.0) < 0.1);
    assert_true(fabs(mean / count - 0.5) < 0.005);
    int seen[7] = {0};
    for (int i = 0; i < 70000; i++) seen[plx_random_below(&random, 7)]++;
    for (int i = 0; i < 7; i++) assert_true(abs(seen[i] - 10000) < 500);
    const uint64_t third = (uint64_t)1 << 62; /* 2^64 leaves a remainder of one third: without care it shows */
    int low = 0;
    for (int i = 0; i < 30000; i++) low += plx_random_below(&random, 3 * third) < third;
    assert_true(abs(low - 10000) < 500);
    assert_int_equal(plx_random_below(&random, 1), 0);
    assert_true(plx_random_below(&random, UINT64_MAX) < UINT64_MAX);

    int32_t values[100];
    for (int i = 0; i < 100; i++) values[i] = i;
    plx_random_shuffle(&random, values, 100);
    int total = 0, moved = 0;
    for (int i = 0; i < 100; i++) {
        total += values[i];
        moved += values[i] != i;
    }
    assert_int_equal(total, 4950);
    assert_true(moved > 80);
    assert_true(plx_hash("") == 0xCBF29CE484222325u && plx_hash("a") == 0xAF63DC4C8601EC8Cu);
}

static void test_permutation(void **state)
{
    (void)state;
    const uint64_t sizes[] = {1, 2, 3, 4, 5, 7, 15, 16, 17, 63, 65, 257, 1000, 4097, 20011};
    char *seen = malloc(20011);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        uint64_t n = sizes[s], fixed = 0, differ = 0;
        memset(seen, 0, n);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t at = plx_random_permute(5, 9, n, i);
            assert_true(at < n && !seen[at]);
            seen[at] = 1;
            fixed += at == i;
            differ += at != plx_random_permute(6, 9, n, i);
        }
        if (n >= 63) assert_true(fixed < n / 8 && differ > n / 2);
    }
    free(seen);
    const uint64_t large = ((uint64_t)1 << 62) + 12345; /* a size of which no array could be held */
    for (uint64_t i = 0; i < 100; i++) assert_true(plx_random_permute(1, 2, large, large - 1 - i) < large);
    assert_true(plx_random_permute(1, 2, UINT64_MAX, UINT64_MAX - 1) < UINT64_MAX);
}

/* ---- the machine ---- */

static void count_kernel(void *user, const plx_kernel_use *use)
{
    assert_non_null(use->op);
    assert_string_equal(use->kernel, "ref");
    /* all of them name a reason */
    if (strcmp(use->op, "adamw") == 0) assert_non_null(strstr(use->passed_over, "portable: another was chosen by name"));
    if (strcmp(use->op, "gather") == 0) assert_string_equal(use->passed_over, "copy: another was chosen by name");
    (*(int *)user)++;
}

static void test_machine(void **state)
{
    (void)state;
    const char *levels[] = {"portable", NULL};
    for (int i = 0; i < 2; i++) {
        plx_context *context = make_context(NULL, levels[i], 2);
        plx_machine machine = {0};
        double begin = plx_seconds();
        assert_int_equal(plx_machine_measure(context, &machine), PLX_OK);
        assert_true(plx_seconds() > begin);
        assert_true(machine.peak_gflops > 0.01 && machine.peak_gflops < 1e6);
        assert_true(machine.read_gbs > 0.01 && machine.read_gbs < 1e5);
        assert_true(machine.memory_bytes > (size_t)1 << 20);
        assert_int_equal(machine.threads, 2);
        assert_string_equal(machine.level, plx_context_level(context));
        assert_true(machine.cpu[0] != '\0');
        plx_context_choose_kernel(context, "*", "ref");
        int ops = 0;
        assert_int_equal(plx_kernels_visit(context, count_kernel, &ops), PLX_OK);
        assert_true(ops > 10);
        plx_context_free(context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_context_options),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_allocator),
        cmocka_unit_test(test_create_without_memory),
        cmocka_unit_test(test_callbacks),
        cmocka_unit_test(test_parallel_for),
        cmocka_unit_test(test_two_contexts),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_fence),
        cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_profile),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_one_blas_thread),
    };
    return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
