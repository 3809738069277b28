/* few.c - attention of a few queries, as in decoding, compiled for each level: what counts is reading K and V once, in
 * the order in which they lie. A job is a chunk of one row's keys with all its heads. Scores are dot products along d;
 * PLX_VW of them at a time are added up across their lanes. */
#include "kernels/history.h"
#include "mixers/attention/cpu/chunks.h"
#include "kernels/cpu/registers.h"

#define STEP 64 /* keys between two looks at the top */
#define WIDE 8  /* vectors of O that are summed at a time */

typedef struct work {
    const plx_attention_args *a;
    chunks chunks;
    float *scratch;
    size_t scratch_each, padded;
    size_t room; /* floats of a step's keys and values, where they are packed */
} work;

/* One query: q [padded], scaled; what it has summed so far. */
typedef struct query {
    float *q, *out, top, sum;
} query;

/* scores[0..count-1] = q . k of each key; scores beyond, up to a whole vector, are -inf */
static void dot_keys(const float *q, const float *k, size_t stride, size_t count, size_t d, float *scores)
{
    for (size_t from = 0; from < count; from += PLX_VW) {
        vf sum[PLX_VW];
        const float *row[PLX_VW];
        UNROLL for (int i = 0; i < PLX_VW; i++)
        {
            sum[i] = vf_set(0.0f);
            row[i] = k + (from + i < count ? from + i : count - 1) * stride;
        }
        size_t c = 0;
        for (; c + PLX_VW <= d; c += PLX_VW) {
            vf x = vf_load(q + c);
            UNROLL for (int i = 0; i < PLX_VW; i++) sum[i] += x * vf_load(row[i] + c);
        }
        if (c < d) {
            vf x = vf_load(q + c);
            for (int i = 0; i < PLX_VW; i++) sum[i] += x * vf_load_part(row[i] + c, d - c, 0.0f);
        }
        vf_store(scores + from, lane_sums(sum));
    }
    for (size_t i = count; i % PLX_VW != 0; i++) scores[i] = -INFINITY;
}

/* out[0 .. vectors) += sum of p[i] * row i of v; `left` numbers of a row remain. */
INLINE void add_values(const int vectors, const float *p, const float *v, size_t stride, size_t count, size_t left,
                       float *out)
{
    vf sum[WIDE];
    UNROLL for (int j = 0; j < vectors; j++) sum[j] = vf_load(out + j * PLX_VW);
    if (left >= (size_t)vectors * PLX_VW) {
        for (size_t i = 0; i < count; i++)
            UNROLL for (int j = 0; j < vectors; j++) sum[j] += p[i] * vf_load(v + i * stride + j * PLX_VW);
    } else { /* vectors is 1 */
        for (size_t i = 0; i < count; i++) sum[0] += p[i] * vf_load_part(v + i * stride, left, 0.0f);
    }
    UNROLL for (int j = 0; j < vectors; j++) vf_store(out + j * PLX_VW, sum[j]);
}

/* At most STEP keys, all seen. */
static void query_keys(query *x, const float *k, size_t k_stride, const float *v, size_t v_stride, size_t count,
                       size_t d, size_t padded)
{
    float p[STEP] = {0}; /* all written below, which compilers without inlining do not see */
    dot_keys(x->q, k, k_stride, count, d, p);
    vf tops = vf_load(p), sums = vf_set(0.0f);
    for (size_t i = PLX_VW; i < count; i += PLX_VW) tops = vf_max(vf_load(p + i), tops);
    float top = vf_top(tops);
    if (top > x->top) {
        float factor = exp2f(x->top - top);
        for (size_t c = 0; c < padded; c += PLX_VW) vf_store(x->out + c, vf_load(x->out + c) * factor);
        x->sum *= factor;
        x->top = top;
    }
    for (size_t i = 0; i < count; i += PLX_VW) {
        vf power = vf_exp2(vf_load(p + i) - x->top);
        vf_store(p + i, power);
        sums += power;
    }
    x->sum += vf_sum(sums);
    size_t c = 0;
    for (; c + WIDE * PLX_VW <= d; c += WIDE * PLX_VW) add_values(WIDE, p, v + c, v_stride, count, d - c, x->out + c);
    for (; c + 4 * PLX_VW <= d; c += 4 * PLX_VW) add_values(4, p, v + c, v_stride, count, d - c, x->out + c);
    for (; c < d; c += PLX_VW) add_values(1, p, v + c, v_stride, count, d - c, x->out + c);
}

/* Keys or values of one head, `stride` apart: where they lie, or unpacked into `room`. */
typedef struct rows {
    const float *first;
    size_t stride;
} rows;
static rows head_rows(const plx_history *history, size_t b, int64_t key, size_t count, size_t g, size_t d,
                      size_t padded, float *room)
{
    if (history->form == PLX_STATE_WHOLE)
        return (rows){(const float *)history->data + plx_history_index(history, b, key) + g * d, history->width};
    plx_history_rows(history, b, key, count, g * d, d, room, padded);
    return (rows){room, padded};
}

static void few_job(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_args *a = w->a;
    const size_t T = a->sequence.length, H = a->heads, d = a->head_dim, group = H / a->kv_heads;
    size_t b = index / w->chunks.count, chunk = index % w->chunks.count;
    const int64_t past = a->sequence.past != NULL ? a->sequence.past[b] : 0;
    int64_t begin = plx_attention_first(&a->sequence, b, 0, a->window), end = past + (int64_t)T;
    int64_t from = chunks_begin(&w->chunks, chunk, begin, end), to = chunks_begin(&w->chunks, chunk + 1, begin, end);
    float *memory = w->scratch + (size_t)thread * w->scratch_each;
    float *room = memory + 2 * T * H * w->padded;
    query *queries = (query *)(room + w->room);
    unsigned state = flush_denormals();
    memset(memory, 0, 2 * T * H * w->padded * sizeof *memory);
    for (size_t i = 0; i < T * H; i++) {
        queries[i] = (query){memory + 2 * i * w->padded, memory + (2 * i + 1) * w->padded, -1e30f, 0.0f};
        for (size_t c = 0; c < d; c++)
            queries[i].q[c] = ((const float *)a->q)[(b * T * H + i) * d + c] * (float)(a->scale * PLX_ATTENTION_LOG2_E);
    }
    for (int64_t key = from; key < to; key += STEP)
        for (size_t g = 0; g < a->kv_heads; g++) {
            size_t count = (size_t)(to - key < STEP ? to - key : STEP);
            rows k = head_rows(&a->keys, b, key, count, g, d, w->padded, room);
            rows v = head_rows(&a->values, b, key, count, g, d, w->padded, room + w->room / 2);
            for (size_t i = 0; i < T * group; i++) {
                size_t t = i / group;
                int64_t low = plx_attention_first(&a->sequence, b, t, a->window), high = past + (int64_t)t + 1;
                if (low < key) low = key;
                if (high > key + STEP) high = key + STEP;
                if (high > to) high = to;
                if (low >= high) continue;
                query_keys(&queries[t * H + g * group + i % group], k.first + (size_t)(low - key) * k.stride, k.stride,
                           v.first + (size_t)(low - key) * v.stride, v.stride, (size_t)(high - low), d, w->padded);
            }
        }
    for (size_t i = 0; i < T * H; i++) {
        const query *x = &queries[i];
        size_t number = b * T * H + i;
        if (w->chunks.count > 1) {
            float *to_chunk = w->chunks.partial + chunks_at(&w->chunks, chunk, number);
            memcpy(to_chunk, x->out, d * sizeof *to_chunk);
            to_chunk[d] = x->top;
            to_chunk[d + 1] = x->sum;
            continue;
        }
        float *out = (float *)a->out + number * d;
        for (size_t c = 0; c < d; c++) out[c] = x->out[c] / x->sum;
        if (a->lse != NULL) ((float *)a->lse)[number] = natural_lse(x->top, x->sum);
    }
    restore_denormals(state);
}

plx_status PLX_CPU(plx_attention_few)(plx_context *context, const plx_attention_args *a)
{
    work w = {.a = a, .padded = (a->head_dim + PLX_VW - 1) / PLX_VW * PLX_VW};
    size_t queries = a->sequence.length * a->heads;
    w.chunks = chunks_of(a, a->sequence.rows, STEP);
    bool packed = a->keys.form != PLX_STATE_WHOLE || a->values.form != PLX_STATE_WHOLE;
    w.room = packed ? 2 * STEP * w.padded : 0;
    w.scratch_each = (2 * queries * w.padded + w.room + queries * sizeof(query) / sizeof(float) + 15) / 16 * 16;
    size_t floats = (size_t)context->options.threads * w.scratch_each;
    w.scratch = plx_kernel_scratch(context, (floats + chunks_floats(&w.chunks)) * sizeof(float));
    if (w.scratch == NULL) return PLX_ERROR_MEMORY;
    w.chunks.partial = w.scratch + floats;
    plx_parallel_for(context, a->sequence.rows * w.chunks.count, few_job, &w);
    chunks_join(context, &w.chunks, a);
    return PLX_OK;
}
