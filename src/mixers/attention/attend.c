/* attend.c - see attend.h. */
#include "mixers/attention/attend.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

extern const plx_mixer plx_mixer_attention;

plx_status plx_turn_define(plx_params *params, const plx_layer_shape *shape, plx_turn *turn, const char *name)
{
    *turn = (plx_turn){.head_dim = shape->head_dim, .normed = shape->qk_norm};
    if (shape->qk_norm) PLX_TRY(plx_norm_define(params, &turn->norm, name, shape->head_dim, false, shape->norm_eps));
    /* 96 thirds are 32, also where a third was written with a dozen digits */
    size_t pairs = (size_t)((double)shape->head_dim * shape->partial_rotary_factor + 1e-9) / 2;
    if (!shape->rope || pairs == 0) return PLX_OK;
    return plx_params_rope(params, shape, PLX_ROPE_HALVES, pairs, &turn->rope);
}

plx_status plx_turn_forward(plx_run *run, const plx_turn *turn, size_t heads, const void *raw, void *turned,
                            plx_norm_saved *saved)
{
    if (turn->normed) PLX_TRY(plx_norm_forward(run, &turn->norm, raw, run->tokens * heads, turned, saved));
    else if (turned != raw) plx_run_copy(run, turned, raw, run->tokens * heads * turn->head_dim);
    return plx_rope_apply(run, turn->rope, turned, heads, false);
}

plx_status plx_turn_backward(plx_run *run, const plx_turn *turn, size_t heads, const plx_norm_saved *saved,
                             const void *raw, void *d)
{
    PLX_TRY(plx_rope_apply(run, turn->rope, d, heads, true));
    if (!turn->normed) return PLX_OK;
    return plx_norm_backward(run, &turn->norm, saved, raw, d, run->tokens * heads, d, false);
}

plx_status plx_attend_forward(plx_run *run, plx_attend *attend, const plx_history *keys, const plx_history *values)
{
    PLX_TRY(plx_kept(run, run->tokens * attend->heads * attend->head_dim, &attend->out));
    attend->lse = NULL;
    if (run->keep) PLX_TRY(plx_saved(run, run->tokens * attend->heads, &attend->lse));
    plx_attention_args args = {
        .type = run->type, .sequence = plx_run_sequence(run),
        .heads = attend->heads, .kv_heads = attend->kv_heads, .head_dim = attend->head_dim,
        .window = attend->window, .scale = 1.0 / sqrt((double)attend->head_dim),
        .q = attend->q, .keys = *keys, .values = *values, .out = attend->out, .lse = attend->lse,
        .bf16 = run->bf16,
    };
    return plx_run_op(run, &plx_op_attention_forward, &args);
}

plx_status plx_attend_backward(plx_run *run, const plx_attend *attend, const void *dout, void *dq, void *dk, void *dv)
{
    plx_attention_backward_args args = {
        .type = run->type, .sequence = plx_run_sequence(run),
        .heads = attend->heads, .kv_heads = attend->kv_heads, .head_dim = attend->head_dim,
        .window = attend->window, .scale = 1.0 / sqrt((double)attend->head_dim),
        .q = attend->q, .k = attend->k, .v = attend->v, .out = attend->out, .lse = attend->lse, .dout = dout,
        .dq = dq, .dk = dk, .dv = dv, .bf16 = run->bf16,
    };
    return plx_run_op(run, &plx_op_attention_backward, &args);
}

plx_status plx_attend_history(plx_run *run, const void *x, size_t width, size_t *part, plx_history *history)
{
    if (run->session != NULL) return plx_state_append(run, (*part)++, x, history);
    *history = plx_run_history(run, x, width);
    return PLX_OK;
}

plx_state_part plx_attend_state(size_t width, size_t window)
{
    /* 0 would mean all: a window of the token alone keeps one that it does not need */
    return (plx_state_part){.width = width, .keep = window <= 2 ? (window > 0) : window - 1, .packable = true};
}

plx_status plx_attend_parse_window(plx_keys *keys, size_t *window)
{
    *window = 0;
    if (!plx_keys_has(keys, "window")) return PLX_OK;
    return plx_keys_size(keys, "window", window, 1, INT32_MAX);
}

int plx_attend_begin_window(json_t *object, const json_t *old)
{
    const char *mixer = json_string_value(json_object_get(old, "mixer"));
    json_t *window = json_object_get(old, "window");
    if (mixer == NULL || window == NULL || strcmp(mixer, plx_mixer_attention.name) != 0) return 0;
    if (json_object_get(object, "window") == NULL && json_object_set(object, "window", window) != 0) return -1;
    return json_equal(json_object_get(object, "window"), window);
}

int plx_attend_describe_window(size_t window, json_t *object)
{
    return json_object_set_new(object, "window", window > 0 ? json_integer((json_int_t)window) : json_null());
}
