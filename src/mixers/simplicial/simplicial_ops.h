/* simplicial_ops.h - the operations of the 2-simplicial mixer (Clift 2019; Roy et al. 2025).
 *
 * For a query at token t of its sequence, head h reading key/value head g = h / (H/G), with
 *     j in max(start, t - w1 + 1) .. t        k in max(start, t - w2 + 1) .. t
 *     k'_k = k2_k + bias_k                    v'_k = v2_k + bias_v
 *     trilinear  A_jk = scale * sum_l q_l k_jl k'_kl
 *     det        A_jk = scale * sum over whole chunks c of 3 components of det[q_c; k_jc; k'_kc]
 *     P = softmax of A over all pairs (j,k) together
 *     out = sum_jk P_jk (v_j * v'_k)          lse = natural log of sum_jk exp(A_jk)
 * Nothing of the size of the pairs is ever stored: out and lse are all that backward needs. */
#ifndef PLX_MIXERS_SIMPLICIAL_OPS_H
#define PLX_MIXERS_SIMPLICIAL_OPS_H

#include "kernels/kernels.h"

typedef enum plx_simplicial_form { PLX_SIMPLICIAL_TRILINEAR, PLX_SIMPLICIAL_DET } plx_simplicial_form;

/* What forward and backward have in common. */
typedef struct plx_simplicial_problem {
    plx_type type;
    plx_sequence sequence;
    size_t heads, kv_heads, head_dim; /* H, G, d; H % G == 0 */
    size_t window1, window2; /* w1 of k and v, 0: no limit; w2 >= 1 of k2 and v2; both count the token itself */
    plx_simplicial_form form;
    double scale;                     /* 1 / sqrt(d) */
    double bias_k, bias_v;
    bool bf16;                        /* f32 operands of products may be rounded to bf16 */
    const void *q;                    /* [B,T,H,d] */
    plx_history k, v, k2, v2;         /* width G*d */
} plx_simplicial_problem;

typedef struct plx_simplicial_forward_args {
    plx_simplicial_problem problem;
    void *out;                        /* [B,T,H,d] */
    void *lse;                        /* [B,T,H], or NULL: no backward follows */
} plx_simplicial_forward_args;
/* flops: 4 d a pair (the two matrix products), pairs counted for one document a row. */
extern const plx_op plx_op_simplicial_forward;

/* Whole rows only: the histories are the rows' own tokens, [B,T,G,d] dense, and sequence.past is NULL. */
typedef struct plx_simplicial_backward_args {
    plx_simplicial_problem problem;
    const void *out, *lse, *dout;     /* as forward left them; dout [B,T,H,d] */
    void *dq;                         /* [B,T,H,d] */
    void *dk, *dv, *dk2, *dv2;        /* [B,T,G,d] */
} plx_simplicial_backward_args;
/* flops: 12 d a pair (the six matrix products that backward needs). */
extern const plx_op plx_op_simplicial_backward;

/* ---- what the implementations share ---- */

/* Index in the sequence of query (b,t), and of the first token that it sees through a window (0: no limit). */
static inline int64_t plx_simplicial_position(const plx_sequence *sequence, size_t b, size_t t)
{
    return (sequence->past == NULL ? 0 : sequence->past[b]) + (int64_t)t;
}
static inline int64_t plx_simplicial_first(const plx_sequence *sequence, size_t b, size_t t, size_t window)
{
    int64_t start = sequence->start[b * sequence->length + t];
    int64_t reach = window == 0 ? 0 : plx_simplicial_position(sequence, b, t) - (int64_t)window + 1;
    return reach > start ? reach : start;
}
/* Element offset of token j of row b in a history. */
static inline size_t plx_simplicial_offset(const plx_history *history, size_t b, int64_t j)
{
    size_t row = history->slot == NULL ? b : (size_t)history->slot[b];
    int64_t base = history->base == NULL ? 0 : history->base[b];
    return row * history->row_stride + (size_t)(j - base) * history->width;
}

plx_status plx_simplicial_forward_ref(plx_context *context, const void *arguments);
plx_status plx_simplicial_backward_ref(plx_context *context, const void *arguments);

#endif
