/* matmul.c - C = beta C + A op(B) + bias in f32: the forward and input gradient of a linear layer.
 *
 * k is gone through in steps of PRODUCT_DEPTH. A task is some rows by as many panels as stay, for one step, in the
 * second-level cache; it copies the rows of one tile, which then stay in the first-level cache while the panels stream
 * by. op(B), the weights, is packed once a call by all threads where that is little work and memory beside the product;
 * where the rows are few or the columns many, each task packs the panels of its own for all rows. */
#include "kernels/cpu/product.h"

#define CACHED ((size_t)1 << 18)      /* numbers of packed panels that a task goes through in a step: 1 MB */
#define TASK_WORK ((double)(1 << 22)) /* multiply-adds of a task: about 40 microseconds */
#define FEW_ROWS ((size_t)128)
#define LONG ((size_t)2048) /* k from which on a product is the other file's, but for x W^T with its promise */
#define MANY_PANELS ((size_t)64)

typedef struct product {
    const plx_matmul_args *a;
    float *panels; /* shared: [panels][k][PRODUCT_COLUMNS]; else for each thread those of one step of a task */
    float *left;   /* for each thread [PRODUCT_ROWS][PRODUCT_STRIDE] */
    float *bias;
    size_t all_panels, task_panels, task_rows, tasks_down, panel_size;
    bool shared; /* panels are packed once for all */
} product;

static void pack_task(void *argument, size_t index, int thread)
{
    (void)thread;
    const product *job = argument;
    product_pack_right(job->a, index * PRODUCT_COLUMNS, 0, job->a->k, job->panels + index * job->panel_size);
}

/* k in [from, to) of a task's rows [row, end) by `count` panels, given from k = from on. */
static void step(const product *job, size_t row, size_t end, size_t first_panel, size_t count, const float *panels,
                 size_t from, size_t to, float *left)
{
    const plx_matmul_args *a = job->a;
    for (; row < end; row += PRODUCT_ROWS) {
        size_t rows = product_least(end - row, PRODUCT_ROWS);
        product_copy_rows(a, row, rows, from, to, left);
        for (size_t p = 0; p < count; p++) {
            size_t column = (first_panel + p) * PRODUCT_COLUMNS;
            product_store store = {.c = (float *)a->c + row * a->ldc + column,
                                   .ldc = a->ldc,
                                   .width = product_least(a->n - column, PRODUCT_COLUMNS),
                                   .read = from > 0 || a->beta != 0,
                                   .scale = from > 0 ? 1 : (float)a->beta,
                                   .bias = from > 0 || a->bias == NULL ? NULL : job->bias + column};
            product_rows(left, false, panels + p * job->panel_size, to - from, &store, rows, NULL);
        }
    }
}

static void task(void *argument, size_t index, int thread)
{
    const product *job = argument;
    size_t first = index / job->tasks_down * job->task_panels, row = index % job->tasks_down * job->task_rows;
    size_t count = product_least(job->all_panels - first, job->task_panels);
    size_t end = product_least(job->a->m, row + job->task_rows), from = 0;
    float *left = job->left + (size_t)thread * PRODUCT_ROWS * PRODUCT_STRIDE;
    do { /* once also where k is 0 */
        size_t to = product_least(job->a->k, from + PRODUCT_DEPTH);
        float *panels = job->panels + first * job->panel_size + from * PRODUCT_COLUMNS;
        if (!job->shared) {
            panels = job->panels + (size_t)thread * job->task_panels * job->panel_size;
            for (size_t p = 0; p < count; p++)
                product_pack_right(job->a, (first + p) * PRODUCT_COLUMNS, from, to, panels + p * job->panel_size);
        }
        step(job, row, end, first, count, panels, from, to, left);
        from = to;
    } while (from < job->a->k);
}

/* By shape alone, so that the result does not depend on the number of threads. */
static void divide(product *job)
{
    const plx_matmul_args *a = job->a;
    size_t depth = product_least(a->k, PRODUCT_DEPTH);
    job->all_panels = plx_parts(a->n, PRODUCT_COLUMNS);
    job->shared = a->m > FEW_ROWS && job->all_panels < MANY_PANELS;
    job->panel_size = (job->shared ? a->k : depth) * PRODUCT_COLUMNS;
    size_t most = product_most(CACHED / (PRODUCT_COLUMNS * depth + 1), 2);
    if (!job->shared) most = product_least(most, plx_parts(job->all_panels, 16));
    if (a->m <= PRODUCT_ROWS) most = 1;
    job->task_panels = plx_parts(job->all_panels, plx_parts(job->all_panels, most));
    double tile = (double)(PRODUCT_ROWS * job->task_panels) * (double)(a->k * PRODUCT_COLUMNS + 1);
    size_t tiles = tile < TASK_WORK ? (size_t)(TASK_WORK / tile) : 1;
    if (a->k > PRODUCT_DEPTH) tiles = product_most(tiles, 8); /* each step brings its part of the panels anew */
    job->task_rows = job->shared ? product_least(tiles, 64) * PRODUCT_ROWS : a->m;
    job->tasks_down = plx_parts(a->m, job->task_rows);
}

plx_status PLX_CPU(plx_matmul)(plx_context *context, const void *arguments)
{
    const plx_matmul_args *a = arguments;
    if (a->m == 0 || a->n == 0) return PLX_OK;
    if (a->transpose_a || (!a->transpose_b && a->k >= LONG)) return PLX_CPU(plx_matmul_gradient)(context, a);
    product job = {.a = a};
    divide(&job);
    size_t threads = (size_t)context->options.threads, across = plx_parts(job.all_panels, job.task_panels);
    size_t panels = (job.shared ? job.all_panels : threads * job.task_panels) * job.panel_size;
    size_t left = threads * PRODUCT_ROWS * PRODUCT_STRIDE, bias = job.all_panels * PRODUCT_COLUMNS;
    job.panels = plx_kernel_scratch(context, (panels + left + bias) * sizeof(float));
    if (job.panels == NULL) return PLX_ERROR_MEMORY;
    job.left = job.panels + panels;
    job.bias = job.left + left;
    for (size_t j = 0; a->bias != NULL && j < bias; j += PLX_VW)
        vf_store(job.bias + j, j < a->n ? product_load(a->bias, a->bias_type, j, a->n - j) : vf_set(0));
    if (job.shared) plx_parallel_for(context, job.all_panels, pack_task, &job);
    plx_parallel_for(context, across * job.tasks_down, task, &job);
    return PLX_OK;
}
