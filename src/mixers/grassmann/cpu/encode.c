/* encode.c - wedges of a token with earlier ones by the one-wedge algebra, forward and backward.
 *
 * With a = z_t and, for a valid offset D of m,
 *     alpha = a . z_(t-D) / |a|^2,   b = z_(t-D) - alpha a   (b is orthogonal to a),   |p| = |a| |b|,
 *     s = 1 / (m max(|p|, eps)):
 *     w = sum_D s_D (a ^ z_(t-D)) = a ^ u,   u = sum_D s_D b_D           one wedge for any number of offsets.
 *
 * Backward: let G be the antisymmetric matrix with dw above its diagonal, y = G a, x = G u, and k = 1 where |p| > eps,
 * else 0. For one offset the gradient of p is Q = s (G - k n (n . dw)), and p = a ^ z_(t-D) gives da = Q z_(t-D),
 * dz_(t-D) = -Q a. As n = a ^ b / |p| with orthogonal a and b, n . dw = -(b . y) / |p|, and both are vector work:
 *     dz_(t-D) = -s (y - k b (b . y) / |b|^2)
 *     da       =  s (G b + alpha (y - k b (b . y) / |b|^2) + k a (b . y) / |a|^2)     the G b together make x
 * A first pass computes da and y of every token; a second collects, for each token, its gradient as z_(t-D) from the
 * at most |offsets| later tokens that looked back at it. So no two threads write one place.
 *
 * All of this but the wedge itself is in double. What hurts is b: for nearly parallel vectors it is a small
 * difference of large ones, and |b| decides the scale of everything. The inputs are f32, so a deviation from parallel
 * of one unit in the last place leaves |b| near 2^-24 |z|; with products and sums good to 2^-53 that b is right to
 * about 2^-28 relative, and an exact repeat has alpha = 1 and b = 0 exactly (the same sum divided by itself). So no
 * second orthogonalisation is needed. Double costs little: the vectors are rank long, and the matrix product that
 * follows costs a hundred times as much. The wedge is of a / |a| and |a| u, both at most 1 long and orthogonal, so that
 * nothing in it cancels or overflows and f32 suffices. */
#include "kernels/cpu/vec.h"
#include "mixers/grassmann/cpu/wide.h"
#include "mixers/grassmann/grassmann_ops.h"

#include <math.h>

#define CHUNK 32 /* tokens a piece of parallel work */

/* Vectors of rank numbers are held in double, zero from rank to `padded`, a multiple of every vector's length. */
static size_t pad(size_t rank) { return (rank + PLX_VW - 1) / PLX_VW * PLX_VW; }

static inline double dot(const double *x, const double *y, size_t padded)
{
    vd sum = {0};
    for (size_t i = 0; i < padded; i += LANES) sum += vd_load(x + i) * vd_load(y + i);
    return vd_sum(sum);
}
/* y += c x */
static inline void add_scaled(double *y, double c, const double *x, size_t padded)
{
    vd factor = vd_set(c);
    for (size_t i = 0; i < padded; i += LANES) vd_store(y + i, vd_load(y + i) + factor * vd_load(x + i));
}
static void widen_vector(const float *from, double *to, size_t rank, size_t padded)
{
    for (size_t i = 0; i < rank; i++) to[i] = from[i];
    for (size_t i = rank; i < padded; i++) to[i] = 0;
}

/* What one offset's wedge is known by. */
typedef struct pair {
    double alpha, squares, scale; /* scale: 1 / max(|p|, eps); squares: |b|^2 */
    bool unit;                    /* |p| > eps */
} pair;

/* b: in z_(t-D), out its part orthogonal to a. */
static inline pair orthogonalise(const double *a, double a_squares, double *b, size_t padded)
{
    pair result = {.alpha = a_squares > 0 ? dot(a, b, padded) / a_squares : 0};
    add_scaled(b, -result.alpha, a, padded);
    result.squares = dot(b, b, padded);
    double length = sqrt(a_squares) * sqrt(result.squares);
    result.unit = length > PLX_GRASSMANN_EPSILON;
    result.scale = 1 / (result.unit ? length : PLX_GRASSMANN_EPSILON);
    return result;
}

static size_t count_valid(const plx_grassmann_offsets *offsets, int64_t index, int64_t start)
{
    size_t valid = 0;
    for (size_t o = 0; o < offsets->count; o++) valid += index - offsets->value[o] >= start;
    return valid;
}

/* ---- forward ---- */

typedef struct forward_work {
    const plx_grassmann_encode_args *args;
    size_t rank, padded, components, tokens;
    char *scratch; /* a piece for each thread: a, b, u in double; a, u, and the wedge with a vector to spare in float */
    size_t scratch_bytes;
} forward_work;

/* out = a ^ u. Each row is read and written whole vectors long; what exceeds it is overwritten by the next row. */
static void wedge(const float *a, const float *u, size_t rank, float *out)
{
    for (size_t i = 0; i + 1 < rank; out += rank - 1 - i, i++)
        for (size_t j = i + 1; j < rank; j += PLX_VW)
            vf_store(out + (j - i - 1), vf_set(a[i]) * vf_load(u + j) - vf_set(u[i]) * vf_load(a + j));
}

static void forward_token(const forward_work *work, size_t token, char *scratch, float *w)
{
    const plx_grassmann_encode_args *args = work->args;
    size_t rank = work->rank, padded = work->padded, b_row = token / args->sequence.length;
    int64_t past = args->sequence.past != NULL ? args->sequence.past[b_row] : 0;
    int64_t index = past + (int64_t)(token % args->sequence.length);
    int64_t start = args->sequence.start[token];
    size_t valid = count_valid(&args->offsets, index, start);
    double *a = (double *)scratch, *b = a + padded, *u = b + padded;
    float *direction = (float *)(u + padded), *partner = direction + padded + PLX_VW, *out = partner + padded + PLX_VW;
    const float *z = args->z.data;

    widen_vector(z + plx_grassmann_element(&args->z, b_row, index), a, rank, padded);
    double squares = dot(a, a, padded);
    if (valid == 0 || squares == 0) {
        memset(w, 0, work->components * sizeof(float));
        return;
    }
    memset(u, 0, padded * sizeof(double));
    for (size_t o = 0; o < args->offsets.count; o++) {
        int64_t before = index - args->offsets.value[o];
        if (before < start) continue;
        widen_vector(z + plx_grassmann_element(&args->z, b_row, before), b, rank, padded);
        pair p = orthogonalise(a, squares, b, padded);
        add_scaled(u, p.scale / (double)valid, b, padded);
    }
    double length = sqrt(squares);
    for (size_t i = 0; i < padded; i++) {
        direction[i] = (float)(a[i] / length);
        partner[i] = (float)(u[i] * length);
    }
    memset(direction + padded, 0, PLX_VW * sizeof(float));
    memset(partner + padded, 0, PLX_VW * sizeof(float));
    wedge(direction, partner, rank, out);
    memcpy(w, out, work->components * sizeof(float));
}

static void forward_chunk(void *argument, size_t index, int thread)
{
    const forward_work *work = argument;
    size_t end = (index + 1) * CHUNK < work->tokens ? (index + 1) * CHUNK : work->tokens;
    for (size_t token = index * CHUNK; token < end; token++)
        forward_token(work, token, work->scratch + (size_t)thread * work->scratch_bytes,
                      (float *)work->args->w + token * work->components);
}

plx_status PLX_CPU(plx_grassmann_encode_forward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_encode_args *args = arguments;
    forward_work work = {.args = args, .rank = args->z.width, .padded = pad(args->z.width)};
    work.components = plx_grassmann_components(work.rank);
    work.tokens = args->sequence.rows * args->sequence.length;
    size_t bytes = 3 * work.padded * sizeof(double) + (2 * work.padded + work.components + 3 * PLX_VW) * sizeof(float);
    work.scratch_bytes = (bytes + 63) / 64 * 64;
    work.scratch = plx_kernel_scratch(context, work.scratch_bytes * (size_t)context->options.threads);
    if (work.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, (work.tokens + CHUNK - 1) / CHUNK, forward_chunk, &work);
    return PLX_OK;
}

/* ---- backward ---- */

/* What the second pass needs of one offset: its part of dz_(t-D) is -s y + along b, b = z_(t-D) - alpha z_t. */
typedef struct look_back {
    double s, along, alpha;
} look_back;

typedef struct backward_work {
    const plx_grassmann_encode_backward_args *args;
    size_t padded, components, tokens;
    double *da, *y;     /* [tokens, padded] */
    look_back *pairs;   /* [tokens, offsets] */
    char *scratch;      /* a piece for each thread: a, u, x and the b_D in double; G [rank, padded] in float */
    size_t scratch_bytes;
} backward_work;

/* G: antisymmetric, with `above` above its diagonal; columns from rank to padded are 0. */
static void expand(const float *above, size_t rank, size_t padded, float *matrix)
{
    for (size_t i = 0; i < rank; i++) {
        matrix[i * padded + i] = 0;
        for (size_t j = i + 1; j < rank; j++, above++) {
            matrix[i * padded + j] = *above;
            matrix[j * padded + i] = -*above;
        }
        for (size_t j = rank; j < padded; j++) matrix[i * padded + j] = 0;
    }
}

/* y = G a and x = G u, by columns, as G = -G^T: whole vectors of sums, in the order of the rows. */
static void multiply(const float *matrix, size_t rank, size_t padded, const double *a, const double *u, double *y,
                     double *x)
{
    for (size_t j = 0; j < padded; j += PLX_VW) {
        vd y_low = {0}, y_high = {0}, x_low = {0}, x_high = {0};
        for (size_t i = 0; i < rank; i++) {
            vd low = vd_widen(matrix + i * padded + j), high = vd_widen(matrix + i * padded + j + LANES);
            y_low -= low * vd_set(a[i]);
            y_high -= high * vd_set(a[i]);
            x_low -= low * vd_set(u[i]);
            x_high -= high * vd_set(u[i]);
        }
        vd_store(y + j, y_low);
        vd_store(y + j + LANES, y_high);
        vd_store(x + j, x_low);
        vd_store(x + j + LANES, x_high);
    }
}

static void look_token(const backward_work *work, size_t token, char *scratch)
{
    const plx_grassmann_encode_backward_args *args = work->args;
    const plx_grassmann_offsets *offsets = &args->offsets;
    size_t rank = args->rank, padded = work->padded;
    int64_t t = (int64_t)(token % args->sequence.length), start = args->sequence.start[token];
    double valid = (double)count_valid(offsets, t, start);
    double *a = (double *)scratch, *u = a + padded, *x = u + padded, *b = x + padded;
    float *matrix = (float *)(b + offsets->count * padded);
    double *da = work->da + token * padded, *y = work->y + token * padded;
    const float *z = args->z;
    pair pairs[PLX_GRASSMANN_OFFSETS_MAX];

    memset(da, 0, padded * sizeof(double));
    if (valid == 0) return; /* nobody reads this token's y and pairs */
    widen_vector(z + token * rank, a, rank, padded);
    double squares = dot(a, a, padded), y_part = 0, a_part = 0;
    memset(u, 0, padded * sizeof(double));
    for (size_t o = 0; o < offsets->count; o++) {
        if (!plx_grassmann_has_gradient(args, token, t, offsets->value[o])) continue;
        widen_vector(z + (token - (size_t)offsets->value[o]) * rank, b + o * padded, rank, padded);
        pairs[o] = orthogonalise(a, squares, b + o * padded, padded);
        add_scaled(u, pairs[o].scale / valid, b + o * padded, padded);
    }
    expand((const float *)args->dw + token * work->components, rank, padded, matrix);
    multiply(matrix, rank, padded, a, u, y, x);
    add_scaled(da, 1, x, padded);
    for (size_t o = 0; o < offsets->count; o++) {
        if (!plx_grassmann_has_gradient(args, token, t, offsets->value[o])) continue;
        double s = pairs[o].scale / valid, dot_by = 0;
        if (pairs[o].unit) dot_by = dot(b + o * padded, y, padded);
        look_back *pair_back = work->pairs + token * offsets->count + o;
        *pair_back = (look_back){s, pairs[o].unit ? s * dot_by / pairs[o].squares : 0, pairs[o].alpha};
        add_scaled(da, -pairs[o].alpha * pair_back->along, b + o * padded, padded);
        y_part += s * pairs[o].alpha;
        if (pairs[o].unit) a_part += s * dot_by / squares;
    }
    add_scaled(da, y_part, y, padded);
    add_scaled(da, a_part, a, padded);
}

static void look_chunk(void *argument, size_t index, int thread)
{
    const backward_work *work = argument;
    size_t end = (index + 1) * CHUNK < work->tokens ? (index + 1) * CHUNK : work->tokens;
    for (size_t token = index * CHUNK; token < end; token++)
        look_token(work, token, work->scratch + (size_t)thread * work->scratch_bytes);
}

static void collect_token(const backward_work *work, size_t token)
{
    const plx_grassmann_encode_backward_args *args = work->args;
    const plx_grassmann_offsets *offsets = &args->offsets;
    size_t rank = args->rank, padded = work->padded, t = token % args->sequence.length;
    double *sum = work->da + token * padded;
    const float *z = (const float *)args->z + token * rank;
    for (size_t o = 0; o < offsets->count; o++) {
        size_t ahead = (size_t)offsets->value[o], later = token + ahead;
        if (ahead >= args->sequence.length - t) continue;
        if (!plx_grassmann_has_gradient(args, later, (int64_t)(t + ahead), offsets->value[o])) continue;
        look_back p = work->pairs[later * offsets->count + o];
        const double *y = work->y + later * padded;
        const float *a = (const float *)args->z + later * rank;
        for (size_t i = 0; i < rank; i++) sum[i] += p.along * (z[i] - p.alpha * a[i]) - p.s * y[i];
    }
    memcpy(args->dz + token * rank, sum, rank * sizeof(double));
}

static void collect_chunk(void *argument, size_t index, int thread)
{
    (void)thread;
    const backward_work *work = argument;
    size_t end = (index + 1) * CHUNK < work->tokens ? (index + 1) * CHUNK : work->tokens;
    for (size_t token = index * CHUNK; token < end; token++) collect_token(work, token);
}

plx_status PLX_CPU(plx_grassmann_encode_backward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_encode_backward_args *args = arguments;
    size_t count = args->offsets.count;
    backward_work work = {.args = args, .padded = pad(args->rank), .components = plx_grassmann_components(args->rank)};
    work.tokens = args->sequence.rows * args->sequence.length;
    size_t bytes = (3 + count) * work.padded * sizeof(double) + args->rank * work.padded * sizeof(float);
    work.scratch_bytes = (bytes + 63) / 64 * 64;
    size_t vectors = work.tokens * work.padded, pieces = work.scratch_bytes * (size_t)context->options.threads;
    size_t pairs = work.tokens * count * sizeof(look_back);
    work.da = plx_kernel_scratch(context, 2 * vectors * sizeof(double) + pieces + pairs);
    if (work.da == NULL) return PLX_ERROR_MEMORY;
    work.y = work.da + vectors;
    work.scratch = (char *)(work.y + vectors);
    work.pairs = (look_back *)(work.scratch + pieces);
    plx_parallel_for(context, (work.tokens + CHUNK - 1) / CHUNK, look_chunk, &work);
    plx_parallel_for(context, (work.tokens + CHUNK - 1) / CHUNK, collect_chunk, &work);
    return PLX_OK;
}
