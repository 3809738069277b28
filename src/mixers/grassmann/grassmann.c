/* grassmann.c - causal Grassmann mixing (Zhang 2025, arXiv 2512.19428): every token is reduced to a short vector,
 * paired with those at a few fixed offsets back, and the planes that the pairs span, as Plücker coordinates, are read
 * by a linear map and fused with the token by a gate. No attention matrix; constant memory and time a token in
 * decoding.
 *
 *     z = Wred h + bred                                 [tokens, r]
 *     w = mean over valid offsets of the unit wedges    [tokens, P]   P = r (r - 1) / 2, grassmann_ops.h
 *     g = Wplu w + bplu                                 [tokens, D]   (no valid offset: w = 0, so g = bplu)
 *     a = sigmoid(Wgate [h; g] + bgate)                 [tokens, D]
 *     y = a h + (1 - a) g
 *
 * As Wplu is linear and shared by the offsets, the mean is taken before it: one product for any number of offsets. */
#include "mixers/grassmann/grassmann_ops.h"
#include "mixers/mixer.h"

#define RANK_MOST 4096
#define PIECE ((size_t)1024) /* tokens whose w, the widest thing here by far, exist at once: 2 MB at rank 32 */

enum { SCHEDULE_ALL, SCHEDULE_CYCLE };
enum { BLOCK_PAPER, BLOCK_RESIDUAL };

typedef struct grassmann {
    size_t hidden, rank, components;
    plx_grassmann_offsets offsets;
    int block;
    plx_linear reduce, plucker, gate; /* gate: in 2 D, h first */
    void *z, *g, *a;                  /* kept by forward: [tokens, r], [tokens, D], [tokens, D] */
} grassmann;

/* ---- options ---- */

static plx_status parse_offsets(plx_keys *keys, const plx_layer_shape *shape, int schedule,
                                plx_grassmann_offsets *offsets)
{
    size_t values[PLX_GRASSMANN_OFFSETS_MAX] = {1, 2, 4, 8, 12, 16}, count = 6;
    PLX_TRY(plx_keys_sizes(keys, "offsets", values, &count, PLX_GRASSMANN_OFFSETS_MAX, 1));
    if (count == 0) return plx_keys_fail(keys, "offsets", "at least one offset is needed");
    for (size_t i = 0; i < count; i++) {
        if (values[i] > INT32_MAX) return plx_keys_fail(keys, "offsets", "%zu is too large", values[i]);
        for (size_t j = 0; j < i; j++)
            if (values[i] == values[j]) return plx_keys_fail(keys, "offsets", "%zu is there twice", values[i]);
    }
    if (schedule == SCHEDULE_CYCLE) { /* two layers of each offset in turn */
        values[0] = values[shape->same / 2 % count];
        count = 1;
    }
    offsets->count = count;
    for (size_t i = 0; i < count; i++) offsets->value[i] = (int32_t)values[i];
    return PLX_OK;
}

static plx_status parse(plx_keys *keys, const plx_layer_shape *shape, void *layer)
{
    grassmann *self = layer;
    int schedule = SCHEDULE_ALL;
    self->hidden = shape->hidden;
    self->rank = 32;
    self->block = BLOCK_RESIDUAL;
    PLX_TRY(plx_keys_size(keys, "rank", &self->rank, 2, RANK_MOST));
    PLX_TRY(plx_keys_choice(keys, "offset_schedule", "all|cycle", &schedule));
    PLX_TRY(plx_keys_choice(keys, "block", "paper|residual", &self->block));
    PLX_TRY(parse_offsets(keys, shape, schedule, &self->offsets));
    self->components = plx_grassmann_components(self->rank);
    return PLX_OK;
}

/* The offsets written are those that result, so a schedule is not needed to read them again. */
static int describe(const void *layer, json_t *object)
{
    const grassmann *self = layer;
    json_t *offsets = json_array();
    for (size_t i = 0; i < self->offsets.count; i++)
        if (json_array_append_new(offsets, json_integer(self->offsets.value[i])) != 0) {
            json_decref(offsets);
            return -1;
        }
    int failed = json_object_set_new(object, "rank", json_integer((json_int_t)self->rank));
    failed |= json_object_set_new(object, "offsets", offsets);
    failed |= json_object_set_new(object, "offset_schedule", json_string("all"));
    failed |= json_object_set_new(object, "block", json_string(self->block == BLOCK_PAPER ? "paper" : "residual"));
    return failed != 0 ? -1 : 0;
}

static plx_block_form block(const void *layer)
{
    return ((const grassmann *)layer)->block == BLOCK_PAPER ? PLX_BLOCK_PAPER : PLX_BLOCK_PRE_NORM;
}

static size_t state(const void *layer, plx_state_part *parts)
{
    const grassmann *self = layer;
    parts[0] = (plx_state_part){.width = self->rank};
    for (size_t i = 0; i < self->offsets.count; i++) {
        size_t offset = (size_t)self->offsets.value[i];
        if (offset > parts[0].keep) parts[0].keep = offset;
    }
    return 1;
}

static plx_status params(plx_params *list, const plx_layer_shape *shape, void *layer)
{
    grassmann *self = layer;
    size_t hidden = self->hidden;
    PLX_TRY(plx_linear_define(list, &self->reduce, "mixer.reduce", hidden, self->rank, true,
                              plx_init_matrix(shape, hidden, false)));
    PLX_TRY(plx_linear_define(list, &self->plucker, "mixer.plucker", self->components, hidden, true,
                              plx_init_matrix(shape, self->components, false)));
    PLX_TRY(plx_linear_define(list, &self->gate, "mixer.gate", 2 * hidden, hidden, true,
                              plx_init_matrix(shape, 2 * hidden, false)));
    self->reduce.weight->packable = self->gate.weight->packable = false; /* read here, as they lie */
    return PLX_OK;
}

/* ---- the gate's product, by halves of its weight: [h; g] is never put together ---- */

/* By whole numbers, as in a plan there may be no memory yet and NULL is nothing to add to. */
static void *half_of(const grassmann *self, const void *weight, size_t half, plx_type type)
{
    return (void *)((uintptr_t)weight + half * self->hidden * plx_type_size(type));
}

/* y = x Wh^T + b (half 0), y += x Wh^T (half 1); Wh are columns half * D .. of the weight [D, 2 D]. */
static plx_status gate_forward(plx_run *run, const grassmann *self, size_t half, const void *x, void *y)
{
    const plx_param *weight = self->gate.weight;
    size_t hidden = self->hidden;
    plx_matmul_args args = {
        .a_type = run->type, .b_type = weight->type, .c_type = run->type,
        .a = x, .b = half_of(self, weight->data, half, weight->type), .c = y,
        .m = run->tokens, .n = hidden, .k = hidden,
        .lda = hidden, .ldb = 2 * hidden, .ldc = hidden,
        .transpose_b = true, .beta = half == 0 ? 0.0 : 1.0,
        .bias = half == 0 ? self->gate.bias->data : NULL, .bias_type = self->gate.bias->type,
        .bf16 = run->bf16, .gradients = run->gradients,
    };
    return plx_run_op(run, &plx_op_matmul, &args);
}

/* dWh += dy^T x, dx += dy Wh */
static plx_status gate_backward(plx_run *run, const grassmann *self, size_t half, const void *x, const void *dy,
                                void *dx)
{
    const plx_param *weight = self->gate.weight;
    size_t hidden = self->hidden;
    if (weight->trainable) {
        plx_matmul_args dweight = {
            .a_type = run->type, .b_type = run->type, .c_type = run->type,
            .a = dy, .b = x, .c = half_of(self, weight->gradient, half, run->type),
            .m = hidden, .n = hidden, .k = run->tokens,
            .lda = hidden, .ldb = hidden, .ldc = 2 * hidden,
            .transpose_a = true, .beta = 1.0, .bf16 = run->bf16, .gradients = run->gradients,
        };
        PLX_TRY(plx_run_op(run, &plx_op_matmul, &dweight));
    }
    plx_matmul_args dinput = {
        .a_type = run->type, .b_type = weight->type, .c_type = run->type,
        .a = dy, .b = half_of(self, weight->data, half, weight->type), .c = dx,
        .m = run->tokens, .n = hidden, .k = hidden,
        .lda = hidden, .ldb = 2 * hidden, .ldc = hidden,
        .beta = 1.0, .bf16 = run->bf16, .gradients = run->gradients,
    };
    return plx_run_op(run, &plx_op_matmul, &dinput);
}

/* ---- forward and backward ---- */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* w of the tokens first .. first + count - 1 */
static plx_status encode(plx_run *run, const grassmann *self, const plx_history *z, size_t first, size_t count, void *w)
{
    plx_grassmann_encode_args args = {run->type, plx_run_sequence(run), *z, self->offsets, first, count, w};
    return plx_run_op(run, &plx_op_grassmann_encode_forward, &args);
}

/* Forward and step: in a step the earlier z come from the state. x[tokens,D] -> y[tokens,D]. */
static plx_status forward(plx_run *run, void *layer, const void *x, void *y)
{
    grassmann *self = layer;
    size_t tokens = run->tokens, count = tokens * self->hidden, mark = plx_mark(run);
    void *w;
    PLX_TRY(plx_kept(run, tokens * self->rank, &self->z));
    PLX_TRY(plx_kept(run, count, &self->g));
    PLX_TRY(plx_kept(run, count, &self->a));
    PLX_TRY(plx_scratch(run, least(tokens, PIECE) * self->components, &w));
    plx_grassmann_reduce_args reduce = {
        .type = run->type, .weight_type = self->reduce.weight->type,
        .tokens = tokens, .width = self->hidden, .rank = self->rank,
        .x = x, .weight = self->reduce.weight->data, .bias = self->reduce.bias->data, .z = self->z,
    };
    PLX_TRY(plx_run_op(run, &plx_op_grassmann_reduce_forward, &reduce));
    plx_history history = plx_run_history(run, self->z, self->rank);
    if (run->session != NULL) PLX_TRY(plx_state_append(run, 0, self->z, &history));
    for (size_t first = 0; first < tokens; first += PIECE) {
        size_t piece = least(PIECE, tokens - first);
        PLX_TRY(encode(run, self, &history, first, piece, w));
        PLX_TRY(plx_linear_forward(run, &self->plucker, w, piece, plx_at(run, self->g, first * self->hidden)));
    }
    PLX_TRY(gate_forward(run, self, 0, x, self->a));
    PLX_TRY(gate_forward(run, self, 1, self->g, self->a));
    plx_grassmann_fuse_args fuse = {run->type, count, self->a, x, self->g, y};
    PLX_TRY(plx_run_op(run, &plx_op_grassmann_fuse_forward, &fuse));
    plx_release(run, mark);
    return PLX_OK;
}

/* dg[tokens,D] -> dz[tokens,r] in double, and the gradients of plucker. w is cheap to make again from z, so it is not
 * kept. */
static plx_status planes_backward(plx_run *run, const grassmann *self, const void *dg, double *dz)
{
    size_t tokens = run->tokens, mark = plx_mark(run);
    void *w, *dw;
    PLX_TRY(plx_scratch(run, least(tokens, PIECE) * self->components, &w));
    PLX_TRY(plx_scratch(run, least(tokens, PIECE) * self->components, &dw));
    plx_history history = plx_run_history(run, self->z, self->rank);
    for (size_t first = 0; first < tokens; first += PIECE) {
        size_t piece = least(PIECE, tokens - first);
        PLX_TRY(encode(run, self, &history, first, piece, w));
        PLX_TRY(plx_linear_backward(run, &self->plucker, w, plx_at(run, dg, first * self->hidden), piece, dw, false));
        plx_grassmann_encode_backward_args args = {
            .type = run->type, .sequence = plx_run_sequence(run), .rank = self->rank, .offsets = self->offsets,
            .ids = run->layer == 0 ? run->inputs : NULL, /* x is a function of the token alone */
            .z = self->z, .first = first, .count = piece, .dw = dw, .dz = dz,
        };
        PLX_TRY(plx_run_op(run, &plx_op_grassmann_encode_backward, &args));
    }
    plx_release(run, mark);
    return PLX_OK;
}

/* dy[tokens,D] -> dx[tokens,D] */
static plx_status backward(plx_run *run, void *layer, const void *x, const void *dy, void *dx)
{
    grassmann *self = layer;
    size_t tokens = run->tokens, count = tokens * self->hidden, mark = plx_mark(run);
    void *da, *dg, *dz;
    PLX_TRY(plx_scratch(run, count, &da));
    PLX_TRY(plx_scratch(run, count, &dg));
    PLX_TRY(plx_scratch_bytes(run, tokens * self->rank * sizeof(double), &dz));

    plx_grassmann_fuse_backward_args fuse = {run->type, count, self->a, x, self->g, dy, da, dx, dg};
    PLX_TRY(plx_run_op(run, &plx_op_grassmann_fuse_backward, &fuse));
    PLX_TRY(gate_backward(run, self, 0, x, da, dx));
    PLX_TRY(gate_backward(run, self, 1, self->g, da, dg));
    if (self->gate.bias->trainable) {
        plx_column_sum_args sum = {.type = run->type, .x = da, .out = self->gate.bias->gradient, .rows = tokens,
                                   .width = self->hidden};
        PLX_TRY(plx_run_op(run, &plx_op_column_sum, &sum));
    }
    PLX_TRY(planes_backward(run, self, dg, dz));
    const plx_param *weight = self->reduce.weight, *bias = self->reduce.bias;
    plx_grassmann_reduce_backward_args reduce = {
        .type = run->type, .weight_type = weight->type,
        .tokens = tokens, .width = self->hidden, .rank = self->rank,
        .x = x, .weight = weight->data, .dz = dz, .dx = dx,
        .dweight = weight->trainable ? weight->gradient : NULL, .dbias = bias->trainable ? bias->gradient : NULL,
    };
    PLX_TRY(plx_run_op(run, &plx_op_grassmann_reduce_backward, &reduce));
    plx_release(run, mark);
    return PLX_OK;
}

static const plx_op *const own_ops[] = {
    &plx_op_grassmann_reduce_forward, &plx_op_grassmann_reduce_backward,
    &plx_op_grassmann_encode_forward, &plx_op_grassmann_encode_backward,
    &plx_op_grassmann_fuse_forward, &plx_op_grassmann_fuse_backward, NULL,
};

static const char *const cases[] = {
    "{}",
    "{\"rank\": 2, \"offsets\": [1]}",
    "{\"rank\": 5, \"offsets\": [1], \"block\": \"paper\"}",
    "{\"rank\": 8, \"offsets\": [1, 2, 4, 8, 12, 16], \"block\": \"residual\"}",
    "{\"rank\": 5, \"offsets\": [3, 1, 100000]}",
    "{\"rank\": 8, \"offsets\": [2, 1], \"offset_schedule\": \"cycle\", \"block\": \"paper\"}",
    "{\"rank\": 33, \"offsets\": [7, 2], \"offset_schedule\": \"all\"}",
    NULL,
};

extern const struct plx_bench_case *const plx_grassmann_bench[]; /* bench.c */

const plx_mixer plx_mixer_grassmann = {
    .name = "grassmann",
    .summary = "planes spanned by a token and those at fixed offsets back, as Pluecker coordinates, fused by a gate",
    .layer_size = sizeof(grassmann),
    .parse = parse,
    .describe = describe,
    .params = params,
    .forward = forward,
    .backward = backward,
    .step = forward,
    .state = state,
    .block = block,
    .ops = own_ops,
    .cases = cases,
    .bench = plx_grassmann_bench,
};
