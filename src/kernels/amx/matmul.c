/* matmul.c - C = beta C + op(A) op(B) + bias with operands rounded to bf16 and sums in f32, on tiles.
 *
 * The right operand is packed once by all threads: panels of 32 columns, each a stack of pairs of tiles along k. A task
 * is some rows of the product: it packs its rows of the left operand for DEPTH of k, then goes through panels and
 * blocks of 32 x 32, which are four tiles of sums. What the loads of tiles from L1 and L2 allow is the limit, so a
 * block uses every tile twice, and DEPTH is such that a block's operands stay in L1 and L2. Meanwhile what the task
 * reads and writes next comes from memory, a few lines a step. Where C is small and k long, as in weight gradients,
 * tasks divide k: their squares of C are then summed in order. Where C is taller than wide and both operands lie with k
 * down, C^T is computed: the left operand has to be turned, so it is the narrower one. An element's sum is taken over
 * the same stretches of k in the same order whatever rows and columns are computed with it. */
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
#define LINE ((size_t)64)             /* of a cache, bytes */

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
    uint16_t *packed;              /* it: [panels][steps][terms][2][TILE], or [threads][depth][terms][2][TILE] */
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

/* ---- what comes from memory meanwhile ---- */

/* Lines of some rows of an array, `stride` bytes apart. */
typedef struct ahead {
    const char *row;
    size_t stride, rows, lines, line; /* lines: of a row; line: the next */
} ahead;

/* Of an operand: `count` of its rows or columns from `first` on, k in [begin, end). Where k runs along memory,
 * packing asks for the next rows itself. */
static ahead ahead_of(const side *x, size_t k, size_t first, size_t count, size_t begin, size_t end)
{
    if (x->along) return (ahead){.rows = 0};
    const size_t size = plx_type_size(x->type);
    if (end > k) end = k;
    if (count > x->count - first) count = x->count - first;
    return (ahead){.row = (const char *)x->data + (begin * x->stride + first) * size,
                   .stride = x->stride * size,
                   .rows = end - begin,
                   .lines = plx_parts(count * size, LINE)};
}
INLINE void fetch(ahead *x, size_t count, const int write)
{
    for (; count > 0 && x->rows > 0; count--) {
        if (write)
            __builtin_prefetch(x->row + x->line * LINE, 1, 3);
        else
            __builtin_prefetch(x->row + x->line * LINE, 0, 2);
        if (++x->line < x->lines) continue;
        x->line = 0;
        x->row += x->stride;
        x->rows--;
    }
}

/* What a task wants next: columns of the right operand, so many lines a block; C, all of it in a block's time. */
typedef struct wants {
    ahead right, c;
    size_t right_lines;
} wants;

/* ---- packing ---- */

/* The tiles of 32 of an operand, `sides` of the parts, from first on and steps [from, to) of k; returns where the next
 * ones go. */
static uint16_t *pack(const product *job, const side *sides, bool by_side, size_t column_part, size_t first,
                      size_t from, size_t end, uint16_t *to)
{
    for (size_t s = from; s < end; s++, to += job->terms * 2 * TILE) {
        size_t k;
        const size_t part = part_of_step(job, column_part, s, &k), depth = job->part[part].k;
        const side *x = &sides[part];
        for (size_t half = 0; half < 2; half++)
            if (job->terms == 1)
                pack_tile(x->data, x->type, x->stride, x->along, by_side, first + 16 * half, x->count, k, depth,
                          to + half * TILE);
            else
                (by_side ? pack_left : pack_right)(x->data, x->type, x->stride, x->along, first + 16 * half, x->count,
                                                   k, depth, to + half * TILE);
    }
    return to;
}

/* A panel of the right operand. */
static void pack_columns(const product *job, size_t panel, size_t from, size_t end, uint16_t *to)
{
    size_t column;
    const size_t part = part_of(job, panel, &column);
    pack(job, job->right, false, part, column, from, end, to);
}
static void pack_panel(void *argument, size_t panel, int thread)
{
    (void)thread;
    const product *job = argument;
    pack_columns(job, panel, 0, job->steps, job->packed + panel * job->steps * job->terms * 2 * TILE);
}

/* ---- blocks ---- */

/* C's 32 x 32 numbers at c, their rows ldc apart, += the product of `steps` steps; read: else they begin at 0. */
static inline void block(plx_tiles *tiles, size_t terms, const uint16_t *left, const uint16_t *right, size_t steps,
                         float *c, size_t ldc, bool read, wants *next)
{
    if (read)
        square_load(tiles, c, ldc);
    else
        square_zero(tiles);
    square_operand a = {left, TILE, terms * 2 * TILE}, b = {right, TILE, terms * 2 * TILE};
    const size_t of_c = plx_parts(next->c.rows * next->c.lines, steps), of_right = plx_parts(next->right_lines, steps);
    for (size_t s = 0; s < steps; s++) {
        fetch(&next->c, of_c, 1);
        fetch(&next->right, of_right, 0);
        if (terms == 1)
            square_multiply(tiles, a, b, s, 1);
        else
            square_multiply_terms(tiles, a, 2 * TILE, b, 2 * TILE, s, 1);
    }
    square_store(tiles, c, ldc);
}

/* The same where C ends inside the block. */
static void block_at_edge(plx_tiles *tiles, size_t terms, const uint16_t *left, const uint16_t *right, size_t steps,
                          float *c, size_t ldc, bool read, wants *next, size_t rows, size_t columns)
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
                         const uint16_t *right, size_t steps, bool later, wants *next)
{
    size_t column, ldc;
    const size_t part = part_of(job, panel, &column), count = job->right[part].count - column;
    const plx_matmul_args *a = &job->part[part];
    const bool read = later || (job->squares == NULL && (a->beta != 0 || a->bias != NULL));
    for (size_t i = 0; i < p->rows; i += SIDE, left += steps * job->terms * 2 * TILE) {
        const bool below = i + SIDE < p->rows;
        next->c.rows = 0;
        if (job->squares == NULL && (below || panel + 1 < p->end)) {
            next->c.row = (const char *)corner_of(job, p, below ? i + SIDE : 0, below ? panel : panel + 1, &ldc);
            next->c = (ahead){next->c.row, ldc * sizeof(float), SIDE, SIDE * sizeof(float) / LINE, 0};
        }
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

/* The next stretch's first panel; after the last stretch that of the next task, which is likely this thread's too. */
static void next_stretch(const product *job, size_t index, const place *p, size_t to, wants *next)
{
    const bool more = to < p->last;
    if (!more && index + 1 == job->across * job->down * job->shares) return;
    const place then = more ? *p : place_of(job, index + 1);
    const size_t from = more ? to : then.begin, steps = stretch(job, &then, from) - from;
    size_t column, k;
    const size_t part = part_of_step(job, part_of(job, then.first, &column), from, &k);
    next->right = ahead_of(&job->right[part], job->part[part].k, column, SIDE, k, k + steps * STEP);
    next->right_lines = plx_parts(next->right.rows * next->right.lines, plx_parts(p->rows, SIDE));
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
        for (size_t i = 0; i < p.rows; i += SIDE) end = pack(job, job->left, true, 0, p.row + i, from, to, end);
        wants next = {.right_lines = 0};
        for (size_t panel = p.first; panel < p.end; panel++) {
            uint16_t *right = job->packed + (job->shared ? panel * job->steps + from : (size_t)thread * job->depth) *
                                                job->terms * 2 * TILE;
            if (!job->shared) {
                pack_columns(job, panel, from, to, right);
                if (panel + 1 == p.end) next_stretch(job, index, &p, to, &next); /* packing asks for panels to come */
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
    const size_t packed = (job.shared ? job.panels * job.steps : threads * job.depth) * stack,
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
