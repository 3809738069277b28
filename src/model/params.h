/* params.h - weights: typed tensors that may be frozen, and the list of them that a model makes.
 *
 * A module defines its tensors once, by name, shape and initialiser; the list then allocates, initialises,
 * loads, saves, freezes and updates them without knowing what they are for. */
#ifndef PLX_MODEL_PARAMS_H
#define PLX_MODEL_PARAMS_H

#include "kernels/packed.h"
#include "model/run.h"

typedef enum plx_init_kind { PLX_INIT_CONSTANT, PLX_INIT_NORMAL } plx_init_kind;
typedef struct plx_init { plx_init_kind kind; double value; /* the constant, or the standard deviation */ } plx_init;

typedef struct plx_param {
    char name[128];      /* as in the checkpoint */
    size_t rank, shape[3], elements;
    plx_init init;
    bool decay;          /* weight decay applies */
    bool trainable;
    bool packable;       /* only products of plx_linear and look-ups of rows read it */
    plx_form form;       /* other than PLX_FORM_PLAIN: data is packed (packed.c); `type` is what it unpacks to */
    plx_type type;       /* as stored */
    void *data;          /* device */
    void *gradient;      /* device, of the model's compute type; NULL when frozen or not training */
    void *moment1, *moment2; /* the optimiser's; NULL when frozen or not training */
} plx_param;

/* config.json's rope_scaling, resolved: how a model made for short texts turns longer ones (rope.c has the formulas).
 * All zero: not at all. */
typedef enum plx_rope_kind { PLX_ROPE_PLAIN, PLX_ROPE_LINEAR, PLX_ROPE_YARN, PLX_ROPE_LLAMA3 } plx_rope_kind;
typedef struct plx_rope_scaling {
    int kind;              /* plx_rope_kind */
    int truncate;          /* yarn: the ramp begins and ends at whole pairs */
    double factor, original; /* original: positions that the model was first made for */
    double low, high;      /* llama3: low_freq_factor, high_freq_factor; yarn: beta_slow, beta_fast */
    double magnitude;      /* yarn: attention_factor: turned pairs are longer by this; else 1 */
} plx_rope_scaling;

/* RoPE tables, shared by all layers with the same numbers. */
typedef struct plx_rope {
    plx_rope_layout layout;
    size_t pairs, rows;
    double theta; /* frequency of pair i, before scaling: theta^(-i / pairs) for halves, theta^(-3i / head_dim) for
                     chunks */
    plx_rope_scaling scaling;
    size_t head_dim;
    void *cosine, *sine;  /* device */
    double *frequency;    /* device */
} plx_rope;

/* The rest of this header is for module authors. */
typedef struct plx_params plx_params; /* the list being made */

/* What a layer's mixer is told about its place in the model: config.json's keys, resolved for this layer. */
typedef struct plx_layer_shape {
    size_t hidden, heads, kv_heads, head_dim;
    size_t max_positions;
    bool rope;
    double rope_theta, partial_rotary_factor;
    plx_rope_scaling rope_scaling;
    bool qk_norm, attention_bias, attention_out_bias;
    bool norm_layer;            /* LayerNorm instead of RMSNorm */
    double norm_eps;
    double dropout;
    bool init_fan_in;           /* model key init: fan_in */
    size_t layer, layers;       /* index in the model, number of layers */
    size_t same;                /* index among the layers of the same mixer */
} plx_layer_shape;

/* Adds a tensor named PREFIX.NAME, PREFIX being the layer's ("model.layers.3") ; *param stays valid as long as the
 * model. rank 1 or 2: shape [rows] or [rows, columns]. */
plx_status plx_params_add(plx_params *params, const char *name, size_t rank, size_t rows, size_t columns, plx_init init,
                          bool decay, plx_param **param);
/* RoPE tables for the layer's head_dim, rope_theta and rope_scaling that turn `pairs` pairs of components of each
 * head; none (NULL) for 0 pairs. */
plx_status plx_params_rope(plx_params *params, const plx_layer_shape *shape, plx_rope_layout layout, size_t pairs,
                           const plx_rope **rope);

/* ---- linear: y = x W^T + b, the one way that modules multiply by weights (adapters have their place here) ---- */

typedef struct plx_linear {
    size_t in, out;
    plx_param *weight, *bias; /* bias NULL when absent */
    plx_param *adapter_a, *adapter_b; /* low-rank adapter (adapter.c); NULL: none */
    double adapter_scale;
} plx_linear;

/* The initialisers of the Contracts: matrices normal(0, .02) or, fan_in, normal(0, 1/sqrt(in)). `output` divides by
 * sqrt(2 * layers). */
plx_init plx_init_matrix(const plx_layer_shape *shape, size_t in, bool output);
/* Defines NAME.weight [out, in] and, with bias, NAME.bias [out] = 0. */
plx_status plx_linear_define(plx_params *params, plx_linear *linear, const char *name, size_t in, size_t out, bool bias,
                             plx_init init);
plx_status plx_linear_forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y);
/* y += x W^T + b, as above with the adapter's part where there is one */
plx_status plx_linear_forward_add(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y);
/* Adds to the gradients of weight and bias (when trainable). */
plx_status plx_linear_backward_weights(plx_run *run, const plx_linear *linear, const void *x, const void *dy,
                                       size_t rows);
/* dx = dy W, or dx += with accumulate. */
plx_status plx_linear_backward_input(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void *dx,
                                     bool accumulate);
/* Both; dx NULL: not wanted. */
plx_status plx_linear_backward(plx_run *run, const plx_linear *linear, const void *x, const void *dy, size_t rows,
                               void *dx, bool accumulate);

/* The same for several with one input: y[i] = x W_i^T + b_i; dx = (dx +) the sum of dy[i] W_i. As one job where an
 * implementation does that (plx_op_matmul_group), which reads x, and writes dx, once. */
plx_status plx_linears_forward(plx_run *run, const plx_linear *const linears[], size_t count, const void *x,
                               size_t rows, void *const y[]);
plx_status plx_linears_backward(plx_run *run, const plx_linear *const linears[], size_t count, const void *x,
                                const void *const dy[], size_t rows, void *dx, bool accumulate);

/* ---- packed weights (packed.c): never trained; everything else takes them as any weight ---- */

/* The products of plx_linear_forward and plx_linear_backward_input (without bias in the latter) for a packed weight.
 * Where no backward follows, activations are rounded to int8 by blocks; where one does, and in it, the weights are
 * unpacked some rows at a time and multiplied as f32, so that gradients are those of what was computed. */
plx_status plx_packed_forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y, double beta);
plx_status plx_packed_backward_input(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void *dx,
                                     bool accumulate);
/* Bytes of `data`; SIZE_MAX when they cannot be named. */
size_t plx_param_bytes(const plx_param *param);
/* Elements [first, first + count), unpacked where they are packed, to the host, of param->type. */
plx_status plx_param_fetch(plx_context *context, const plx_param *param, size_t first, size_t count, void *host);
/* Packs rows [first, first + count) of a file (row_bytes each, host memory; first a multiple of PLX_PANEL_ROWS, count
 * too but at the end) into the tensor. ERROR_FORMAT naming it where a scale is not finite. */
plx_status plx_param_pack(plx_context *context, const plx_param *param, plx_packing packing, const void *rows,
                          size_t row_bytes, size_t first, size_t count);

/* The adapter's part, all of them nothing where there is none: its tensors; y += scale (x A^T) B^T; the gradients of A
 * and B; dx += scale dy B A. */
plx_status plx_adapter_define(plx_params *params, plx_linear *linear, const char *name);
plx_status plx_adapter_forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y);
plx_status plx_adapter_backward_weights(plx_run *run, const plx_linear *linear, const void *x, const void *dy,
                                        size_t rows);
plx_status plx_adapter_backward_input(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void *dx);

/* ---- norm ---- */
typedef struct plx_norm {
    bool layer;
    double epsilon;
    size_t width;
    plx_param *weight, *bias; /* bias NULL for rms */
} plx_norm;
typedef struct plx_norm_saved { void *mean, *rstd; } plx_norm_saved;
/* NAME.weight [width] = 1 and, for LayerNorm, NAME.bias = 0; neither decays. */
plx_status plx_norm_define(plx_params *params, plx_norm *norm, const char *name, size_t width, bool layer,
                           double epsilon);
/* saved NULL: no backward follows. */
plx_status plx_norm_forward(plx_run *run, const plx_norm *norm, const void *x, size_t rows, void *y,
                            plx_norm_saved *saved);
/* sum = x + addend (sum may be either); y = norm(sum). */
plx_status plx_norm_forward_sum(plx_run *run, const plx_norm *norm, const void *x, const void *addend, void *sum,
                                size_t rows, void *y, plx_norm_saved *saved);
plx_status plx_norm_backward(plx_run *run, const plx_norm *norm, const plx_norm_saved *saved, const void *x,
                             const void *dy, size_t rows, void *dx, bool accumulate);

/* ---- rope ---- */
/* Turns x [B*T, heads, head_dim] in place by the tokens' positions; inverse turns back. rope NULL: nothing. */
plx_status plx_rope_apply(plx_run *run, const plx_rope *rope, void *x, size_t heads, bool inverse);

#endif
