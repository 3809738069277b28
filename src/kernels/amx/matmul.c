/* matmul.c - C = beta C + op(A) op(B) + bias with operands rounded to bf16 and sums in f32, on tiles.
 *
 * The right operand is packed once by all threads, or by each task: panels of 32 columns, each a stack of pairs of
 * tiles along k. A task is some rows of the product: it packs its rows of the left operand for DEPTH of k, then goes
 * through panels and blocks of 32 x 32, which are four tiles of sums. What the loads of tiles from L1 and L2 allow is
 * the limit, so a block uses every tile twice, and DEPTH is such that a block's operands stay in L1 and L2. Meanwhile
 * the next panel is packed, tile by tile, and what the task reads and writes next comes from memory, a few lines a
 * step. Where C is small and k long, as in weight gradients, tasks divide k: their squares of C are then summed in
 * order. Where C is taller than wide and both operands lie with k down, C^T is computed: the left operand has to be
 * turned, so it is the narrower one. An element's sum is taken over the same stretches of k in the same order whatever
 * rows and columns are computed with it. */
#include "kernels/amx/pack.h"
#include "kernels/amx/square.h"
#include "kernels/group.h"

#include <math.h>

#define SIDE ((size_t)32)       /* of a block of C */
#define SQUARE (SIDE * SIDE)    /* numbers of it */
#define STEP ((size_t)32)       /* of k: a tile */
#define DEPTH ((size_t)512)     /* of k that a task works on at a time */
#define ROWS_MOST ((size_t)256) /* of a task */
#define SHARES ((size_t)8)      /* that k is divided into, at most */
#define TASKS ((size_t)8)
#define SHARED_MOST ((size_t)1 << 20) /* numbers of a packed right operand that tasks share: 2 MB */
#define TURNED_MOST ((size_t)3 << 16) /* numbers of a C that is turned: to be read and written again */
#define AHEAD ((size_t)4)             /* tiles that are asked for before they are packed */
#define LINES ((size_t)32)            /* of memory that a tile's numbers take */

/* An operand: `count` rows of a left one, columns of a right one, `stride` numbers apart where k runs along memory,
 * else side by side. */
typedef struct side {
    const void *data;
    plx_type type;
    size_t stride, count;
    bool along;
} side;

/* One product, or a group that is computed as one: the parts lie side by side in columns (of C^T where that is
 * computed), or one behind the other in k. */
typedef struct product {
    const plx_matmul_args *part;
    size_t parts;
    bool turned; /* C^T is computed */
    bool deep;   /* behind each other */
    side left[PLX_GROUP_MOST], right[PLX_GROUP_MOST];
    size_t at[PLX_GROUP_MOST + 1]; /* the parts' first panels or, deep, steps; then their number */
    size_t terms;                  /* of a number: 1, rounded to bf16; or TERMS */
    size_t depth;                  /* steps of k that a task works on at a time */
    bool shared;                   /* the right operand is packed once for all, else by each task */
    uint16_t *packed;              /* it: [panels][steps][terms][2][TILE], or [threads][2][depth][terms][2][TILE] */
    uint16_t *rows_of;             /* the left one: [threads][rows / SIDE][depth][terms][2][TILE] */
    size_t left_size;              /* of a thread */
    size_t m;                      /* rows */
    size_t steps, panels;          /* of all k; of all columns */
    size_t rows, columns;          /* of a task: rows, panels */
    size_t across, down;           /* tasks side by side, one below the other */
    size_t share, shares;          /* steps of k a task; how many of them */
    float *squares;                /* of shares: [shares][m / SIDE][panels][SQUARE]; NULL: into C */
} product;

static size_t part_at(const product *job, size_t at)
{
    size_t part = 0;
    while (part + 1 < job->parts && at >= job->at[part + 1]) part++;
    return part;
}
/* The part of a panel's columns, and the first of them there. */
static size_t part_of(const product *job, size_t panel, size_t *column)
{
    const size_t part = job->deep ? 0 : part_at(job, panel);
    *column = (panel - (job->deep ? 0 : job->at[part])) * SIDE;
    return part;
}
/* The part of a step, and the first k of it there; column_part: where the parts lie side by side. */
static size_t part_of_step(const product *job, size_t column_part, size_t step, size_t *k)
{
    const size_t part = job->deep ? part_at(job, step) : column_part;
    *k = (step - (job->deep ? job->at[part] : 0)) * STEP;
    return part;
}

/* ---- packing ---- */

static void pack_one(size_t terms, const side *x, bool by_side, size_t first, size_t k, size_t depth, uint16_t *to)
{
    if (terms == 1)
        pack_tile(x->data, x->type, x->stride, x->along, by_side, first, x->count, k, depth, to);
    else
        (by_side ? pack_left : pack_right)(x->data, x->type, x->stride, x->along, first, x->count, k, depth, to);
}

/* 32 rows of the left operand, from `first` on, and steps [from, to) of k; returns where the next ones go. */
static uint16_t *pack_rows(const product *job, size_t first, size_t from, size_t end, uint16_t *to)
{
    for (size_t s = from; s < end; s++, to += job->terms * 2 * TILE) {
        size_t k;
        const size_t part = part_of_step(job, 0, s, &k);
        const side *x = &job->left[part];
        for (size_t half = 0; half < 2; half++)
            pack_one(job->terms, x, true, first + 16 * half, k, job->part[part].k, to + half * TILE);
    }
    return to;
}

/* Panels of the right operand, steps [from, end) of k, packed tile by tile: the next one is one of `panel`, of the two
 * of each step. The numbers of a tile are asked for before, line by line: they come from memory while others are packed
 * or multiplied, and not so early that they leave the cache again, where rows that lie a power of two apart have little
 * room. */
typedef struct panels {
    const product *job;
    size_t panel, last, from, end, tile;
    uint16_t *to; /* where the panel goes */
    struct {
        const char *data;
        size_t stride, line; /* bytes between lines or, along, between pairs of them; the next line */
        bool along;
    } soon; /* the tile AHEAD tiles later */
} panels;

/* A tile's operand, and its first number there. */
static const side *right_at(const panels *x, size_t panel, size_t tile, size_t *first, size_t *k)
{
    const size_t part = part_of_step(x->job, part_of(x->job, panel, first), x->from + tile / 2, k);
    *first += tile % 2 * 16;
    return &x->job->right[part];
}
static void find_soon(panels *x)
{
    const size_t tiles = 2 * (x->end - x->from), tile = x->tile + AHEAD;
    size_t first, k;
    const side *right = right_at(x, x->panel + (tile >= tiles && x->panel + 1 < x->last), tile % tiles, &first, &k);
    const size_t size = plx_type_size(right->type),
                 at = right->along ? first * right->stride + k : k * right->stride + first;
    x->soon.data = (const char *)right->data + at * size;
    x->soon.stride = right->stride * size;
    x->soon.along = right->along;
    x->soon.line = 0;
}
INLINE void ask_for(panels *x, size_t lines)
{
    for (; lines > 0 && x->soon.line < LINES; lines--, x->soon.line++) {
        const size_t line = x->soon.line,
                     at = x->soon.along ? line / 2 * x->soon.stride + line % 2 * 64 : line * x->soon.stride;
        __builtin_prefetch(x->soon.data + at, 0, 2);
    }
}
static void pack_next(panels *x)
{
    const product *job = x->job;
    size_t first, k;
    const side *right = right_at(x, x->panel, x->tile, &first, &k);
    pack_one(job->terms, right, false, first, k, job->part[right - job->right].k,
             x->to + (x->tile / 2 * job->terms * 2 + x->tile % 2) * TILE);
    x->tile++;
    find_soon(x);
}
static void pack_whole(panels *x)
{
    find_soon(x);
    while (x->tile < 2 * (x->end - x->from)) {
        ask_for(x, LINES);
        pack_next(x);
    }
}
static void pack_panel(void *argument, size_t panel, int thread)
{
    (void)thread;
    const product *job = argument;
    panels x = {.job = job, .panel = panel, .last = job->panels, .end = job->steps};
    x.to = job->packed + panel * job->steps * job->terms * 2 * TILE;
    pack_whole(&x);
}

/* ---- what is done while blocks are computed ---- */

/* C's lines of the next block are asked for, and the next panel is packed. */
typedef struct meanwhile {
    const float *c; /* 32 rows, ldc numbers apart; or NULL */
    size_t ldc, row;
    panels next;
    size_t blocks, due; /* of a panel; tiles x blocks that are to be packed */
} meanwhile;

INLINE void go_on(meanwhile *x, size_t rows)
{
    for (; x->c != NULL && rows > 0 && x->row < SIDE; rows--, x->row++) {
        __builtin_prefetch(x->c + x->row * x->ldc, 1, 3);
        __builtin_prefetch(x->c + x->row * x->ldc + 16, 1, 3);
    }
    if (x->next.panel == x->next.last) return;
    ask_for(&x->next, plx_parts(2 * LINES, x->blocks));
    for (x->due += 2; x->due >= x->blocks; x->due -= x->blocks) pack_next(&x->next);
}

/* ---- blocks ---- */

/* C's 32 x 32 numbers at c, their rows ldc apart, += the product of `steps` steps; read: else they begin at 0. */
static inline void block(plx_tiles *tiles, size_t terms, const uint16_t *left, const uint16_t *right, size_t steps,
                         float *c, size_t ldc, bool read, meanwhile *next)
{
    if (read)
        square_load(tiles, c, ldc);
    else
        square_zero(tiles);
    square_operand a = {left, TILE, terms * 2 * TILE}, b = {right, TILE, terms * 2 * TILE};
    const size_t rows = plx_parts(SIDE, steps);
    for (size_t s = 0; s < steps; s++) {
        if (terms == 1) {
            go_on(next, rows);
            square_multiply(tiles, a, b, s, 1);
        } else { /* amid the products: behind the last of a step its vectors hold up the tiles of the next */
            square_first_terms(tiles, a, 2 * TILE, b, 2 * TILE, s);
            go_on(next, rows);
            square_second_terms(tiles, b, 2 * TILE, s);
        }
    }
    square_store(tiles, c, ldc);
}

/* The same where C ends inside the block. */
static void block_at_edge(plx_tiles *tiles, size_t terms, const uint16_t *left, const uint16_t *right, size_t steps,
                          float *c, size_t ldc, bool read, meanwhile *next, size_t rows, size_t columns)
{
    float whole[SQUARE] __attribute__((aligned(64)));
    memset(whole, 0, sizeof whole);
    for (size_t i = 0; i < rows && read; i++) memcpy(whole + i * SIDE, c + i * ldc, columns * sizeof *c);
    block(tiles, terms, left, right, steps, whole, SIDE, read, next);
    for (size_t i = 0; i < rows; i++) memcpy(c + i * ldc, whole + i * SIDE, columns * sizeof *c);
}

/* c = beta c + bias, where the sums cannot simply begin with c or with 0. */
static void prepare(const plx_matmul_args *a, float *c, size_t rows, size_t column, size_t columns)
{
    if (a->bias == NULL && (a->beta == 0 || a->beta == 1) && a->k > 0) return;
    vf scale = vf_set((float)a->beta);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j += 16) {
            size_t left = columns - j;
            vf x = a->bias != NULL ? product_load(a->bias, a->bias_type, column + j, left) : vf_set(0);
            if (a->beta != 0) x += scale * vf_next(c + i * a->ldc + j, left);
            vf_put(c + i * a->ldc + j, x, left);
        }
}

/* ---- tasks ---- */

/* Rows, panels and steps of a task. */
typedef struct place {
    size_t row, rows, first, end, begin, last, share;
} place;
static place place_of(const product *job, size_t index)
{
    place p = {.row = index / job->across % job->down * job->rows,
               .first = index % job->across * job->columns,
               .share = index / job->across / job->down};
    p.begin = p.share * job->share;
    p.rows = job->m - p.row < job->rows ? job->m - p.row : job->rows;
    p.end = job->panels - p.first < job->columns ? job->panels : p.first + job->columns;
    p.last = job->steps - p.begin < job->share ? job->steps : p.begin + job->share;
    return p;
}
/* The steps from `from` on that are worked on at a time end here. */
static size_t stretch(const product *job, const place *p, size_t from)
{
    return p->last - from < job->depth ? p->last : from + job->depth;
}

/* C = beta C + a square, whose shares lie `apart` numbers from each other and are summed in order; turned in a product
 * whose C^T is computed. later: C += it. */
static void put_square(const product *job, const float *square, size_t apart, size_t shares, size_t row, size_t panel,
                       bool later)
{
    size_t column;
    const plx_matmul_args *a = &job->part[part_of(job, panel, &column)];
    const double beta = later ? 1 : a->beta;
    const vf scale = vf_set((float)beta);
    for (size_t quarter = 0; quarter < 4; quarter++) {
        const size_t down = quarter / 2 * 16, right = quarter % 2 * 16;
        const float *from = square + down * SIDE + right;
        vf sum[16];
        UNROLL for (size_t i = 0; i < 16; i++) sum[i] = vf_load(from + i * SIDE);
        for (size_t s = 1; s < shares; s++) {
            from += apart;
            UNROLL for (size_t i = 0; i < 16; i++) sum[i] += vf_load(from + i * SIDE);
        }
        if (job->turned) transpose(sum);
        const size_t i0 = job->turned ? column + right : row + down, j0 = job->turned ? row + down : column + right;
        float *c = (float *)a->c + i0 * a->ldc + j0;
        for (size_t i = 0; i < 16 && i0 + i < a->m && j0 < a->n; i++, c += a->ldc) {
            if (beta != 0) sum[i] += scale * vf_next(c, a->n - j0);
            vf_put(c, sum[i], a->n - j0);
        }
    }
}
static void sum_shares(void *argument, size_t index, int thread)
{
    (void)thread;
    const product *job = argument;
    const size_t blocks = plx_parts(job->m, SIDE) * job->panels;
    put_square(job, job->squares + index * SQUARE, blocks * SQUARE, job->shares, index / job->panels * SIDE,
               index % job->panels, false);
}

/* Where a block goes: into C, or its square of a share; *ldc: from row to row there. */
static float *corner_of(const product *job, const place *p, size_t i, size_t panel, size_t *ldc)
{
    const size_t row = p->row + i;
    size_t column;
    const plx_matmul_args *a = &job->part[part_of(job, panel, &column)];
    *ldc = job->squares != NULL ? SIDE : a->ldc;
    if (job->squares == NULL) return (float *)a->c + (job->turned ? column * *ldc + row : row * *ldc + column);
    return job->squares + ((p->share * plx_parts(job->m, SIDE) + row / SIDE) * job->panels + panel) * SQUARE;
}

/* One panel's blocks in a stretch of k, the task's first or a later one. */
static void panel_blocks(const product *job, plx_tiles *tiles, const place *p, size_t panel, const uint16_t *left,
                         const uint16_t *right, size_t steps, bool later, meanwhile *next)
{
    size_t column, ldc;
    const size_t part = part_of(job, panel, &column), count = job->right[part].count - column;
    const plx_matmul_args *a = &job->part[part];
    const bool read = later || (job->squares == NULL && (a->beta != 0 || a->bias != NULL));
    for (size_t i = 0; i < p->rows; i += SIDE, left += steps * job->terms * 2 * TILE) {
        const bool below = i + SIDE < p->rows;
        next->c = NULL;
        next->row = 0;
        if (job->squares == NULL && (below || panel + 1 < p->end))
            next->c = corner_of(job, p, below ? i + SIDE : 0, below ? panel : panel + 1, &next->ldc);
        float *c = corner_of(job, p, i, panel, &ldc);
        if (job->squares == NULL && job->turned) {
            float square[SQUARE] __attribute__((aligned(64)));
            block(tiles, job->terms, left, right, steps, square, SIDE, false, next);
            put_square(job, square, 0, 1, p->row + i, panel, later);
        } else if (job->squares != NULL || (count >= SIDE && p->rows - i >= SIDE))
            block(tiles, job->terms, left, right, steps, c, ldc, read, next);
        else
            block_at_edge(tiles, job->terms, left, right, steps, c, ldc, read, next, below ? SIDE : p->rows - i,
                          count < SIDE ? count : SIDE);
    }
}

static void task(void *argument, size_t index, int thread)
{
    const product *job = argument;
    const place p = place_of(job, index);
    uint16_t *left = job->rows_of + (size_t)thread * job->left_size;
    for (size_t panel = p.first; panel < p.end && job->squares == NULL && !job->turned; panel++) {
        size_t column, ldc;
        const size_t part = part_of(job, panel, &column), count = job->right[part].count - column;
        float *c = corner_of(job, &p, 0, panel, &ldc);
        prepare(&job->part[part], c, p.rows, column, count < SIDE ? count : SIDE);
    }
    plx_tiles memory, *tiles = &memory;
    plx_tiles_begin(tiles);
    for (size_t from = p.begin, to; from < p.last; from = to) {
        to = stretch(job, &p, from);
        uint16_t *end = left;
        for (size_t i = 0; i < p.rows; i += SIDE) end = pack_rows(job, p.row + i, from, to, end);
        const size_t panel_size = job->terms * 2 * TILE;
        uint16_t *own = job->packed + (size_t)thread * 2 * job->depth * panel_size;
        meanwhile next = {.blocks = plx_parts(p.rows, SIDE)};
        next.next =
            (panels){.job = job, .panel = job->shared ? p.end : p.first, .last = p.end, .from = from, .end = to};
        next.next.to = own;
        if (!job->shared) pack_whole(&next.next);
        for (size_t panel = p.first; panel < p.end; panel++) {
            const uint16_t *right = next.next.to;
            if (job->shared)
                right = job->packed + (panel * job->steps + from) * panel_size;
            else {
                next.next.to = own + (panel + 1 - p.first) % 2 * job->depth * panel_size;
                next.next.panel = panel + 1;
                next.next.tile = 0;
            }
            panel_blocks(job, tiles, &p, panel, left, right, to - from, from > p.begin, &next);
        }
    }
    plx_tiles_end(tiles);
}

/* x W^T is never divided in k: how would depend on the number of its rows. */
static bool divisible(const product *job)
{
    const plx_matmul_args *a = job->part;
    return !job->deep && (a->transpose_a || !a->transpose_b) && a->bias == NULL;
}

/* Numbers are packed for `left` / columns + `right` / rows of a product's time, and squares of shares of k stored and
 * summed for 1 / share: the division into at least TASKS tasks for which that is least. */
static void divide(product *job)
{
    const size_t m = job->m, most = divisible(job) ? SHARES : 1;
    const double left = job->left->along ? 1 : 2, right = job->right->along ? 2 : 1; /* turning: as long as splitting */
    double least = HUGE_VAL;
    for (size_t down = 1; down <= m; down *= 2)
        for (size_t across = 1; across <= job->panels; across *= 2)
            for (size_t shares = 1; shares <= most; shares *= 2) {
                size_t rows = plx_parts(plx_parts(m, SIDE), down) * SIDE, columns = plx_parts(job->panels, across);
                size_t share = plx_parts(job->steps, shares), tasks = down * across * shares;
                double cost = left / (double)(columns * SIDE) + right / (double)rows;
                cost += (shares > 1 ? 1.0 : 0) / (double)(share * STEP) + (tasks < TASKS ? TASKS / (double)tasks : 0);
                if (rows > ROWS_MOST || cost >= least) continue;
                least = cost;
                job->rows = rows;
                job->columns = columns;
                job->share = share;
            }
    job->down = plx_parts(m, job->rows);
    job->across = plx_parts(job->panels, job->columns);
    job->shared = job->down > 1 && job->panels * job->steps * job->terms * 2 * TILE <= SHARED_MOST;
}

/* The parts' operands and places. */
static void lay_out(product *job, plx_group kind)
{
    const plx_matmul_args *first = job->part;
    job->deep = kind == PLX_GROUP_SUM;
    job->turned = first->transpose_a && !first->transpose_b && first->bias == NULL && first->k > 0 &&
                  (kind == PLX_GROUP_RIGHT || (first->m > first->n && first->m * first->n <= TURNED_MOST));
    for (size_t i = 0; i < job->parts; i++) {
        const plx_matmul_args *a = &first[i];
        const side left = {a->a, a->a_type, a->lda, a->m, !a->transpose_a},
                   right = {a->b, a->b_type, a->ldb, a->n, a->transpose_b};
        job->left[i] = job->turned ? right : left;
        job->right[i] = job->turned ? left : right;
        job->at[i + 1] = job->at[i] + (job->deep ? plx_parts(a->k, STEP) : plx_parts(job->right[i].count, SIDE));
    }
    job->m = job->left->count;
    job->steps = job->deep ? job->at[job->parts] : plx_parts(first->k, STEP);
    job->panels = job->deep ? plx_parts(job->right->count, SIDE) : job->at[job->parts];
}

static plx_status multiply(plx_context *context, const plx_matmul_args *a, size_t count, plx_group kind, size_t terms)
{
    product job = {.part = a, .parts = count, .terms = terms, .depth = DEPTH / STEP};
    lay_out(&job, kind);
    if (job.m == 0 || job.panels == 0) return PLX_OK;
    divide(&job);
    job.shares = job.share < job.steps ? plx_parts(job.steps, job.share) : 1;
    const size_t threads = (size_t)context->options.threads, stack = terms * 2 * TILE; /* numbers a step */
    const size_t blocks = plx_parts(job.m, SIDE) * job.panels;
    job.left_size = plx_parts(job.rows, SIDE) * job.depth * stack;
    const size_t packed = (job.shared ? job.panels * job.steps : threads * 2 * job.depth) * stack,
                 rows = threads * job.left_size, squares = job.shares > 1 ? job.shares * blocks * SQUARE : 0;
    job.packed = plx_kernel_scratch(context, (packed + rows) * sizeof *job.packed + squares * sizeof *job.squares);
    if (job.packed == NULL) return PLX_ERROR_MEMORY;
    job.rows_of = job.packed + packed;
    if (job.shares > 1) job.squares = (float *)(job.rows_of + rows);
    if (job.shared) plx_parallel_for(context, job.panels, pack_panel, &job);
    plx_parallel_for(context, job.down * job.across * job.shares, task, &job);
    if (job.shares > 1) plx_parallel_for(context, blocks, sum_shares, &job);
    return PLX_OK;
}
static plx_status multiply_group(plx_context *context, const plx_matmul_group_args *args, size_t terms)
{
    return multiply(context, args->part, args->count, plx_group_of(args), terms);
}

/* Operands rounded to bf16. */
plx_status PLX_CPU(plx_matmul)(plx_context *context, const void *arguments)
{
    return multiply(context, arguments, 1, PLX_GROUP_NONE, 1);
}
plx_status PLX_CPU(plx_matmul_group)(plx_context *context, const void *arguments)
{
    return multiply_group(context, arguments, 1);
}

/* Operands as sums of three bf16 numbers, which give f32's precision (terms.h). */
plx_status PLX_CPU(plx_matmul_terms)(plx_context *context, const void *arguments)
{
    return multiply(context, arguments, 1, PLX_GROUP_NONE, TERMS);
}
plx_status PLX_CPU(plx_matmul_group_terms)(plx_context *context, const void *arguments)
{
    return multiply_group(context, arguments, TERMS);
}
