/* bench_model.c - what `plexus bench` measures of models: whole layers, steps, training and generation. None of it
 * knows a mixer by name: layers are those of the registry, with their defaults. */
#include "lab/bench_model.h"

#include "model/params_list.h"
#include "model/passes.h"
#include "train/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- models ---- */

/* The weights of `to`, which computes in double, from those of the same model in f32: the reference works on the same
 * numbers. Rounded: matrices to bf16. */
static plx_status copy_weights(plx_model *from, plx_model *to, bool rounded)
{
    plx_status status = PLX_OK;
    for (size_t i = 0; i < plx_model_tensor_count(from) && status == PLX_OK; i++) {
        plx_tensor_info info;
        PLX_TRY(plx_model_tensor(from, i, &info));
        double *values = plx_alloc_array(from->context, info.elements, sizeof *values);
        if (values == NULL) return plx_context_error(from->context)->code;
        status = plx_model_read_tensor(from, info.name, false, values, info.elements);
        for (size_t k = 0; k < info.elements && rounded && info.rank == 2; k++) {
            uint16_t bits;
            plx_put(&bits, PLX_BF16, 0, values[k]);
            values[k] = plx_get(&bits, PLX_BF16, 0);
        }
        if (status == PLX_OK) status = plx_model_write_tensor(to, info.name, values, info.elements);
        plx_free(from->context, values);
    }
    return status;
}

/* The config.json of s->layers layers (or one) of a mixer, ffn 0: none; freed with free, NULL when memory is short. */
static char *config_text(const plx_bench_shape *s, const char *mixer, size_t vocab, size_t positions)
{
    size_t heads = s->H > 0 ? s->H : 1, width = s->d > 0 ? s->d : s->D / heads;
    json_t *layers = json_array();
    for (size_t i = 0; i < (s->layers > 0 ? s->layers : 1); i++)
        json_array_append_new(layers, json_pack("{s:s}", "mixer", mixer));
    json_t *config = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:o}", "model_type", "plexus", "vocab_size",
                               (json_int_t)vocab, "hidden_size", (json_int_t)s->D, "intermediate_size",
                               (json_int_t)s->ffn, "num_attention_heads", (json_int_t)heads, "num_key_value_heads",
                               (json_int_t)(s->G > 0 ? s->G : heads), "head_dim", (json_int_t)(width > 0 ? width : 1),
                               "max_position_embeddings", (json_int_t)positions, "init", "fan_in", "layers", layers);
    char *text = config != NULL ? json_dumps(config, JSON_COMPACT) : NULL;
    json_decref(config);
    return text;
}

/* The case's model; `vocab` stands for the shape's. */
static plx_status make_model(plx_bench_problem *problem, const plx_bench_shape *s, size_t vocab, size_t positions,
                             plx_model **model)
{
    plx_context *context = problem->context;
    plx_model *single = NULL;
    char *config = config_text(s, problem->about->user, vocab, positions);
    if (config == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for a model's config");
    plx_model_options options = {.seed = 1, .type = PLX_F32};
    plx_status status = plx_model_create(context, config, &options, &single);
    if (status == PLX_OK && problem->type == PLX_F64) {
        options.type = PLX_F64;
        status = plx_model_create(context, config, &options, model);
        if (status == PLX_OK) status = copy_weights(single, *model, problem->rounded);
        plx_model_free(single);
    } else
        *model = single;
    free(config);
    return status;
}

static int32_t *make_ids(plx_context *context, size_t count, size_t most)
{
    int32_t *ids = plx_alloc_array(context, count, sizeof *ids);
    for (size_t i = 0; ids != NULL && i < count; i++) ids[i] = (int32_t)((i * 7919 + i / most) % most);
    return ids;
}

/* ---- a whole layer, forward or backward ---- */

typedef struct layer_work {
    plx_model *model;
    plx_arena arena;
    int32_t *ids; /* all different: tokens that are equal are a case of their own to some mixers */
    void *x, *y, *dy, *dx;
    size_t rows, length;
    bool bf16;
    double forward, backward; /* seconds */
} layer_work;

static plx_status layer_pass(plx_run *run, plx_model *model, void *user)
{
    layer_work *work = user;
    plx_layer *layer = &model->config.layers[0];
    run->layer = 0;
    double begin = plx_seconds();
    PLX_TRY(layer->mixer->forward(run, layer->own, work->x, work->y));
    double middle = plx_seconds();
    if (run->keep) PLX_TRY(layer->mixer->backward(run, layer->own, work->x, work->dy, work->dx));
    work->backward = plx_seconds() - middle;
    work->forward = middle - begin;
    return PLX_OK;
}

static void release_layer(plx_bench_problem *problem)
{
    layer_work *work = problem->own;
    if (work == NULL) return;
    plx_arena_release(&work->arena);
    plx_model_free(work->model);
    plx_free(problem->context, work->ids);
    plx_free(problem->context, work);
}

static plx_status run_layer(plx_bench_problem *problem, int flags)
{
    layer_work *work = problem->own;
    plx_batch batch = {.rows = work->rows, .length = work->length, .inputs = work->ids};
    if (work->bf16) flags |= PLX_PASS_BF16;
    return plx_arena_run(&work->arena, &batch, NULL, NULL, flags, 0, 0, layer_pass, work);
}
static plx_status run_layer_forward(plx_bench_problem *problem)
{
    PLX_TRY(run_layer(problem, 0));
    problem->seconds = ((layer_work *)problem->own)->forward;
    return PLX_OK;
}
static plx_status run_layer_backward(plx_bench_problem *problem)
{
    plx_model_zero_gradients(((layer_work *)problem->own)->model);
    PLX_TRY(run_layer(problem, PLX_PASS_KEEP));
    problem->seconds = ((layer_work *)problem->own)->backward;
    return PLX_OK;
}

static plx_status make_layer(plx_bench_problem *problem, const plx_bench_shape *s, bool backward)
{
    plx_context *context = problem->context;
    size_t tokens = s->B * s->T, count = tokens * s->D;
    layer_work *work = problem->own = plx_alloc(context, sizeof *work);
    if (work == NULL) return plx_context_error(context)->code;
    plx_bench_shape bare = *s;
    bare.ffn = 0;
    PLX_TRY(make_model(problem, &bare, tokens, s->T, &work->model));
    plx_model *model = work->model;
    plx_arena_init(&work->arena, model);
    work->rows = s->B;
    work->length = s->T;
    plx_run forward, both;
    PLX_TRY(plx_pass_measure(model, s->B, s->T, 0, NULL, layer_pass, work, &forward));
    PLX_TRY(plx_pass_measure(model, s->B, s->T, PLX_PASS_KEEP, NULL, layer_pass, work, &both));
    problem->flops = backward ? both.flops - forward.flops : forward.flops;
    problem->tokens = (double)tokens;
    problem->bf16 = &work->bf16;
    work->ids = plx_alloc_array(context, tokens, sizeof *work->ids);
    if (work->ids == NULL) return plx_context_error(context)->code;
    for (size_t i = 0; i < tokens; i++) work->ids[i] = (int32_t)i;
    work->x = plx_bench_input(problem, count, 1);
    work->y = backward ? plx_bench_plain(problem, NULL, count * plx_type_size(problem->type))
                       : plx_bench_output(problem, count);
    if (backward) {
        work->dy = plx_bench_input(problem, count, 1);
        work->dx = plx_bench_output(problem, count);
        PLX_TRY(plx_model_allocate_gradients(model, false));
    }
    for (size_t i = 0; i < model->param_count; i++) {
        const plx_param *param = model->params[i];
        if (strncmp(param->name, "model.layers.0.mixer.", 21) != 0) continue;
        problem->bytes += (double)(param->elements * plx_type_size(param->type)) * (backward ? 3 : 1);
        if (backward) plx_bench_watch(problem, param->gradient, problem->type, param->elements);
    }
    return problem->status;
}
static plx_status make_layer_forward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return make_layer(problem, s, false);
}
static plx_status make_layer_backward(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return make_layer(problem, s, true);
}

/* ---- sessions: a token more, or a prompt ---- */

enum { CHUNK = 64 }; /* tokens of a prompt in one step, as generation does it */

typedef struct session_work {
    plx_model *model;
    plx_session *session;
    int32_t *ids;          /* [B, T + 1] */
    plx_session_row *rows; /* [B] */
    float *logits;         /* [B, vocab], host */
    void *found;           /* the same on the device, compared */
    size_t slots, length, vocab;
} session_work;

static void release_session(plx_bench_problem *problem)
{
    session_work *work = problem->own;
    if (work == NULL) return;
    plx_session_free(work->session);
    plx_model_free(work->model);
    plx_free(problem->context, work->ids);
    plx_free(problem->context, work->rows);
    plx_free(problem->context, work->logits);
    plx_free(problem->context, work);
}

/* Tokens first .. first + count - 1 of every sequence, by chunks. */
static plx_status feed(session_work *work, size_t first, size_t count)
{
    for (size_t done = 0; done < count; done += CHUNK) {
        for (size_t b = 0; b < work->slots; b++)
            work->rows[b] = (plx_session_row){.slot = b,
                                              .tokens = work->ids + b * (work->length + 1) + first + done,
                                              .count = count - done < CHUNK ? count - done : CHUNK};
        PLX_TRY(plx_session_step(work->session, work->rows, work->slots, work->logits, NULL));
    }
    return PLX_OK;
}

static plx_status run_session(plx_bench_problem *problem, size_t first, size_t count)
{
    session_work *work = problem->own;
    for (size_t b = 0; b < work->slots; b++) PLX_TRY(plx_session_cut(work->session, b, first));
    double begin = plx_seconds();
    PLX_TRY(feed(work, first, count));
    problem->seconds = plx_seconds() - begin;
    plx_device_upload(problem->context, work->found, work->logits, work->slots * work->vocab * sizeof(float));
    return PLX_OK;
}
static plx_status run_decode(plx_bench_problem *problem)
{
    return run_session(problem, ((session_work *)problem->own)->length, 1);
}
static plx_status run_prefill(plx_bench_problem *problem)
{
    return run_session(problem, 0, ((session_work *)problem->own)->length);
}

static plx_status make_session(plx_bench_problem *problem, const plx_bench_shape *s, bool prefill)
{
    plx_context *context = problem->context;
    session_work *work = problem->own = plx_alloc(context, sizeof *work);
    if (work == NULL) return plx_context_error(context)->code;
    *work = (session_work){.slots = s->B, .length = s->T, .vocab = s->vocab > 0 ? s->vocab : 257};
    PLX_TRY(make_model(problem, s, work->vocab, s->T + 1, &work->model));
    plx_model_info info;
    PLX_TRY(plx_model_describe(work->model, &info));
    size_t steps = prefill ? s->T : 1;
    problem->tokens = (double)(s->B * steps);
    problem->flops = info.flops_per_token * (double)(s->B * (s->T + 1)); /* of the reference's work, when dry */
    if (problem->dry) return PLX_OK;
    problem->flops *= (double)steps / (double)(s->T + 1); /* a token at T costs about what the mean of T tokens does */
    plx_session_options options = {.slots = s->B, .capacity = s->T + 1, .chunk = CHUNK, .rollback = s->T + 1};
    PLX_TRY(plx_session_create(work->model, &options, &work->session));
    work->ids = make_ids(context, s->B * (s->T + 1), work->vocab);
    work->rows = plx_alloc_array(context, s->B, sizeof *work->rows);
    work->logits = plx_alloc_array(context, s->B * work->vocab, sizeof *work->logits);
    if (work->ids == NULL || work->rows == NULL || work->logits == NULL) return plx_context_error(context)->code;
    work->found = plx_bench_output_of(problem, PLX_F32, s->B * work->vocab);
    PLX_TRY(problem->status);
    problem->bytes = 4.0 * (double)info.parameters + (double)s->B * (double)plx_session_state_bytes(work->session);
    return prefill ? PLX_OK : feed(work, 0, s->T);
}
static plx_status make_decode(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return make_session(problem, s, false);
}
static plx_status make_prefill(plx_bench_problem *problem, const plx_bench_shape *s)
{
    return make_session(problem, s, true);
}

/* ---- a training step ---- */

typedef struct train_work {
    plx_model *model;
    plx_trainer *trainer;
    int32_t *ids; /* [B*T + 1]: inputs, and one later the targets */
    double *loss; /* device */
    size_t rows, length;
    bool bf16;
} train_work;

static void release_train(plx_bench_problem *problem)
{
    train_work *work = problem->own;
    if (work == NULL) return;
    plx_trainer_free(work->trainer);
    plx_model_free(work->model);
    plx_free(problem->context, work->ids);
    plx_free(problem->context, work);
}

/* A whole step at a learning rate of 0, so that every step has the same work and the same gradients. */
static plx_status run_train(plx_bench_problem *problem)
{
    train_work *work = problem->own;
    plx_batch batch = {.rows = work->rows, .length = work->length, .inputs = work->ids, .targets = work->ids + 1};
    plx_step_report report;
    work->trainer->options.precision = work->bf16 ? PLX_PRECISION_BF16 : PLX_PRECISION_F32;
    PLX_TRY(plx_trainer_step(work->trainer, &batch, 1, &report));
    plx_device_upload(problem->context, work->loss, &report.loss, sizeof report.loss);
    return PLX_OK;
}

static plx_status make_train(plx_bench_problem *problem, const plx_bench_shape *s)
{
    plx_context *context = problem->context;
    train_work *work = problem->own = plx_alloc(context, sizeof *work);
    if (work == NULL) return plx_context_error(context)->code;
    *work = (train_work){.rows = s->B, .length = s->T};
    PLX_TRY(make_model(problem, s, s->vocab, s->T, &work->model));
    plx_model_info info;
    PLX_TRY(plx_model_describe(work->model, &info));
    problem->tokens = (double)(s->B * s->T);
    problem->flops = 3 * info.flops_per_token * problem->tokens;
    double bytes = 4.0 * 12 * (double)info.parameters; /* weights twice, gradients four times, AdamW's six */
    problem->bf16 = &work->bf16;
    if (problem->dry) return PLX_OK;
    plx_train_options options = plx_train_defaults();
    options.lr = 0;
    PLX_TRY(plx_trainer_create(work->model, &options, s->B, s->T, &work->trainer));
    work->ids = make_ids(context, s->B * s->T + 1, s->vocab);
    if (work->ids == NULL) return plx_context_error(context)->code;
    work->loss = plx_bench_output_of(problem, PLX_F64, 1);
    for (size_t i = 0; i < work->model->param_count; i++)
        plx_bench_watch(problem, work->model->params[i]->gradient, problem->type, work->model->params[i]->elements);
    problem->bytes = bytes;
    return problem->status;
}

/* ---- cases ---- */

static const plx_bench_shape layer_shapes[] = {
    {.B = 1, .T = 1024, .H = 4, .D = 256}, {.B = 1, .T = 1024, .H = 16, .D = 1024}, {0}};
static const plx_bench_shape step_shapes[] = {{.B = 1, .T = 1024, .H = 8, .D = 512}, {0}};
static const plx_bench_shape train_shapes[] = {
    {.B = 8, .T = 256, .H = 4, .D = 256, .ffn = 1024, .vocab = 8192, .layers = 6},
    {.B = 16, .T = 256, .H = 4, .D = 128, .ffn = 384, .vocab = 257, .layers = 4},
    {0}};
static const plx_bench_shape generate_shapes[] = {
    {.B = 1, .T = 512, .H = 4, .D = 256, .ffn = 1024, .vocab = 8192, .layers = 6}, {0}};

#define MODEL_FLOPS "those of the products and mixers"
static const plx_bench_case parts[PLX_BENCH_MODEL_PARTS] = {
    [PLX_BENCH_LAYER_FORWARD] = {.name = "forward",
                                 .shapes = layer_shapes,
                                 .tolerance = 1e-4,
                                 .convention = MODEL_FLOPS " of the whole layer",
                                 .make = make_layer_forward,
                                 .run = run_layer_forward,
                                 .release = release_layer},
    [PLX_BENCH_LAYER_BACKWARD] = {.name = "backward",
                                  .shapes = layer_shapes,
                                  .tolerance = 1e-4,
                                  .convention = MODEL_FLOPS " of the whole layer",
                                  .make = make_layer_backward,
                                  .run = run_layer_backward,
                                  .release = release_layer},
    [PLX_BENCH_STEP] = {.name = "step",
                        .shapes = step_shapes,
                        .tolerance = 1e-4,
                        .convention = MODEL_FLOPS " for one more token after T, without FFN",
                        .make = make_decode,
                        .run = run_decode,
                        .release = release_session},
    [PLX_BENCH_TRAIN] = {.name = "step",
                         .shapes = train_shapes,
                         .tolerance = 1e-4,
                         .convention = "three times the forward's products and mixers",
                         .make = make_train,
                         .run = run_train,
                         .release = release_train},
    [PLX_BENCH_PREFILL] = {.name = "prefill",
                           .shapes = generate_shapes,
                           .tolerance = 1e-4,
                           .convention = MODEL_FLOPS,
                           .make = make_prefill,
                           .run = run_prefill,
                           .release = release_session},
    [PLX_BENCH_DECODE] = {.name = "decode",
                          .shapes = generate_shapes,
                          .tolerance = 1e-4,
                          .convention = MODEL_FLOPS,
                          .make = make_decode,
                          .run = run_decode,
                          .release = release_session},
};

plx_status plx_bench_model_case(plx_context *context, plx_bench_model_part part, const char *group, const char *mixer,
                                plx_bench_case **made)
{
    size_t bytes = strlen(group) + strlen(parts[part].name) + 2;
    char *memory = plx_alloc(context, sizeof **made + bytes), *name = memory + sizeof **made;
    if (memory == NULL) return plx_context_error(context)->code;
    snprintf(name, bytes, "%s.%s", group, parts[part].name);
    *made = (plx_bench_case *)(void *)memory;
    **made = parts[part];
    (*made)->name = name;
    (*made)->user = mixer;
    return PLX_OK;
}
