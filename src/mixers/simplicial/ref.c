/* ref.c - the 2-simplicial operations as plain loops in double precision: the definition that every fast version is
 * tested against. It is never tuned. Numbers are read into doubles first, so that sums do not round on the way. */
#include "mixers/simplicial/simplicial_ops.h"

#include <math.h>

/* The vectors that one row's queries may see, of one key/value head: tokens first .. first + count - 1, as doubles. */
typedef struct visible {
    int64_t first;
    size_t count, d;
    double *k, *v, *k2, *v2; /* [count, d]; k2 and v2 with their bias */
} visible;

/* First token that any query of row b sees, and how many there are up to the row's last query. */
static void visible_range(const plx_simplicial_problem *p, size_t b, int64_t *first, size_t *count)
{
    *first = plx_simplicial_position(&p->sequence, b, 0);
    for (size_t t = 0; t < p->sequence.length; t++) {
        int64_t first1 = plx_simplicial_first(&p->sequence, b, t, p->window1);
        int64_t first2 = plx_simplicial_first(&p->sequence, b, t, p->window2);
        if (first1 < *first) *first = first1;
        if (first2 < *first) *first = first2;
    }
    *count = (size_t)(plx_simplicial_position(&p->sequence, b, p->sequence.length - 1) - *first) + 1;
}

/* The largest such count of all rows. */
static size_t visible_most(const plx_simplicial_problem *p)
{
    size_t most = 0;
    for (size_t b = 0; b < p->sequence.rows; b++) {
        int64_t first;
        size_t count;
        visible_range(p, b, &first, &count);
        if (count > most) most = count;
    }
    return most;
}

/* The two windows reach back differently, and a state holds no more than its window: `from` is the first token of
 * this history that any query needs; those before it are left at zero. */
static void visible_read(const plx_simplicial_problem *p, const plx_history *history, size_t window, size_t b, size_t g,
                         double bias, const visible *rows, double *out)
{
    int64_t from = rows->first + (int64_t)rows->count;
    for (size_t t = 0; t < p->sequence.length; t++) {
        int64_t first = plx_simplicial_first(&p->sequence, b, t, window);
        if (first < from) from = first;
    }
    for (size_t i = 0; i < rows->count; i++) {
        int64_t j = rows->first + (int64_t)i;
        for (size_t c = 0; c < rows->d; c++)
            out[i * rows->d + c] =
                j < from
                    ? 0
                    : plx_get(history->data, p->type, plx_simplicial_offset(history, b, j) + g * rows->d + c) + bias;
    }
}

static visible visible_make(const plx_simplicial_problem *p, size_t b, size_t g, size_t most, double *memory)
{
    visible rows = {.d = p->head_dim};
    visible_range(p, b, &rows.first, &rows.count);
    rows.k = memory;
    rows.v = rows.k + most * rows.d;
    rows.k2 = rows.v + most * rows.d;
    rows.v2 = rows.k2 + most * rows.d;
    visible_read(p, &p->k, p->window1, b, g, 0, &rows, rows.k);
    visible_read(p, &p->v, p->window1, b, g, 0, &rows, rows.v);
    visible_read(p, &p->k2, p->window2, b, g, p->bias_k, &rows, rows.k2);
    visible_read(p, &p->v2, p->window2, b, g, p->bias_v, &rows, rows.v2);
    return rows;
}

/* Component c of the product of vectors a and b that the form is made of: a * b, or the chunk's a x b. */
static double product(plx_simplicial_form form, size_t d, const double *a, const double *b, size_t c)
{
    if (form == PLX_SIMPLICIAL_TRILINEAR) return a[c] * b[c];
    size_t chunk = c - c % 3;
    if (chunk + 3 > d) return 0; /* beyond the last whole chunk: not in the logit */
    size_t next = chunk + (c + 1) % 3, after = chunk + (c + 2) % 3;
    return a[next] * b[after] - a[after] * b[next];
}

/* A_jk = scale * sum_c k_c (k' o q)_c, which for det is the sum of k . (k' x q) = det[q; k; k']. */
static double logit(const plx_simplicial_problem *p, const double *q, const double *k, const double *k2)
{
    double sum = 0;
    for (size_t c = 0; c < p->head_dim; c++) sum += k[c] * product(p->form, p->head_dim, k2, q, c);
    return p->scale * sum;
}

static void query_read(const plx_simplicial_problem *p, const void *array, size_t b, size_t t, size_t h, double *out)
{
    for (size_t c = 0; c < p->head_dim; c++)
        out[c] = plx_get(array, p->type, ((b * p->sequence.length + t) * p->heads + h) * p->head_dim + c);
}

typedef struct forward_job {
    const plx_simplicial_forward_args *args;
    size_t most, stride; /* of the scratch a thread, in doubles */
    double *scratch;
} forward_job;

static void forward_one(void *argument, size_t index, int thread)
{
    const forward_job *job = argument;
    const plx_simplicial_problem *p = &job->args->problem;
    size_t b = index / p->heads, h = index % p->heads, d = p->head_dim, length = p->sequence.length;
    double *q = job->scratch + (size_t)thread * job->stride, *sum = q + d;
    visible rows = visible_make(p, b, h / (p->heads / p->kv_heads), job->most, sum + d);

    for (size_t t = 0; t < length; t++) {
        size_t last = (size_t)(plx_simplicial_position(&p->sequence, b, t) - rows.first);
        size_t j0 = (size_t)(plx_simplicial_first(&p->sequence, b, t, p->window1) - rows.first);
        size_t k0 = (size_t)(plx_simplicial_first(&p->sequence, b, t, p->window2) - rows.first);
        query_read(p, p->q, b, t, h, q);
        double top = -INFINITY, total = 0;
        for (size_t k = k0; k <= last; k++)
            for (size_t j = j0; j <= last; j++) top = fmax(top, logit(p, q, rows.k + j * d, rows.k2 + k * d));
        for (size_t c = 0; c < d; c++) sum[c] = 0;
        for (size_t k = k0; k <= last; k++)
            for (size_t j = j0; j <= last; j++) {
                double weight = exp(logit(p, q, rows.k + j * d, rows.k2 + k * d) - top);
                total += weight;
                for (size_t c = 0; c < d; c++) sum[c] += weight * rows.v[j * d + c] * rows.v2[k * d + c];
            }
        size_t row = (b * length + t) * p->heads + h;
        for (size_t c = 0; c < d; c++) plx_put(job->args->out, p->type, row * d + c, sum[c] / total);
        if (job->args->lse != NULL) plx_put(job->args->lse, p->type, row, top + log(total));
    }
}

plx_status plx_simplicial_forward_ref(plx_context *context, const void *arguments)
{
    forward_job job = {.args = arguments};
    const plx_simplicial_problem *p = &job.args->problem;
    job.most = visible_most(p);
    job.stride = (2 + 4 * job.most) * p->head_dim;
    job.scratch = plx_kernel_scratch(context, (size_t)plx_context_threads(context) * job.stride * sizeof(double));
    if (job.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, p->sequence.rows * p->heads, forward_one, &job);
    return PLX_OK;
}

typedef struct backward_job {
    const plx_simplicial_backward_args *args;
    size_t stride;
    double *scratch;
} backward_job;

/* One row and key/value head: nothing that it writes is written by another. */
static void backward_one(void *argument, size_t index, int thread)
{
    const backward_job *job = argument;
    const plx_simplicial_backward_args *args = job->args;
    const plx_simplicial_problem *p = &args->problem;
    size_t d = p->head_dim, length = p->sequence.length, group = p->heads / p->kv_heads;
    size_t b = index / p->kv_heads, g = index % p->kv_heads;
    double *q = job->scratch + (size_t)thread * job->stride, *out = q + d, *dout = out + d, *dq = dout + d;
    double *gradients = dq + d, *panels = gradients + 4 * length * d;
    visible rows = visible_make(p, b, g, length, panels);
    double *dk = gradients, *dv = dk + length * d, *dk2 = dv + length * d, *dv2 = dk2 + length * d;
    for (size_t i = 0; i < 4 * length * d; i++) gradients[i] = 0;

    for (size_t t = 0; t < length; t++)
        for (size_t h = g * group; h < (g + 1) * group; h++) {
            size_t row = (b * length + t) * p->heads + h;
            size_t j0 = (size_t)plx_simplicial_first(&p->sequence, b, t, p->window1);
            size_t k0 = (size_t)plx_simplicial_first(&p->sequence, b, t, p->window2);
            double lse = plx_get(args->lse, p->type, row), delta = 0;
            query_read(p, p->q, b, t, h, q);
            query_read(p, args->out, b, t, h, out);
            query_read(p, args->dout, b, t, h, dout);
            for (size_t c = 0; c < d; c++) delta += out[c] * dout[c], dq[c] = 0;
            for (size_t k = k0; k <= t; k++)
                for (size_t j = j0; j <= t; j++) {
                    const double *kj = rows.k + j * d, *vj = rows.v + j * d, *kk = rows.k2 + k * d,
                                 *vk = rows.v2 + k * d;
                    double weight = exp(logit(p, q, kj, kk) - lse), dweight = 0;
                    for (size_t c = 0; c < d; c++) dweight += dout[c] * vj[c] * vk[c];
                    double da = p->scale * weight * (dweight - delta);
                    for (size_t c = 0; c < d; c++) {
                        /* the triple product is cyclic: k.(k' x q) = q.(k x k') = k'.(q x k) */
                        dq[c] += da * product(p->form, d, kj, kk, c);
                        dk[j * d + c] += da * product(p->form, d, kk, q, c);
                        dk2[k * d + c] += da * product(p->form, d, q, kj, c);
                        dv[j * d + c] += weight * dout[c] * vk[c];
                        dv2[k * d + c] += weight * dout[c] * vj[c];
                    }
                }
            for (size_t c = 0; c < d; c++) plx_put(args->dq, p->type, row * d + c, dq[c]);
        }
    void *targets[4] = {args->dk, args->dv, args->dk2, args->dv2};
    for (size_t part = 0; part < 4; part++)
        for (size_t t = 0; t < length; t++)
            for (size_t c = 0; c < d; c++)
                plx_put(targets[part], p->type, ((b * length + t) * p->kv_heads + g) * d + c,
                        gradients[(part * length + t) * d + c]);
}

plx_status plx_simplicial_backward_ref(plx_context *context, const void *arguments)
{
    backward_job job = {.args = arguments};
    const plx_simplicial_problem *p = &job.args->problem;
    job.stride = (4 + 8 * p->sequence.length) * p->head_dim;
    job.scratch = plx_kernel_scratch(context, (size_t)plx_context_threads(context) * job.stride * sizeof(double));
    if (job.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, p->sequence.rows * p->kv_heads, backward_one, &job);
    return PLX_OK;
}
