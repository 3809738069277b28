/* chunks.h - attention of few queries over many keys: the keys are cut into chunks, each a job, whose results are put
 * together in order. How many there are follows from the shape and the lengths of the histories. */
#ifndef PLX_MIXERS_ATTENTION_CPU_CHUNKS_H
#define PLX_MIXERS_ATTENTION_CPU_CHUNKS_H

#include "kernels/cpu/vec.h"
#include "mixers/attention/attention_ops.h"

#include <math.h>

#define PLX_ATTENTION_LOG2_E 1.4426950408889634
#define PLX_ATTENTION_FEW 8 /* queries of a row and key/value head that are not worth a panel */
#define ENOUGH_JOBS 16

/* A chunk's result for a query: O [d], top and sum, so that out = O / sum and lse = (top + log2 sum) / log2 e. */
typedef struct chunks {
    size_t count, queries, d;
    float *partial; /* [count][queries][d + 2] when there are several */
} chunks;

/* The same for one of few queries as for many; forward.c's hands over to it. */
plx_status PLX_CPU(plx_attention_few)(plx_context *context, const plx_attention_args *a);

static inline float natural_lse(float top, float sum)
{
    return (float)(((double)top + log2((double)sum)) / PLX_ATTENTION_LOG2_E);
}

/* The most keys that the queries of a row see. */
static size_t most_seen(const plx_attention_args *a)
{
    size_t most = 0;
    for (size_t b = 0; b < a->sequence.rows; b++) {
        int64_t past = a->sequence.past != NULL ? a->sequence.past[b] : 0;
        int64_t seen = past + (int64_t)a->sequence.length - plx_attention_first(&a->sequence, b, 0, a->window);
        if (seen > (int64_t)most) most = (size_t)seen;
    }
    return most;
}
/* Enough for all threads, each of at least `least` keys. */
static chunks chunks_of(const plx_attention_args *a, size_t jobs, size_t least)
{
    size_t longest = most_seen(a), wanted = (ENOUGH_JOBS + jobs - 1) / jobs;
    chunks result = {.count = 1, .queries = a->sequence.rows * a->sequence.length * a->heads, .d = a->head_dim};
    if (longest / least < wanted) wanted = longest / least;
    if (wanted > 1) result.count = wanted;
    return result;
}
static inline size_t chunks_floats(const chunks *c) { return c->count > 1 ? c->count * c->queries * (c->d + 2) : 0; }
static inline size_t chunks_at(const chunks *c, size_t chunk, size_t query)
{
    return (chunk * c->queries + query) * (c->d + 2);
}
/* The first key of a chunk of the keys begin .. end - 1. */
static inline int64_t chunks_begin(const chunks *c, size_t chunk, int64_t begin, int64_t end)
{
    int64_t each = (end - begin + (int64_t)c->count - 1) / (int64_t)c->count, at = begin + (int64_t)chunk * each;
    return at < end ? at : end;
}

typedef struct join {
    const chunks *c;
    const plx_attention_args *a;
} join;

static void join_query(void *argument, size_t query, int thread)
{
    (void)thread;
    const join *j = argument;
    const size_t d = j->c->d;
    float *out = (float *)j->a->out + query * d, top = -INFINITY, sum = 0;
    for (size_t i = 0; i < j->c->count; i++) {
        const float *of = j->c->partial + chunks_at(j->c, i, query);
        if (of[d + 1] != 0 && of[d] > top) top = of[d]; /* 0: the query sees none of the chunk's keys */
    }
    memset(out, 0, d * sizeof *out);
    for (size_t i = 0; i < j->c->count; i++) {
        const float *of = j->c->partial + chunks_at(j->c, i, query);
        if (of[d + 1] == 0) continue;
        float factor = exp2f(of[d] - top);
        sum += factor * of[d + 1];
        for (size_t c = 0; c < d; c++) out[c] += factor * of[c];
    }
    for (size_t c = 0; c < d; c++) out[c] /= sum;
    if (j->a->lse != NULL) ((float *)j->a->lse)[query] = natural_lse(top, sum);
}

static void chunks_join(plx_context *context, const chunks *c, const plx_attention_args *a)
{
    join j = {c, a};
    if (c->count > 1) plx_parallel_for(context, c->queries, join_query, &j);
}

#endif
