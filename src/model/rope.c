/* rope.c - rotary positions: their frequencies, the scalings that stretch them to longer texts, tables, and turning.
 *
 * Pair i turns by position * f_i, f_i = theta^(-i / P), P the number of pairs. A scaling makes other frequencies of
 * them (n = original, s = factor; turns of pair i over the original length: r_i = n f_i / 2 pi):
 *     linear   f_i / s
 *     llama3   f_i where r_i > high, f_i / s where r_i < low, between them the mix by u = (r_i - low) / (high - low)
 *     yarn     the same mix, but by u falling in a line over the pairs' indices from the one with `high` (beta_fast)
 *              turns to the one with `low` (beta_slow); cosines and sines are multiplied by attention_factor */
#include "model/params_list.h"

#include <math.h>
#include <string.h>

/* ---- rope_scaling of config.json, in Hugging Face's words ---- */

static const char *const kind_names[] = {"default", "linear", "yarn", "llama3"};

static double yarn_magnitude(double factor, double scale) { return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1; }

static plx_status read_yarn(plx_keys *keys, plx_rope_scaling *scaling)
{
    double scale = 0, scale_all = 0;
    bool truncate = true;
    scaling->low = 1;
    scaling->high = 32;
    if (plx_keys_has(keys, "beta_fast")) PLX_TRY(plx_keys_real(keys, "beta_fast", &scaling->high, 1e-3, 1e6));
    if (plx_keys_has(keys, "beta_slow")) PLX_TRY(plx_keys_real(keys, "beta_slow", &scaling->low, 1e-3, 1e6));
    if (scaling->low > scaling->high) return plx_keys_fail(keys, "beta_slow", "must not be above beta_fast");
    if (plx_keys_has(keys, "mscale")) PLX_TRY(plx_keys_real(keys, "mscale", &scale, 0, 1e3));
    if (plx_keys_has(keys, "mscale_all_dim")) PLX_TRY(plx_keys_real(keys, "mscale_all_dim", &scale_all, 0, 1e3));
    PLX_TRY(plx_keys_bool(keys, "truncate", &truncate));
    scaling->truncate = truncate;
    scaling->magnitude = scale > 0 && scale_all > 0
                             ? yarn_magnitude(scaling->factor, scale) / yarn_magnitude(scaling->factor, scale_all)
                             : yarn_magnitude(scaling->factor, 1);
    if (plx_keys_has(keys, "attention_factor"))
        PLX_TRY(plx_keys_real(keys, "attention_factor", &scaling->magnitude, 1e-3, 1e3));
    return PLX_OK;
}

static plx_status read_llama3(plx_keys *keys, plx_rope_scaling *scaling)
{
    static const char *const needed[] = {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!plx_keys_has(keys, needed[i])) return plx_keys_fail(keys, NULL, "llama3 needs the key '%s'", needed[i]);
    PLX_TRY(plx_keys_real(keys, "low_freq_factor", &scaling->low, 1e-3, 1e6));
    PLX_TRY(plx_keys_real(keys, "high_freq_factor", &scaling->high, 1e-3, 1e6));
    if (scaling->low >= scaling->high) return plx_keys_fail(keys, "low_freq_factor", "must be below high_freq_factor");
    return PLX_OK;
}

plx_status plx_rope_scaling_parse(plx_context *context, const plx_node *node, const char *section, size_t max_positions,
                                  plx_rope_scaling *scaling)
{
    plx_keys keys;
    size_t original = max_positions;
    const char *name = "";
    int kind;
    *scaling = (plx_rope_scaling){.magnitude = 1};
    PLX_TRY(plx_keys_open(&keys, context, node, section));
    PLX_TRY(plx_keys_string(&keys, "type", &name)); /* the older name of rope_type */
    PLX_TRY(plx_keys_string(&keys, "rope_type", &name));
    for (kind = PLX_ROPE_LLAMA3; kind >= 0 && strcmp(name, kind_names[kind]) != 0; kind--) {}
    if (kind < 0)
        return plx_keys_fail(&keys, plx_keys_has(&keys, "rope_type") ? "rope_type" : "type",
                             "there is no RoPE scaling '%.40s' here; there are default, linear, yarn, llama3", name);
    scaling->kind = kind;
    if (kind != PLX_ROPE_PLAIN) {
        if (!plx_keys_has(&keys, "factor"))
            return plx_keys_fail(&keys, NULL, "%s needs the key 'factor'", kind_names[kind]);
        PLX_TRY(plx_keys_real(&keys, "factor", &scaling->factor, 1e-3, 1e6));
    }
    if (plx_keys_has(&keys, "original_max_position_embeddings"))
        PLX_TRY(plx_keys_size(&keys, "original_max_position_embeddings", &original, 1, (size_t)1 << 24));
    if (kind == PLX_ROPE_YARN) PLX_TRY(read_yarn(&keys, scaling));
    if (kind == PLX_ROPE_LLAMA3) PLX_TRY(read_llama3(&keys, scaling));
    if (kind == PLX_ROPE_YARN || kind == PLX_ROPE_LLAMA3) scaling->original = (double)original;
    return plx_keys_close(&keys);
}

json_t *plx_rope_scaling_describe(const plx_rope_scaling *scaling)
{
    const char *name = kind_names[scaling->kind];
    switch (scaling->kind) {
    case PLX_ROPE_LINEAR: return json_pack("{s:s, s:f}", "rope_type", name, "factor", scaling->factor);
    case PLX_ROPE_LLAMA3:
        return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", name, "factor", scaling->factor, "low_freq_factor",
                         scaling->low, "high_freq_factor", scaling->high, "original_max_position_embeddings",
                         (json_int_t)scaling->original);
    case PLX_ROPE_YARN:
        return json_pack("{s:s, s:f, s:f, s:f, s:f, s:b, s:I}", "rope_type", name, "factor", scaling->factor,
                         "attention_factor", scaling->magnitude, "beta_fast", scaling->high, "beta_slow", scaling->low,
                         "truncate", scaling->truncate, "original_max_position_embeddings",
                         (json_int_t)scaling->original);
    }
    return json_null();
}

/* ---- frequencies ---- */

/* The share of the unscaled frequency in yarn's mix, for pair i of P. */
static double yarn_share(const plx_rope_scaling *scaling, double theta, double pairs, double pair)
{
    const double turn = 2 * M_PI;
    double first = pairs * log(scaling->original / (scaling->high * turn)) / log(theta);
    double last = pairs * log(scaling->original / (scaling->low * turn)) / log(theta);
    if (scaling->truncate) {
        first = floor(first);
        last = ceil(last);
    }
    first = fmax(first, 0);
    last = fmin(last, 2 * pairs - 1);
    if (first == last) last += 0.001; /* a step, as the field's code makes it */
    return 1 - fmin(fmax((pair - first) / (last - first), 0), 1);
}

double plx_rope_frequency(const plx_rope *rope, size_t pair)
{
    const plx_rope_scaling *scaling = &rope->scaling;
    double pairs = rope->layout == PLX_ROPE_HALVES ? (double)rope->pairs : (double)rope->head_dim / 3;
    double plain = pow(rope->theta, -(double)pair / pairs), stretched = plain / scaling->factor, share;
    switch (scaling->kind) {
    case PLX_ROPE_LINEAR: return stretched;
    case PLX_ROPE_YARN: share = yarn_share(scaling, rope->theta, pairs, (double)pair); break;
    case PLX_ROPE_LLAMA3:
        share = (scaling->original * plain / (2 * M_PI) - scaling->low) / (scaling->high - scaling->low);
        share = fmin(fmax(share, 0), 1);
        break;
    default: return plain;
    }
    return share * plain + (1 - share) * stretched;
}

/* ---- tables ---- */

plx_status plx_params_rope(plx_params *params, const plx_layer_shape *shape, plx_rope_layout layout, size_t pairs,
                           const plx_rope **rope)
{
    plx_model *model = params->model;
    plx_context *context = model->context;
    *rope = NULL;
    if (pairs == 0) return PLX_OK;
    for (size_t i = 0; i < model->rope_count; i++) {
        const plx_rope *old = model->ropes[i];
        if (old->layout == layout && old->head_dim == shape->head_dim && old->pairs == pairs &&
            old->theta == shape->rope_theta) {
            *rope = old;
            return PLX_OK;
        }
    }
    plx_rope **grown =
        plx_grow(context, model->ropes, model->rope_count * sizeof *grown, (model->rope_count + 1) * sizeof *grown);
    if (grown == NULL) return plx_context_error(context)->code;
    model->ropes = grown;
    plx_rope *made = plx_alloc(context, sizeof *made);
    if (made == NULL) return plx_context_error(context)->code;
    *made = (plx_rope){.layout = layout,
                       .head_dim = shape->head_dim,
                       .pairs = pairs,
                       .theta = shape->rope_theta,
                       .scaling = shape->rope_scaling,
                       .rows = shape->max_positions < 65536 ? shape->max_positions : 65536};
    model->ropes[model->rope_count++] = made;
    *rope = made;
    return PLX_OK;
}

/* Tables are computed in double and rounded once. */
plx_status plx_rope_fill(plx_context *context, plx_rope *rope, plx_type type)
{
    size_t count = rope->rows * rope->pairs, bytes = count * plx_type_size(type);
    plx_status status = PLX_OK;
    double *frequency = plx_alloc_array(context, rope->pairs, sizeof *frequency);
    void *cosine = plx_alloc(context, bytes), *sine = plx_alloc(context, bytes);
    if (frequency == NULL || cosine == NULL || sine == NULL) {
        status = plx_context_error(context)->code;
        goto done;
    }
    for (size_t i = 0; i < rope->pairs; i++) frequency[i] = plx_rope_frequency(rope, i);
    for (size_t i = 0; i < count; i++) {
        double angle = (double)(i / rope->pairs) * frequency[i % rope->pairs];
        plx_put(cosine, type, i, rope->scaling.magnitude * cos(angle));
        plx_put(sine, type, i, rope->scaling.magnitude * sin(angle));
    }
    PLX_TRY_GOTO(status, done, plx_device_alloc(context, rope->pairs * sizeof(double), (void **)&rope->frequency));
    PLX_TRY_GOTO(status, done, plx_device_alloc(context, bytes, &rope->cosine));
    PLX_TRY_GOTO(status, done, plx_device_alloc(context, bytes, &rope->sine));
    plx_device_upload(context, rope->frequency, frequency, rope->pairs * sizeof(double));
    plx_device_upload(context, rope->cosine, cosine, bytes);
    plx_device_upload(context, rope->sine, sine, bytes);
done:
    plx_free(context, frequency);
    plx_free(context, cosine);
    plx_free(context, sine);
    return status;
}

plx_status plx_rope_apply(plx_run *run, const plx_rope *rope, void *x, size_t heads, bool inverse)
{
    if (rope == NULL) return PLX_OK;
    plx_rope_args args = {
        .type = run->type,
        .x = x,
        .tokens = run->tokens,
        .heads = heads,
        .head_dim = rope->head_dim,
        .pairs = rope->pairs,
        .layout = rope->layout,
        .inverse = inverse,
        .position = run->position,
        .cosine = rope->cosine,
        .sine = rope->sine,
        .table_rows = rope->rows,
        .frequency = rope->frequency,
        .magnitude = rope->scaling.magnitude,
    };
    return plx_run_op(run, &plx_op_rope, &args);
}
