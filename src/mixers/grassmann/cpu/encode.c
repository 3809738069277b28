/* encode.c - wedges of a token with earlier ones by the one-wedge algebra: forward; encode_backward.c is its gradient.
 *
 * With a = z_t and, for a valid offset D of m,
 *     alpha = a . z_(t-D) / |a|^2,   b = z_(t-D) - alpha a   (b is orthogonal to a),   |p| = |a| |b|,
 *     s = 1 / (m max(|p|, eps)):
 *     w = sum_D s_D (a ^ z_(t-D)) = a ^ u,   u = sum_D s_D b_D           one wedge for any number of offsets.
 *
 * All of this but the wedge itself is in double. What hurts is b: for nearly parallel vectors it is a small
 * difference of large ones, and |b| decides the scale of everything. The inputs are f32, so a deviation from parallel
 * of one unit in the last place leaves |b| near 2^-24 |z|; with products and sums good to 2^-53 that b is right to
 * about 2^-28 relative, and an exact repeat has alpha = 1 and b = 0 exactly (the same sum divided by itself). So no
 * second orthogonalisation is needed. Double costs little: the vectors are rank long, and the matrix product that
 * follows costs a hundred times as much. */
#include "mixers/grassmann/cpu/planes.h"

typedef struct forward_work {
    const plx_grassmann_encode_args *args;
    size_t padded, components;
    char *scratch; /* a piece for each thread: a and the b_D in double; two vectors and a wedge in float */
    size_t scratch_bytes;
} forward_work;

/* out = a ^ u. Each row is read and written whole vectors long; what exceeds it is overwritten by the next row, or
 * exceeds the wedge by less than PLX_VW. a and u have PLX_VW zeros behind them. */
INLINE void wedge(const float *a, const float *u, const size_t rank, float *out)
{
    for (size_t i = 0; i + 1 < rank; out += rank - 1 - i, i++) {
        vf a_i = vf_set(a[i]), u_i = vf_set(u[i]);
        for (size_t j = i + 1; j < rank; j += PLX_VW)
            vf_store(out + (j - i - 1), a_i * vf_load(u + j) - u_i * vf_load(a + j));
    }
}

/* The wedge of the token into w, which has room for PLX_VW numbers more. */
INLINE void forward_token(const forward_work *work, size_t token, char *scratch, float *w, const size_t rank,
                          const size_t padded)
{
    const plx_grassmann_encode_args *args = work->args;
    size_t row = token / args->sequence.length;
    int64_t past = args->sequence.past != NULL ? args->sequence.past[row] : 0;
    int64_t index = past + (int64_t)(token % args->sequence.length), start = args->sequence.start[token];
    const float *z = args->z.data;
    look l;
    l.count = 0;
    l.a = (double *)scratch;
    l.b = l.a + padded;
    for (size_t o = 0; o < args->offsets.count; o++) {
        int64_t before = index - args->offsets.value[o];
        if (before >= start) l.before[l.count++] = z + plx_grassmann_element(&args->z, row, before);
    }
    if (l.count > 0) look_back(&l, z + plx_grassmann_element(&args->z, row, index), rank, padded);
    if (l.count == 0 || l.squares == 0) {
        memset(w, 0, work->components * sizeof(float));
        return;
    }
    float *direction = (float *)(l.b + args->offsets.count * padded), *partner = direction + padded + PLX_VW;
    wedge_vectors(&l, l.count, padded, direction, partner);
    vf_store(direction + padded, vf_set(0));
    vf_store(partner + padded, vf_set(0));
    wedge(direction, partner, rank, w);
}

static void forward_piece(void *argument, size_t index, int thread)
{
    const forward_work *work = argument;
    const plx_grassmann_encode_args *args = work->args;
    char *scratch = work->scratch + (size_t)thread * work->scratch_bytes;
    size_t components = work->components, end = plx_part_end(args->count, PIECE, index);
    float *spare = (float *)(scratch + work->scratch_bytes) - components - PLX_VW;
    for (size_t n = index * PIECE; n < end; n++) {
        float *w = (float *)args->w + n * components;
        bool room = (end - n - 1) * components >= PLX_VW; /* in this piece, written later */
        if (args->z.width == 32)
            forward_token(work, args->first + n, scratch, room ? w : spare, 32, 32);
        else
            forward_token(work, args->first + n, scratch, room ? w : spare, args->z.width, work->padded);
        if (!room) memcpy(w, spare, components * sizeof(float));
    }
}

plx_status PLX_CPU(plx_grassmann_encode_forward)(plx_context *context, const void *arguments)
{
    const plx_grassmann_encode_args *args = arguments;
    size_t rank = args->z.width, padded = pad(rank);
    forward_work work = {.args = args, .padded = padded, .components = plx_grassmann_components(rank)};
    size_t floats = 2 * (padded + PLX_VW) + work.components + PLX_VW;
    size_t bytes = (1 + args->offsets.count) * padded * sizeof(double) + floats * sizeof(float);
    work.scratch_bytes = (bytes + 63) / 64 * 64;
    work.scratch = plx_kernel_scratch(context, work.scratch_bytes * (size_t)context->options.threads);
    if (work.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, plx_parts(args->count, PIECE), forward_piece, &work);
    return PLX_OK;
}
