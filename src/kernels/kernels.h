/* kernels.h - operations, their implementations, and the contract of each operation that all models share.
 *
 * An operation (plx_op) is a name, a flop count and a list of implementations, fastest first; the last is the
 * plain-loop reference, which accepts every type and computes in double. plx_op_run takes the first that the
 * processor has and that accepts the arguments. Mixers define operations of their own in the same way
 * (src/mixers/NAME/). Implementations in a cpu/ folder are compiled once per level (see cpu/vec.h).
 *
 * Contracts that hold for all: pointers are device memory, NULL only where said; sizes in elements; row-major
 * and dense unless strides are given; an output never overlaps an input unless "in place" is said; a "+="
 * output accumulates, any other is overwritten; every sum has one order, whatever the number of threads;
 * nothing allocates but through plx_kernel_scratch. `type` is the type of all activations (f32 or f64). */
#ifndef PLX_KERNELS_H
#define PLX_KERNELS_H

#include "core/context.h"

typedef struct plx_kernel {
    const char *name;  /* "avx512", "avx2", "portable", "blas", "ref" */
    plx_level level;   /* least level that it needs */
    bool (*accepts)(const void *arguments); /* NULL: everything */
    plx_status (*run)(plx_context *context, const void *arguments);
} plx_kernel;

typedef struct plx_op {
    const char *name; /* "matmul", "attention.forward" */
    double (*flops)(const void *arguments); /* NULL: not counted (memory work) */
    const plx_kernel *kernels;              /* ends with the reference, then {0} */
} plx_op;

/* The implementation that plx_op_run would take. arguments NULL: an f32 problem of no special shape. */
const plx_kernel *plx_op_choose(const plx_context *context, const plx_op *op, const void *arguments);
plx_status plx_op_run(plx_context *context, const plx_op *op, const void *arguments);
/* Whether it rounds f32 operands to bf16, and so is only for problems that let it ("amx", "bf16"). */
bool plx_kernel_rounds(const plx_kernel *kernel);
/* Runs an implementation; while the context's profile is on, with its calls, time and flops recorded. */
plx_status plx_profile_run(plx_context *context, const plx_op *op, const plx_kernel *kernel, const void *arguments);
/* All shared operations, ended by NULL; mixers list their own in plx_mixer.ops. */
extern const plx_op *const plx_shared_ops[];

/* Flop-free host helpers for references: element i of an array of any type, as double. */
double plx_get(const void *data, plx_type type, size_t i);
void plx_put(void *data, plx_type type, size_t i, double value);

/* ---- where a batch's tokens stand in their sequences ---- */

/* Query (b,t) is token past[b] + t of its sequence; it may see keys start[b,t] .. past[b] + t only. */
typedef struct plx_sequence {
    size_t rows, length;    /* B, T */
    const int32_t *start;   /* [B,T], index in the whole sequence of the document's first token */
    const int32_t *past;    /* [B] tokens that came before this batch; NULL: 0 */
} plx_sequence;

/* Keys (or other vectors a token) that queries look back at. In a forward over whole rows they are the rows' own
 * tokens: slot and base NULL, row_stride = T * width. In a step they lie in the state: row b's tokens are at
 * data + slot[b] * row_stride, and the first of them is token base[b] of the sequence. Token j of row b is at
 * data + slot[b] * row_stride + (j - base[b]) * width, unless they are packed (kernels/history.h). */
typedef struct plx_history {
    void *data;
    size_t width;           /* elements a token */
    size_t row_stride;      /* elements a row (slot) */
    const int32_t *slot;    /* [B] or NULL: b */
    const int32_t *base;    /* [B] or NULL: 0 */
    plx_state_form form;    /* attention, append and move take packed histories; all others only whole ones */
} plx_history;

/* ---- matmul: C[M,N] = beta * C + op(A)[M,K] op(B)[K,N] + bias ---- */
typedef struct plx_matmul_args {
    plx_type a_type, b_type, c_type;
    const void *a, *b;
    void *c;
    size_t m, n, k;
    size_t lda, ldb, ldc;          /* row strides of the arrays as stored */
    bool transpose_a, transpose_b; /* stored [K,M], [N,K] */
    double beta;                   /* 0: C is not read */
    const void *bias;              /* [N] of bias_type, added to every row; or NULL */
    plx_type bias_type;
    bool bf16;                     /* f32 operands may be rounded to bf16, sums stay f32 (train.precision) */
    bool gradients;                /* of a pass that computes gradients: no step has to equal it to the last bit */
} plx_matmul_args;
extern const plx_op plx_op_matmul;
/* Products, one after the other: as one job where they share an operand (kernels/group.h). */
#define PLX_GROUP_MOST 5
typedef struct plx_matmul_group_args { size_t count; plx_matmul_args part[PLX_GROUP_MOST]; } plx_matmul_group_args;
extern const plx_op plx_op_matmul_group;
/* Whether an implementation takes them as one job; else each is run by itself, for a profile to name what ran it. */
bool plx_matmul_groups(const plx_context *context, const plx_matmul_group_args *args);

/* ---- column_sum: out[N] += sum over rows of x[rows,N] ---- */
typedef struct plx_column_sum_args { plx_type type; const void *x; void *out; size_t rows, width; } plx_column_sum_args;
extern const plx_op plx_op_column_sum;

/* ---- norms over the last dimension ----
 * rms:   y = x * r * w,             r = 1 / sqrt(mean(x^2) + epsilon)
 * layer: y = (x - mean) * r * w + b, r = 1 / sqrt(var + epsilon), var of the population */
typedef struct plx_norm_args {
    plx_type type;
    bool layer;
    double epsilon;
    size_t rows, width;
    const void *x, *weight, *bias; /* bias NULL for rms */
    void *y, *mean, *rstd;         /* mean, rstd: [rows], mean only for layer; NULL when no backward follows */
    const void *addend;            /* the norm is that of x + addend, */
    void *sum;                     /* which is stored here (may be x or addend); both NULL: of x */
} plx_norm_args;
extern const plx_op plx_op_norm_forward;
typedef struct plx_norm_backward_args {
    plx_type type;
    bool layer;
    size_t rows, width;
    const void *x, *weight, *mean, *rstd, *dy;
    void *dx;               /* dx, or dx += when accumulate; may be dy itself when not accumulating */
    bool accumulate;
    void *dweight, *dbias;  /* +=; NULL when frozen or absent */
} plx_norm_backward_args;
extern const plx_op plx_op_norm_backward;

/* ---- rope: turns pairs of components by position * frequency, in place ----
 * x is [tokens, heads, head_dim]. halves: component i pairs with i + pairs, i < pairs. chunks: components 3c and
 * 3c+1, c < pairs. (a, b) -> (a cos - b sin, a sin + b cos); inverse turns by -angle, which is the backward; with
 * a table of longer cosines and sines (magnitude) the pair grows both ways. */
typedef enum plx_rope_layout { PLX_ROPE_HALVES, PLX_ROPE_CHUNKS } plx_rope_layout;
typedef struct plx_rope_args {
    plx_type type;
    void *x;
    size_t tokens, heads, head_dim, pairs;
    plx_rope_layout layout;
    bool inverse;
    const int32_t *position;       /* [tokens] */
    const void *cosine, *sine;     /* [table_rows, pairs] of `type` */
    size_t table_rows;
    const double *frequency;       /* [pairs], for positions beyond the table */
    double magnitude;              /* of the cosines and sines beyond the table, which holds it already; 0: 1 */
} plx_rope_args;
extern const plx_op plx_op_rope;

/* ---- elementwise ---- */
/* swiglu: y = silu(gate) * up */
typedef struct plx_swiglu_args { plx_type type; size_t count; const void *gate, *up; void *y; } plx_swiglu_args;
extern const plx_op plx_op_swiglu_forward;
typedef struct plx_swiglu_backward_args {
    plx_type type;
    size_t count;
    const void *gate, *up, *dy;
    void *dgate, *dup; /* may be gate, up or dy themselves */
    void *y;           /* what forward gave, once more, for the gradient of the weights behind it; may be dy */
} plx_swiglu_backward_args;
extern const plx_op plx_op_swiglu_backward;
/* gelu: y = x * (1 + erf(x / sqrt 2)) / 2 */
typedef struct plx_gelu_args { plx_type type; size_t count; const void *x; void *y; } plx_gelu_args;
extern const plx_op plx_op_gelu_forward;
typedef struct plx_gelu_backward_args {
    plx_type type;
    size_t count;
    const void *x, *dy;
    void *dx; /* may be x or dy */
    void *y;  /* as with swiglu */
} plx_gelu_backward_args;
extern const plx_op plx_op_gelu_backward;
/* add: y = alpha * a + beta * b; y may be a or b. b may be NULL when beta is 0 */
typedef struct plx_add_args {
    plx_type type;
    size_t count;
    const void *a, *b;
    void *y;
    double alpha, beta;
} plx_add_args;
extern const plx_op plx_op_add;
/* dropout: y = x * keep / (1 - p), keep a function of (seed, stream, index); y may be x. Its own backward */
typedef struct plx_dropout_args {
    plx_type type;
    size_t count;
    const void *x;
    void *y;
    double p;
    uint64_t seed, stream;
} plx_dropout_args;
extern const plx_op plx_op_dropout;

/* ---- embedding: y[tokens, width] = table[id]; backward: dtable[id] += dy, in the order of the tokens ---- */
typedef struct plx_embedding_args {
    plx_type type, table_type;
    const int32_t *ids;
    size_t tokens, width, vocab;
    const void *table;
    void *y;
} plx_embedding_args;
extern const plx_op plx_op_embedding_forward;
typedef struct plx_embedding_backward_args {
    plx_type type;
    const int32_t *ids;
    size_t tokens, width, vocab;
    const void *dy;
    void *dtable;
} plx_embedding_backward_args;
extern const plx_op plx_op_embedding_backward;
/* gather: y[count, width] = x[index[i], width] */
typedef struct plx_gather_args {
    plx_type type;
    const int32_t *index;
    size_t count, width;
    const void *x;
    void *y;
} plx_gather_args;
extern const plx_op plx_op_gather;

/* ---- cross_entropy over rows of logits ----
 * loss[i] = mask[i] * (lse_i - logits[i, target_i]), without the z term; correct[i] = 1 when the largest logit
 * (lowest id on ties) is the target's. With gradient, logits are replaced by
 * scale * mask[i] * (softmax(logits) (1 + 2 z lse) - onehot(target)). */
typedef struct plx_cross_entropy_args {
    plx_type type;
    size_t rows, vocab;
    void *logits;
    const int32_t *targets; /* [rows] */
    const float *mask;      /* [rows] */
    double scale, z;
    bool gradient;
    double *loss;           /* [rows] */
    int32_t *correct;       /* [rows] */
} plx_cross_entropy_args;
extern const plx_op plx_op_cross_entropy;

/* ---- append: rows of new tokens into a history (decoding state) ----
 * token t of row b, x[b,t,width], goes to index past[b] + t of the sequence, packed as the history's form says. */
typedef struct plx_append_args {
    plx_type type;
    plx_sequence sequence;
    plx_history history;
    const void *x;
} plx_append_args;
extern const plx_op plx_op_append;
/* move: each of `rows` rows moves `count[b]` tokens from index `from[b]` to the row's beginning (ranges may overlap) */
typedef struct plx_move_args {
    plx_type type;
    plx_history history;
    size_t rows;
    const int32_t *from, *count;
} plx_move_args;
extern const plx_op plx_op_move;

/* ---- optimiser ---- */
/* Both go through a list of tensors, which is host memory, in one call. */
/* sum_squares: out[i] = sum of x^2 over tensor i, in double, in fixed blocks */
typedef struct plx_squares_tensor { size_t count; const void *x; } plx_squares_tensor;
typedef struct plx_sum_squares_args {
    plx_type type;
    size_t tensors;
    const plx_squares_tensor *list; /* [tensors] */
    double *out;                    /* [tensors] */
} plx_sum_squares_args;
extern const plx_op plx_op_sum_squares;
/* adamw, Loshchilov and Hutter 2019: g = grad * grad_scale; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
 * w = w (1 - lr * decay) - lr * (m / correction1) / (sqrt(v / correction2) + epsilon) */
typedef struct plx_adamw_tensor {
    size_t count;
    void *weight, *m, *v;
    const void *gradient;
    double decay;
} plx_adamw_tensor;
typedef struct plx_adamw_args {
    plx_type type;
    size_t tensors;
    const plx_adamw_tensor *list; /* [tensors] */
    double grad_scale, lr, beta1, beta2, epsilon, correction1, correction2;
} plx_adamw_args;
extern const plx_op plx_op_adamw;

/* ---- to write implementations with ---- */

/* Scratch for the inside of a kernel: at least `bytes`, 64-byte aligned, the same memory at the next call (kept by the
 * context, grown when needed). One block a call of an operation; NULL when memory is short, with the error recorded. */
void *plx_kernel_scratch(plx_context *context, size_t bytes);

/* Levels: PLX_LEVELS(X) names those that this build has, best first. */
#if defined(__x86_64__)
#define PLX_LEVELS(X, ...)                                                                                             \
    X(avx512, PLX_LEVEL_AVX512, __VA_ARGS__)                                                                           \
    X(avx2, PLX_LEVEL_AVX2, __VA_ARGS__) X(portable, PLX_LEVEL_PORTABLE, __VA_ARGS__)
#else
#define PLX_LEVELS(X, ...) X(portable, PLX_LEVEL_PORTABLE, __VA_ARGS__)
#endif
/* PLX_CPU_DECLARE(f): prototypes of f compiled for each level; PLX_CPU_KERNELS(f, accepts): their rows in a list. */
#define PLX_CPU_DECLARE_ONE(level, constant, f) plx_status f##_##level(plx_context *context, const void *arguments);
#define PLX_CPU_DECLARE(f) PLX_LEVELS(PLX_CPU_DECLARE_ONE, f)
#define PLX_CPU_ROW(level, constant, f, accepts) {#level, constant, accepts, f##_##level},
#define PLX_CPU_KERNELS(f, accepts) PLX_LEVELS(PLX_CPU_ROW, f, accepts)
/* Files in an amx/ folder are compiled with bf16 tiles ("amx"), with dot products of bf16 pairs in their place ("bf16") and
 * against the tiles' emulation ("emulated", see amx/tile.h), which any processor runs. A list begins with
 * PLX_TILES_KERNEL; PLX_TILES_EMULATED stands after the versions for each level, where only a test that asks for it by
 * name finds it. f32 as three terms, six products for one, is not in lists as "bf16": that is but twice as fast as f32. */
#define PLX_TILES_DECLARE(f)                                          \
    plx_status f##_amx(plx_context *context, const void *arguments);  \
    plx_status f##_bf16(plx_context *context, const void *arguments); \
    plx_status f##_emulated(plx_context *context, const void *arguments);
#define PLX_TERMS_EMULATED(f, accepts) {"emulated_f32", PLX_LEVEL_PORTABLE, accepts, f##_emulated},
#if defined(__x86_64__)
#define PLX_TERMS_KERNEL(f, accepts) {"amx_f32", PLX_LEVEL_AMX, accepts, f##_amx},
#define PLX_TILES_KERNEL(f, accepts) \
    {"amx", PLX_LEVEL_AMX, accepts, f##_amx}, {"bf16", PLX_LEVEL_BF16, accepts, f##_bf16},
#else
#define PLX_TERMS_KERNEL(f, accepts)
#define PLX_TILES_KERNEL(f, accepts)
#endif
#define PLX_TILES_EMULATED(f, accepts) {"emulated", PLX_LEVEL_PORTABLE, accepts, f##_emulated},

#endif
