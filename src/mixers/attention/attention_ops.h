/* attention_ops.h - softmax attention as two operations, used by the attention and nexus mixers.
 *
 * Head h of H reads key/value head h / (H / G). Query (b,t) is token i = past[b] + t of its sequence and sees the
 * tokens j with first <= j <= i, first = max(start[b,t], i - window + 1), or start[b,t] without a window:
 *     s_j = scale q . k_j        lse = log(sum_j exp(s_j))        out = sum_j exp(s_j - lse) v_j
 * Memory is linear in T: the T x T matrix of scores never exists. */
#ifndef PLX_MIXERS_ATTENTION_OPS_H
#define PLX_MIXERS_ATTENTION_OPS_H

#include "kernels/kernels.h"

/* For whole rows and for steps against a state (then keys and values are histories with slot, base and past). */
typedef struct plx_attention_args {
    plx_type type;
    plx_sequence sequence;
    size_t heads, kv_heads, head_dim; /* H, G, d */
    size_t window;                    /* tokens seen, the query's own included; 0: no limit */
    double scale;                     /* 1 / sqrt(d) */
    const void *q;                    /* [B,T,H,d] */
    plx_history keys, values;         /* width >= G * d; head g of a token begins at g * d */
    void *out;                        /* [B,T,H,d] */
    void *lse;                        /* [B,T,H], natural logarithm; NULL when no backward follows */
    bool bf16;                        /* f32 operands of products may be rounded to bf16 */
} plx_attention_args;
extern const plx_op plx_op_attention_forward;

/* Gradients of whole rows (past must be NULL): with p_j = exp(s_j - lse), delta = dout . out,
 * ds_j = p_j (dout . v_j - delta):    dq = scale sum_j ds_j k_j,   dk_j = scale sum ds_j q,   dv_j = sum p_j dout,
 * the last two over all queries that see j, of all heads of the group. */
typedef struct plx_attention_backward_args {
    plx_type type;
    plx_sequence sequence;
    size_t heads, kv_heads, head_dim, window;
    double scale;
    const void *q;                    /* [B,T,H,d] */
    const void *k, *v;                /* [B,T,G,d] */
    const void *out, *lse, *dout;     /* [B,T,H,d], [B,T,H], [B,T,H,d] */
    void *dq, *dk, *dv;               /* shapes of q, k, v; overwritten */
    bool bf16;                        /* as in forward */
} plx_attention_backward_args;
extern const plx_op plx_op_attention_backward;

/* Pairs of query and key that B rows of one document of T tokens have, for one head. */
double plx_attention_pairs(size_t rows, size_t length, size_t window);

/* The oldest token that query t of row b sees. */
static inline int32_t plx_attention_first(const plx_sequence *sequence, size_t b, size_t t, size_t window)
{
    int32_t first = sequence->start[b * sequence->length + t];
    int64_t own = (sequence->past != NULL ? sequence->past[b] : 0) + (int64_t)t;
    if (window > 0 && own - (int64_t)window + 1 > first) first = (int32_t)(own - (int64_t)window + 1);
    return first;
}
/* Index of the first element of token j of row b. */
static inline size_t plx_history_index(const plx_history *history, size_t b, int64_t j)
{
    size_t row = history->slot != NULL ? (size_t)history->slot[b] : b;
    int64_t base = history->base != NULL ? history->base[b] : 0;
    return row * history->row_stride + (size_t)(j - base) * history->width;
}

plx_status plx_attention_forward_ref(plx_context *context, const void *arguments);
plx_status plx_attention_backward_ref(plx_context *context, const void *arguments);

#endif
