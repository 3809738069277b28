/* encode_backward.c - the gradient of the wedges for z, by the algebra of encode.c.
 *
 * Let G be the antisymmetric matrix with dw above its diagonal, y = G a, x = G u, and k = 1 where |p| > eps, else 0.
 * For one offset the gradient of p is Q = s (G - k n (n . dw)), and p = a ^ z_(t-D) gives da = Q z_(t-D), dz_(t-D) = -Q
 * a. As n = a ^ b / |p| with orthogonal a and b, n . dw = -(b . y) / |p|, and both are vector work: dz_(t-D) = -s (y -
 * k b (b . y) / |b|^2) da       =  s (G b + alpha (y - k b (b . y) / |b|^2) + k a (b . y) / |a|^2)     the G b together
 * make x A first pass computes da and y of every token; a second collects, for each token, its gradient as z_(t-D) from
 * the at most |offsets| later tokens that looked back at it. So no two threads write one place.
 *
 * The two products with G are f32, of a / |a| and |a| u; all else is double. That is enough also where s is huge: what
 * cancels between the two tokens of a nearly parallel pair is s y, and both take it from the same y. */
#include "mixers/grassmann/cpu/planes.h"

/* What the second pass needs of one offset: its part of dz_(t-D) is -s y + along b, b = z_(t-D) - alpha z_t. */
typedef struct look_ahead {
    double s, along, alpha;
} look_ahead;

typedef struct backward_work {
    const plx_grassmann_encode_backward_args *args;
    size_t padded, components;
    double *y;         /* [count, padded] */
    look_ahead *pairs; /* [count, offsets] */
    char *scratch; /* a piece for each thread: a, x and the b_D in double; dw, two vectors, their products in float */
    size_t scratch_bytes;
    size_t lowest; /* first token that the second pass looks at */
} backward_work;

/* y = G a and x = G u, f32. `above` has PLX_VW numbers before and behind it that may be read. Blocks of PLX_VW rows by
 * PLX_VW columns on and above the diagonal, each used twice: by columns, as G = -G^T, where whole vectors are summed
 * in the order of the rows; and by rows, whose lanes are added up at the end. */
INLINE void multiply(const float *above, const float *a, const float *u, float *y, float *x, const size_t rank,
                     const size_t padded)
{
    vi lane;
    for (int n = 0; n < PLX_VW; n++) lane[n] = n;
    memset(y, 0, padded * sizeof(float));
    memset(x, 0, padded * sizeof(float));
    for (size_t first = 0; first < padded; first += PLX_VW) {
        vf y_rows[PLX_VW], x_rows[PLX_VW];
        for (size_t n = 0; n < PLX_VW; n++) y_rows[n] = x_rows[n] = vf_set(0);
        for (size_t j = first; j < padded; j += PLX_VW) {
            vf a_j = vf_load(a + j), u_j = vf_load(u + j), y_j = vf_load(y + j), x_j = vf_load(x + j);
            const float *row = above; /* of G, but for what lies left of the diagonal */
            for (size_t n = 0; n < PLX_VW && first + n + 1 < rank; n++) {
                size_t i = first + n;
                vf g = vf_load(row + j - i - 1);
                if (j == first) g = (vf)((vi)g & (vi)(lane > (int)n));
                y_j -= g * vf_set(a[i]);
                x_j -= g * vf_set(u[i]);
                y_rows[n] += g * a_j;
                x_rows[n] += g * u_j;
                row += rank - 1 - i;
            }
            vf_store(y + j, y_j);
            vf_store(x + j, x_j);
        }
        vf_store(y + first, vf_load(y + first) + vf_sums(y_rows));
        vf_store(x + first, vf_load(x + first) + vf_sums(x_rows));
        for (size_t i = first; i < first + PLX_VW && i + 1 < rank; i++) above += rank - 1 - i;
    }
}

/* da of token `first + n` into dz, its y and pairs. */
INLINE void look_token(const backward_work *work, size_t n, char *scratch, const size_t rank, const size_t padded)
{
    const plx_grassmann_encode_backward_args *args = work->args;
    const plx_grassmann_offsets *offsets = &args->offsets;
    size_t token = args->first + n, pair_of[MOST];
    int64_t t = (int64_t)(token % args->sequence.length);
    double *dz = args->dz + token * rank, *y = work->y + n * padded;
    const float *z = (const float *)args->z + token * rank;
    look l;
    l.count = 0;
    l.a = (double *)scratch;
    l.b = l.a + padded;
    for (size_t o = 0; o < offsets->count; o++) {
        if (!plx_grassmann_has_gradient(args, token, t, offsets->value[o])) continue;
        l.before[l.count] = z - (size_t)offsets->value[o] * rank;
        pair_of[l.count++] = o;
    }
    if (l.count == 0) {
        memset(dz, 0, rank * sizeof(double));
        return; /* nobody reads this token's y and pairs */
    }
    double *da = l.b + offsets->count * padded;
    float *direction = (float *)(da + padded), *partner = direction + padded, *y_f = partner + padded;
    float *x_f = y_f + padded, *dw = x_f + padded + PLX_VW;
    size_t valid = count_valid(offsets, t, args->sequence.start[token]);
    look_back(&l, z, rank, padded);
    double length = wedge_vectors(&l, valid, padded, direction, partner);
    memcpy(dw, (const float *)args->dw + n * work->components, work->components * sizeof(float));
    multiply(dw, direction, partner, y_f, x_f, rank, padded);

    vd sums[MOST + VD_LANES];
    double dots[MOST + VD_LANES], y_part = 0, a_part = 0;
    for (size_t k = 0; k < l.count; k++) sums[k] = (vd){0};
    for (size_t i = 0; i < padded; i += VD_LANES) {
        vd y_i = vd_widen(y_f + i) * vd_set(length);
        vd_store(y + i, y_i);
        vd_store(da + i, vd_widen(x_f + i) * vd_set(1 / length));
        for (size_t k = 0; k < l.count; k++) sums[k] += vd_load(l.b + k * padded + i) * y_i;
    }
    sum_lanes(sums, l.count, dots);
    for (size_t k = 0; k < l.count; k++) {
        double s = l.scale[k] / (double)valid, along = l.unit[k] ? s * dots[k] / l.b_squares[k] : 0;
        work->pairs[n * offsets->count + pair_of[k]] = (look_ahead){s, along, l.alpha[k]};
        y_part += s * l.alpha[k];
        if (l.unit[k]) a_part += s * dots[k] / l.squares;
        dots[k] = -l.alpha[k] * along;
    }
    for (size_t i = 0; i < padded; i += VD_LANES) {
        vd sum = vd_load(da + i) + vd_set(y_part) * vd_load(y + i) + vd_set(a_part) * vd_load(l.a + i);
        for (size_t k = 0; k < l.count; k++) sum += vd_set(dots[k]) * vd_load(l.b + k * padded + i);
        vd_store(da + i, sum);
    }
    memcpy(dz, da, rank * sizeof(double));
}

static void look_piece(void *argument, size_t index, int thread)
{
    const backward_work *work = argument;
    size_t end = plx_part_end(work->args->count, PIECE, index);
    char *scratch = work->scratch + (size_t)thread * work->scratch_bytes;
    for (size_t n = index * PIECE; n < end; n++) {
        if (work->args->rank == 32)
            look_token(work, n, scratch, 32, 32);
        else
            look_token(work, n, scratch, work->args->rank, work->padded);
    }
}

static void collect_token(const backward_work *work, size_t token)
{
    const plx_grassmann_encode_backward_args *args = work->args;
    const plx_grassmann_offsets *offsets = &args->offsets;
    size_t rank = args->rank, t = token % args->sequence.length;
    double *sum = args->dz + token * rank;
    const float *z = (const float *)args->z + token * rank;
    for (size_t o = 0; o < offsets->count; o++) {
        size_t ahead = (size_t)offsets->value[o], later = token + ahead;
        if (ahead >= args->sequence.length - t || later < args->first || later >= args->first + args->count) continue;
        if (!plx_grassmann_has_gradient(args, later, (int64_t)(t + ahead), offsets->value[o])) continue;
        look_ahead p = work->pairs[(later - args->first) * offsets->count + o];
        const double *y = work->y + (later - args->first) * work->padded;
        const float *a = (const float *)args->z + later * rank;
        for (size_t i = 0; i < rank; i++) sum[i] += p.along * (z[i] - p.alpha * a[i]) - p.s * y[i];
    }
}

static void collect_piece(void *argument, size_t index, int thread)
{
    (void)thread;
    const backward_work *work = argument;
    size_t count = work->args->first + work->args->count - work->lowest, end = plx_part_end(count, PIECE, index);
    for (size_t n = index * PIECE; n < end; n++) collect_token(work, work->lowest + n);
}

/* The first token that one of the call's tokens can look back at. */
static size_t lowest_token(const plx_grassmann_encode_backward_args *args)
{
    size_t t = args->first % args->sequence.length, most = 0;
    for (size_t o = 0; o < args->offsets.count; o++)
        if ((size_t)args->offsets.value[o] > most) most = (size_t)args->offsets.value[o];
    return args->first - (most < t ? most : t);
}

plx_status PLX_CPU(plx_grassmann_encode_backward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_encode_backward_args *args = arguments;
    size_t offsets = args->offsets.count, padded = pad(args->rank);
    if (args->count == 0) return PLX_OK;
    backward_work work = {.args = args, .padded = padded, .components = plx_grassmann_components(args->rank)};
    work.lowest = lowest_token(args);
    size_t floats = 4 * padded + work.components + 2 * PLX_VW;
    size_t bytes = (2 + offsets) * padded * sizeof(double) + floats * sizeof(float);
    work.scratch_bytes = (bytes + 63) / 64 * 64;
    size_t pieces = work.scratch_bytes * (size_t)context->options.threads;
    size_t vectors = args->count * padded * sizeof(double), pairs = args->count * offsets * sizeof(look_ahead);
    char *memory = plx_kernel_scratch(context, vectors + pieces + pairs);
    if (memory == NULL) return PLX_ERROR_MEMORY;
    memset(memory + vectors, 0, pieces); /* what is read before and behind dw */
    work.y = (double *)memory;
    work.scratch = memory + vectors;
    work.pairs = (look_ahead *)(work.scratch + pieces);
    plx_parallel_for(context, plx_parts(args->count, PIECE), look_piece, &work);
    plx_parallel_for(context, plx_parts(work.args->first + args->count - work.lowest, PIECE), collect_piece, &work);
    return PLX_OK;
}
