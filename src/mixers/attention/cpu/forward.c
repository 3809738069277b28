/* forward.c - attention forward by tiles with a running softmax, compiled for each level.
 *
 * Scores are kept in units of log 2 (Q is scaled by scale * log2 e). Each lane has a top m, some score that its query
 * sees; P = 2^(S - m), l = sum P, O = P V, and in the end O / l whatever m is. Only where l grows out of bounds is the
 * tile done again with the true top m', after l and O have been multiplied by 2^(m - m').
 *
 * A job is a block of queries, and where these are few and the keys many, a chunk of the keys: then it leaves O, m
 * and l of each query, which are put together in the order of the chunks. The cut follows from the shape alone. */
#include "kernels/history.h"
#include "mixers/attention/cpu/chunks.h"
#include "mixers/attention/cpu/tiles.h"

#define MOST_SUM 1e18f
#define MOST_HELD ((size_t)1 << 22) /* floats of K and V that a thread keeps: 16 MB */

static void multiply_top(const product *p) { product_all(PRODUCT_TOP_SEEN, p); }

/* The first tops: a score that all lanes see, if there is one, else each lane's with its query's own token. `keys` has
 * room for two panels. */
static void first_tops(const plx_attention_args *a, const panel *q, size_t b, size_t g, const float *columns,
                       float *keys, float *top)
{
    const size_t d = a->head_dim, lanes = q->vectors * PLX_VW;
    const bool whole = a->keys.form == PLX_STATE_WHOLE;
    float *unpacked = keys + PANEL * d; /* a row a lane */
    const float *k = whole ? (const float *)a->keys.data + g * d : unpacked;
    if (q->all_begin < q->all_end) {
        const float zero[PANEL] = {0};
        if (!whole) plx_history_rows(&a->keys, b, q->all_begin, 1, g * d, d, unpacked, d);
        for (size_t lane = 0; lane < lanes; lane++) top[lane] = -INFINITY;
        multiply_top(&(product){.a = k + (whole ? plx_history_index(&a->keys, b, q->all_begin) : 0),
                                .a_step = 1,
                                .b = columns,
                                .b_row = PANEL,
                                .rows = 1,
                                .vectors = q->vectors,
                                .depth = d,
                                .minus = zero,
                                .total = top,
                                .sight = &q->sight,
                                .key = (int32_t)q->all_begin});
        return;
    }
    size_t at[PANEL];
    for (size_t lane = 0; lane < lanes; lane++) {
        at[lane] = whole ? plx_history_index(&a->keys, b, q->sight.last[lane]) : lane * d;
        if (!whole) plx_history_rows(&a->keys, b, q->sight.last[lane], 1, g * d, d, unpacked + lane * d, d);
    }
    rows_to_columns(k, at, d, q->vectors, 1.0f, keys);
    for (size_t lane = 0; lane < lanes; lane += PLX_VW) {
        vf sum = vf_set(0.0f);
        for (size_t c = 0; c < d; c++) sum += vf_load(columns + c * PANEL + lane) * vf_load(keys + c * PANEL + lane);
        vf_store(top + lane, sum);
    }
}

static bool any_beyond(const float *sum, size_t lanes)
{
    vi beyond = {0};
    for (size_t lane = 0; lane < lanes; lane += PLX_VW) beyond |= ~(vi)(vf_load(sum + lane) < vf_set(MOST_SUM));
    for (size_t i = 0; i < PLX_VW; i++)
        if (beyond[i] != 0) return true;
    return false;
}

/* What a panel does with a tile of keys: `end` is the number after the tile's last. */
typedef struct task {
    const panel *q;
    int64_t key;
    size_t d, stride; /* of a row of k and v, and from row to row */
    const float *k, *v, *columns;
    float *p, *out, *top, *sum;
    view view;
} task;

/* multiply_power: P, and its columns' sums added to total; multiply_top: by how much scores exceed the tops. */
static void task_scores(const task *t, void (*multiply)(const product *), float *total)
{
    for (size_t i = 0; i < t->view.count; i++) {
        const part *p = &t->view.parts[i];
        size_t row = (size_t)(p->key - t->key);
        multiply(&(product){.a = t->k + row * t->stride,
                            .a_row = t->stride,
                            .a_step = 1,
                            .b = t->columns,
                            .b_row = PANEL,
                            .c = t->p + row * PANEL,
                            .c_row = PANEL,
                            .rows = p->keys,
                            .depth = t->d,
                            .lane = p->lane,
                            .vectors = p->vectors,
                            .minus = t->top,
                            .total = total,
                            .sight = &t->q->sight,
                            .all = p->all,
                            .key = (int32_t)p->key});
    }
}

static void task_run(const task *t)
{
    const size_t lanes = t->q->vectors * PLX_VW;
    float before[PANEL];
    memcpy(before, t->sum, sizeof before);
    task_scores(t, multiply_power, t->sum);
    if (any_beyond(t->sum, lanes)) {
        float rise[PANEL] = {0};
        task_scores(t, multiply_top, rise);
        for (size_t lane = 0; lane < lanes; lane += PLX_VW) {
            vi beyond = ~(vi)(vf_load(t->sum + lane) < vf_set(MOST_SUM)); /* the others stay as they are, bit for bit */
            vf more = vf_select(beyond, vf_load(rise + lane), vf_set(0.0f));
            vf factor = vf_select(beyond, vf_exp2(-more), vf_set(1.0f));
            vf_store(t->top + lane, vf_load(t->top + lane) + more);
            vf_store(t->sum + lane, vf_load(before + lane) * factor);
            for (size_t c = 0; c < t->d; c++)
                vf_store(t->out + c * PANEL + lane, vf_load(t->out + c * PANEL + lane) * factor);
        }
        task_scores(t, multiply_power, t->sum);
    }
    for (size_t i = 0; i < t->view.count; i++) {
        const part *p = &t->view.parts[i];
        size_t row = (size_t)(p->key - t->key);
        multiply_add(&(product){.a = t->v + row * t->stride,
                                .a_row = 1,
                                .a_step = t->stride,
                                .b = t->p + row * PANEL,
                                .b_row = PANEL,
                                .c = t->out,
                                .c_row = PANEL,
                                .rows = t->d,
                                .depth = p->keys,
                                .lane = p->lane,
                                .vectors = p->vectors});
    }
}

typedef struct work {
    const plx_attention_args *a;
    size_t blocks; /* a row and key/value head */
    chunks chunks;
    size_t room; /* keys and values that a thread holds: all that a row sees, or those of one tile */
    bool all;    /* the first of these */
    struct held *held;
    float *scratch;
    size_t scratch_each; /* floats a thread */
} work;

/* ---- keys and values ---- */

/* Keys from .. to - 1 of a row and key/value head lie in a thread's scratch, as do their values. A thread's blocks are
 * mostly of the same head as the one before: what that has copied is there. */
typedef struct held {
    _Alignas(64) size_t head;
    int64_t from, to;
} held;

/* Sees to it that keys key .. end - 1 of the head and their values are held: where the first of them are. */
static size_t hold(const work *w, held *held, size_t head, int64_t key, int64_t end, float *k, float *v)
{
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim, stride = copy_stride(d), b = head / a->kv_heads, g = head % a->kv_heads;
    const int64_t first = w->all ? plx_attention_first(&a->sequence, b, 0, a->window) : key;
    if (!w->all || held->head != head || key < held->from || key > held->to)
        *held = (struct held){.head = head, .from = key, .to = key};
    if (held->to < end) {
        const size_t at = (size_t)(held->to - first) * stride, rows = (size_t)(end - held->to);
        plx_history_rows(&a->keys, b, held->to, rows, g * d, d, k + at, stride);
        plx_history_rows(&a->values, b, held->to, rows, g * d, d, v + at, stride);
        held->to = end;
    }
    return (size_t)(key - first) * stride;
}

/* Results of a panel: final ones, or a chunk's. */
static void panel_finish(const work *w, const panel *q, size_t chunk, const float *out, const float *top,
                         const float *sum)
{
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim;
    size_t at[PANEL];
    float factor[PANEL];
    for (size_t lane = 0; lane < q->count; lane++) {
        at[lane] = q->query[lane] * d;
        factor[lane] = 1.0f / sum[lane];
        if (w->chunks.count > 1) {
            at[lane] = chunks_at(&w->chunks, chunk, q->query[lane]);
            factor[lane] = 1.0f;
            w->chunks.partial[at[lane] + d] = top[lane];
            w->chunks.partial[at[lane] + d + 1] = sum[lane];
        } else if (a->lse != NULL) {
            ((float *)a->lse)[q->query[lane]] = natural_lse(top[lane], sum[lane]);
        }
    }
    for (size_t lane = q->count; lane < PANEL; lane++) factor[lane] = 0.0f;
    columns_to_rows(out, factor, d, q->count, w->chunks.count > 1 ? w->chunks.partial : (float *)a->out, at);
}

static void forward_block(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim, G = a->kv_heads, stride = copy_stride(d);
    /* a head's blocks one after the other: its K and V are held; the last see most keys, and go first unless all see
     * as many */
    size_t chunk = index % w->chunks.count, number = index / w->chunks.count % w->blocks;
    if (a->window == 0) number = w->blocks - 1 - number;
    size_t head = index / w->chunks.count / w->blocks, b = head / G, g = head % G;
    float *k = w->scratch + (size_t)thread * w->scratch_each, *v = k + stride * w->room, *p = v + stride * w->room;
    float *columns = p + PANEL * KEYS, *out = columns + d * QUERIES, *top = out + d * QUERIES, *sum = top + QUERIES;
    unsigned state = flush_denormals();
    block block;
    block_set(&block, &a->sequence, a->heads, G, a->window, b, g, number * QUERIES);
    for (size_t i = 0; i < block.panels; i++) {
        panel_columns(&block.panel[i], a->q, d, (float)(a->scale * LOG2_E), columns + i * d * PANEL);
        first_tops(a, &block.panel[i], b, g, columns + i * d * PANEL, out, top + i * PANEL);
    }
    memset(sum, 0, QUERIES * sizeof *sum);
    memset(out, 0, d * QUERIES * sizeof *out);

    int64_t from = chunks_begin(&w->chunks, chunk, block.begin, block.end);
    int64_t to = chunks_begin(&w->chunks, chunk + 1, block.begin, block.end);
    for (int64_t key = from; key < to; key += KEYS) {
        int64_t end = to - key < KEYS ? to : key + KEYS;
        const size_t at = hold(w, &w->held[thread], head, key, end, k, v);
        for (size_t i = 0; i < block.panels; i++) {
            task t = {.q = &block.panel[i],
                      .key = key,
                      .d = d,
                      .stride = stride,
                      .k = k + at,
                      .v = v + at,
                      .columns = columns + i * d * PANEL,
                      .p = p,
                      .out = out + i * d * PANEL,
                      .top = top + i * PANEL,
                      .sum = sum + i * PANEL};
            view_set(&t.view, t.q, key, end, 1);
            if (t.view.count > 0) task_run(&t);
        }
    }
    for (size_t i = 0; i < block.panels; i++)
        panel_finish(w, &block.panel[i], chunk, out + i * d * PANEL, top + i * PANEL, sum + i * PANEL);
    restore_denormals(state);
}

plx_status PLX_CPU(plx_attention_forward)(plx_context *context, const void *arguments)
{
    const plx_attention_args *a = arguments;
    const size_t group = a->heads / a->kv_heads;
    if (a->sequence.length * group <= PLX_ATTENTION_FEW) return PLX_CPU(plx_attention_few)(context, a);
    work w = {.a = a};
    w.blocks = (a->sequence.length * group + QUERIES - 1) / QUERIES;
    size_t jobs = w.blocks * a->sequence.rows * a->kv_heads;
    w.room = most_seen(a);
    w.all = w.blocks > 1 && 2 * copy_stride(a->head_dim) * w.room <= MOST_HELD;
    if (!w.all) w.room = KEYS;
    w.scratch_each = 2 * copy_stride(a->head_dim) * w.room + PANEL * KEYS + (2 * a->head_dim + 2) * QUERIES;
    w.chunks = chunks_of(a, jobs, 256);
    const size_t threads = (size_t)context->options.threads, floats = threads * w.scratch_each;
    w.held = plx_kernel_scratch(context, threads * sizeof(held) + (floats + chunks_floats(&w.chunks)) * sizeof(float));
    if (w.held == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < threads; i++) w.held[i] = (held){.head = SIZE_MAX};
    w.scratch = (float *)(w.held + threads);
    w.chunks.partial = w.scratch + floats;
    plx_parallel_for(context, jobs * w.chunks.count, forward_block, &w);
    chunks_join(context, &w.chunks, a);
    return PLX_OK;
}
