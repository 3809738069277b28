/* packed.c - weights that stay packed (kernels/packed.h): made from a file's rows, multiplied, unpacked. */
#include "model/params.h"

#include <string.h>

#define ROWS_TOGETHER ((size_t)512) /* of a weight, unpacked at a time where a backward follows */

size_t plx_param_bytes(const plx_param *param)
{
    size_t bytes;
    bool named = param->form == PLX_FORM_PLAIN ? plx_multiply_sizes(param->elements, plx_type_size(param->type), &bytes)
                                               : plx_form_bytes(param->form, param->shape[0], param->shape[1], &bytes);
    return named && bytes <= PTRDIFF_MAX ? bytes : SIZE_MAX - 63;
}

/* ---- products ---- */

static plx_packed_rows_args rows_args(const plx_param *weight, plx_type type, size_t first, size_t count, void *y)
{
    return (plx_packed_rows_args){.type = type,
                                  .form = weight->form,
                                  .weights = weight->data,
                                  .first = first,
                                  .count = count,
                                  .n = weight->shape[0],
                                  .k = weight->shape[1],
                                  .y = y};
}

/* Goes through the weight in parts of whole rows: y[:, part] = x W[part]^T, or, input, dx += dy[:, part] W[part]. */
static plx_status unpacked_products(plx_run *run, const plx_linear *linear, bool input, const void *from, size_t rows,
                                    void *to, double beta)
{
    const plx_param *weight = linear->weight;
    const plx_param *bias = input ? NULL : linear->bias;
    size_t mark = plx_mark(run), most = linear->out < ROWS_TOGETHER ? linear->out : ROWS_TOGETHER;
    void *part;
    PLX_TRY(plx_scratch(run, most * linear->in, &part));
    for (size_t first = 0; first < linear->out; first += most) {
        size_t count = linear->out - first < most ? linear->out - first : most;
        plx_packed_rows_args unpack = rows_args(weight, run->type, first, count, part);
        PLX_TRY(plx_run_op(run, &plx_op_packed_rows, &unpack));
        plx_matmul_args args = {.a_type = run->type,
                                .b_type = run->type,
                                .c_type = run->type,
                                .bf16 = run->bf16,
                                .gradients = run->gradients,
                                .b = part,
                                .ldb = linear->in,
                                .m = rows};
        if (input) {
            args.a = plx_at(run, from, first);
            args.c = to;
            args.n = args.ldc = linear->in;
            args.k = count;
            args.lda = linear->out;
            args.beta = first > 0 ? 1.0 : beta;
        } else {
            args.a = from;
            args.c = plx_at(run, to, first);
            args.n = count;
            args.k = args.lda = linear->in;
            args.ldc = linear->out;
            args.transpose_b = true;
            args.beta = beta;
            if (bias != NULL) {
                args.bias = (const char *)bias->data + first * plx_type_size(bias->type);
                args.bias_type = bias->type;
            }
        }
        PLX_TRY(plx_run_op(run, &plx_op_matmul, &args));
    }
    plx_release(run, mark);
    return PLX_OK;
}

plx_status plx_packed_forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y, double beta)
{
    if (run->keep) return unpacked_products(run, linear, false, x, rows, y, beta);
    plx_packed_matmul_args args = {.type = run->type,
                                   .form = linear->weight->form,
                                   .weights = linear->weight->data,
                                   .x = x,
                                   .y = y,
                                   .m = rows,
                                   .n = linear->out,
                                   .k = linear->in,
                                   .beta = beta,
                                   .bias = linear->bias != NULL ? linear->bias->data : NULL,
                                   .bias_type = linear->bias != NULL ? linear->bias->type : PLX_F32};
    return plx_run_op(run, &plx_op_packed_matmul, &args);
}

plx_status plx_packed_backward_input(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void *dx,
                                     bool accumulate)
{
    return unpacked_products(run, linear, true, dy, rows, dx, accumulate ? 1.0 : 0.0);
}

/* ---- unpacking ---- */

plx_status plx_param_fetch(plx_context *context, const plx_param *param, size_t first, size_t count, void *host)
{
    const size_t size = plx_type_size(param->type);
    if (param->form == PLX_FORM_PLAIN || count == 0) {
        plx_device_download(context, host, (const char *)param->data + first * size, count * size);
        return PLX_OK;
    }
    const size_t columns = param->shape[1], row = first / columns, end = (first + count - 1) / columns + 1;
    void *rows;
    PLX_TRY(plx_device_alloc(context, (end - row) * columns * size, &rows));
    plx_packed_rows_args args = rows_args(param, param->type, row, end - row, rows);
    plx_status status = plx_op_run(context, &plx_op_packed_rows, &args);
    if (status == PLX_OK)
        plx_device_download(context, host, (char *)rows + (first - row * columns) * size, count * size);
    plx_device_free(context, rows);
    return status;
}

/* ---- packing ---- */

typedef struct pack_job {
    plx_form form;
    plx_packing packing;
    const char *rows;
    char *panels;
    size_t row_bytes, count, blocks; /* count: rows */
    bool bad;                        /* a scale that is not finite */
} pack_job;

/* Calls put for each block of a row, as the form has it. */
static bool pack_row(const pack_job *job, const char *row, size_t lane, char *panel)
{
    const size_t bytes = plx_form_block_bytes(job->form), numbers = plx_packing_numbers(job->packing);
    const size_t together = numbers < PLX_BLOCK ? PLX_BLOCK : numbers; /* numbers unpacked at a time */
    const bool kept = plx_form_of(job->packing) == job->form;
    float unpacked[256];
    plx_loose_block block;
    bool finite = true;
    for (size_t b = 0; b < job->blocks; b++, panel += bytes) {
        const size_t inside = b * PLX_BLOCK % together;
        if (kept) {
            plx_loose_from_packing(job->packing, row, b, &block);
        } else {
            if (inside == 0)
                plx_packing_unpack(job->packing, row + b * PLX_BLOCK / numbers * plx_packing_bytes(job->packing),
                                   together / numbers, unpacked);
            plx_loose_from_numbers(job->form, unpacked + inside, &block);
        }
        finite = plx_form_put(job->form, &block, lane, panel) && finite;
    }
    return finite;
}

static void pack_panel(void *argument, size_t index, int thread)
{
    (void)thread;
    pack_job *job = argument;
    char *panel = job->panels + index * job->blocks * plx_form_block_bytes(job->form);
    const plx_loose_block nothing = {0};
    for (size_t lane = 0; lane < PLX_PANEL_ROWS; lane++) {
        const size_t row = index * PLX_PANEL_ROWS + lane;
        if (row < job->count) {
            if (!pack_row(job, job->rows + row * job->row_bytes, lane, panel))
                __atomic_store_n(&job->bad, true, __ATOMIC_RELAXED);
            continue;
        }
        for (size_t b = 0; b < job->blocks; b++)
            plx_form_put(job->form, &nothing, lane, panel + b * plx_form_block_bytes(job->form));
    }
}

plx_status plx_param_pack(plx_context *context, const plx_param *param, plx_packing packing, const void *rows,
                          size_t row_bytes, size_t first, size_t count)
{
    const size_t blocks = param->shape[1] / PLX_BLOCK, panels = (count + PLX_PANEL_ROWS - 1) / PLX_PANEL_ROWS;
    const size_t panel_bytes = blocks * plx_form_block_bytes(param->form);
    pack_job job = {.form = param->form,
                    .packing = packing,
                    .rows = rows,
                    .panels = plx_alloc_uncleared(context, panels * panel_bytes),
                    .row_bytes = row_bytes,
                    .count = count,
                    .blocks = blocks};
    if (job.panels == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, panels, pack_panel, &job);
    plx_device_upload(context, (char *)param->data + first / PLX_PANEL_ROWS * panel_bytes, job.panels,
                      panels * panel_bytes);
    plx_free(context, job.panels);
    if (!job.bad) return PLX_OK;
    return plx_fail(context, PLX_ERROR_FORMAT, "tensor %s holds a scale that is not finite, or numbers that have none",
                    param->name);
}
