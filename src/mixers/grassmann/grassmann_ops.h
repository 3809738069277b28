/* grassmann_ops.h - the operations of the grassmann mixer: wedges of a token with earlier ones, and the gate.
 *
 * Notation: r = rank, P = r (r - 1) / 2, tokens = B * T. The P components of a wedge a ^ b are
 * a_i b_j - a_j b_i over i < j, i slowest. Everything here is per token; the matrix products around it are the
 * shared matmul. ref.c is the plain form, cpu/ the one-wedge form (see cpu/encode.c). */
#ifndef PLX_MIXERS_GRASSMANN_OPS_H
#define PLX_MIXERS_GRASSMANN_OPS_H

#include "kernels/kernels.h"

#define PLX_GRASSMANN_OFFSETS_MAX 64
#define PLX_GRASSMANN_EPSILON 1e-6 /* wedges shorter than this are divided by it instead of their length */

/* Offsets D >= 1, all different, by value: they are part of the problem, not of its data. */
typedef struct plx_grassmann_offsets {
    size_t count;
    int32_t value[PLX_GRASSMANN_OFFSETS_MAX];
} plx_grassmann_offsets;

static inline size_t plx_grassmann_components(size_t rank) { return rank * (rank - 1) / 2; }

/* reduce_forward: z = x W^T + b. Equal rows of x give equal rows of z, to the last bit, whatever else the call holds:
 * the wedges of (nearly) equal z are as sensitive as can be. */
typedef struct plx_grassmann_reduce_args {
    plx_type type, weight_type;
    size_t tokens, width, rank;
    const void *x;                  /* [tokens, width] */
    const void *weight, *bias;      /* [rank, width], [rank] */
    void *z;                        /* [tokens, rank] */
} plx_grassmann_reduce_args;
extern const plx_op plx_op_grassmann_reduce_forward;

/* reduce_backward: dx += dz W, dW += dz^T x, db += sum of dz over the tokens; summed in double. */
typedef struct plx_grassmann_reduce_backward_args {
    plx_type type, weight_type;
    size_t tokens, width, rank;
    const void *x, *weight;
    const double *dz;               /* [tokens, rank], whatever the type */
    void *dx, *dweight, *dbias;     /* of `type`; dweight, dbias NULL when frozen */
} plx_grassmann_reduce_backward_args;
extern const plx_op plx_op_grassmann_reduce_backward;

/* encode_forward: w[b,t] = mean over the valid D of n^D, zero where none is valid;
 *   n^D = p / max(|p|, epsilon),  p = z_t ^ z_(t-D).
 * Only the tokens first .. first + count - 1 of the batch (row after row) are computed: P numbers a token are many, so
 * the module has them made, and used, for as many tokens at once as stay in cache.
 * With t the token's index in its sequence, D is valid when t - D >= start[b,t]. z holds the batch's own tokens and
 * those that they look back at; its width is the rank. */
typedef struct plx_grassmann_encode_args {
    plx_type type;
    plx_sequence sequence;
    plx_history z;                  /* width r */
    plx_grassmann_offsets offsets;
    size_t first, count;
    void *w;                        /* [count, P] */
} plx_grassmann_encode_args;
extern const plx_op plx_op_grassmann_encode_forward;

/* encode_backward, over whole rows (sequence.past NULL): dz from dw, for both places of a z: as z_t and as z_(t-D).
 * Where |p| <= epsilon the derivative is that of p / epsilon. Nothing but z is needed of the forward. dw is that of the
 * tokens first .. first + count - 1: their dz are overwritten, those of earlier tokens added to. So calls for one piece
 * of the batch after another, in order, make the whole.
 *
 * ids: NULL, or says that z_t depends on nothing but ids[b,t] and the weights (a first layer: tokens). Then the wedge
 * of two equal ids is 0 whatever the weights, and has no gradient. Without this the two tokens' dz get parts of
 * opposite sign, up to 10^6 times dw, that cancel in every weight, but only after each was rounded together with the
 * rest of its token's gradient: in f32 a tenth of the gradient was lost to that, measured on random text of 11
 * letters. */
typedef struct plx_grassmann_encode_backward_args {
    plx_type type;
    plx_sequence sequence;
    size_t rank;
    plx_grassmann_offsets offsets;
    const int32_t *ids;             /* [B,T] or NULL */
    const void *z;                  /* [B,T,r] */
    size_t first, count;
    const void *dw;                 /* [count, P] */
    double *dz;                     /* [B,T,r] in double, whatever the type: see cpu/reduce.c */
} plx_grassmann_encode_backward_args;
extern const plx_op plx_op_grassmann_encode_backward;

/* fuse_forward: gate = sigmoid(gate), in place; y = gate * h + (1 - gate) * g. */
typedef struct plx_grassmann_fuse_args {
    plx_type type;
    size_t count;                   /* elements of each array */
    void *gate;                     /* in: before the sigmoid; out: after */
    const void *h, *g;
    void *y;
} plx_grassmann_fuse_args;
extern const plx_op plx_op_grassmann_fuse_forward;

/* fuse_backward, with gate as the forward left it:
 *   dgate = dy * (h - g) * gate * (1 - gate), for the value before the sigmoid;
 *   dh = dy * gate;  dg = dy * (1 - gate). */
typedef struct plx_grassmann_fuse_backward_args {
    plx_type type;
    size_t count;
    const void *gate, *h, *g, *dy;
    void *dgate, *dh, *dg;
} plx_grassmann_fuse_backward_args;
extern const plx_op plx_op_grassmann_fuse_backward;

/* Whether the wedge of token `token` of the batch, the t-th of its row, with the one `offset` back has a gradient. */
static inline bool plx_grassmann_has_gradient(const plx_grassmann_encode_backward_args *args, size_t token, int64_t t,
                                              int32_t offset)
{
    if (t - offset < args->sequence.start[token]) return false;
    return args->ids == NULL || args->ids[token] != args->ids[token - (size_t)offset];
}

/* The references (ref.c). */
plx_status plx_grassmann_reduce_forward_ref(plx_context *context, const void *arguments);
plx_status plx_grassmann_reduce_backward_ref(plx_context *context, const void *arguments);
plx_status plx_grassmann_encode_forward_ref(plx_context *context, const void *arguments);
plx_status plx_grassmann_encode_backward_ref(plx_context *context, const void *arguments);
plx_status plx_grassmann_fuse_forward_ref(plx_context *context, const void *arguments);
plx_status plx_grassmann_fuse_backward_ref(plx_context *context, const void *arguments);

/* Element offset in z.data of token `index` (in the sequence) of row b. */
static inline size_t plx_grassmann_element(const plx_history *z, size_t b, int64_t index)
{
    size_t row = z->slot != NULL ? (size_t)z->slot[b] : b;
    int64_t base = z->base != NULL ? z->base[b] : 0;
    return row * z->row_stride + (size_t)(index - base) * z->width;
}

#endif
