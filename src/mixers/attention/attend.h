/* attend.h - the two pieces that attention and nexus layers are made of: turning projected queries and keys, and
 * attending with them. */
#ifndef PLX_MIXERS_ATTENTION_ATTEND_H
#define PLX_MIXERS_ATTENTION_ATTEND_H

#include "mixers/attention/attention_ops.h"
#include "mixers/mixer.h"

/* ---- turn: what happens to projected queries or keys before they meet: QK norm, then RoPE ---- */

typedef struct plx_turn {
    size_t head_dim;
    bool normed;
    plx_norm norm;         /* RMSNorm over each head, weight [head_dim] */
    const plx_rope *rope;  /* NULL: positions are not used */
} plx_turn;

/* Defines NAME.weight (with qk_norm) and the RoPE tables (with rope; partial_rotary_factor of each head is turned). */
plx_status plx_turn_define(plx_params *params, const plx_layer_shape *shape, plx_turn *turn, const char *name);
/* turned = rope(norm(raw)), both [tokens, heads, head_dim]. turned may be raw when there is no norm. */
plx_status plx_turn_forward(plx_run *run, const plx_turn *turn, size_t heads, const void *raw, void *turned,
                            plx_norm_saved *saved);
/* d: in, the gradient for turned; out, that for raw. raw is read only with a norm. */
plx_status plx_turn_backward(plx_run *run, const plx_turn *turn, size_t heads, const plx_norm_saved *saved,
                             const void *raw, void *d);

/* ---- one attention and what its backward needs ---- */

typedef struct plx_attend {
    size_t heads, kv_heads, head_dim, window;
    const void *q, *k, *v; /* of the batch's own tokens */
    void *out, *lse;       /* taken by plx_attend_forward (plx_kept) */
} plx_attend;

/* out = attention(q, keys, values). */
plx_status plx_attend_forward(plx_run *run, plx_attend *attend, const plx_history *keys, const plx_history *values);
plx_status plx_attend_backward(plx_run *run, const plx_attend *attend, const void *dout, void *dq, void *dk, void *dv);

/* The tokens that queries look back at: the batch's own rows in a forward; in a step, the state with x appended, as the
 * layer's part number *part, which is then one more. */
plx_status plx_attend_history(plx_run *run, const void *x, size_t width, size_t *part, plx_history *history);
/* The state of a layer whose queries see `window` tokens (0: all), by attention's operations. */
plx_state_part plx_attend_state(size_t width, size_t window);
/* The key "window": null (0) or a number of tokens >= 1. */
plx_status plx_attend_parse_window(plx_keys *keys, size_t *window);
/* For plx_mixer.begin_as: object's window becomes old's when it is left open; whether it then is old's. False too when
 * old is no attention layer. -1 when memory is short. */
int plx_attend_begin_window(json_t *object, const json_t *old);
int plx_attend_describe_window(size_t window, json_t *object);

#endif
