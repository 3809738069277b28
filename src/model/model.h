/* model.h - the decoder: embedding, blocks, final norm, head; forward and backward for any layer pattern.
 *
 * config.c reads config.json into plx_config and its layers; params.c makes the weights; block.c is one layer;
 * model.c strings them together; loss.c is the fused head and cross-entropy; plan.c runs it dry. */
#ifndef PLX_MODEL_MODEL_H
#define PLX_MODEL_MODEL_H

#include "mixers/mixer.h"
#include "model/ffn.h"

/* ---- one layer ---- */
typedef struct plx_layer {
    plx_layer_shape shape;
    const plx_mixer *mixer;
    void *own;              /* the mixer's struct */
    plx_block_form form;
    bool parallel_residual;
    plx_norm mixer_norm, ffn_norm;
    bool has_ffn;           /* intermediate_size > 0 */
    plx_ffn ffn;
    bool recompute;
    /* kept by forward, for backward */
    const void *input;
    void *mixer_in, *middle, *ffn_in;
    plx_norm_saved mixer_norm_saved, ffn_norm_saved;
} plx_layer;

/* config.json's "adapter": low-rank adapters on the projections named by targets (patterns of a projection's own or full
 * name, all when there are none). rank 0: no adapter. */
enum { PLX_ADAPTER_TARGETS = 16 };
typedef struct plx_adapter_config {
    size_t rank;
    double alpha;
    size_t target_count;
    char targets[PLX_ADAPTER_TARGETS][64];
} plx_adapter_config;

typedef struct plx_config {
    size_t vocab_size, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim;
    size_t max_position_embeddings;
    bool rope;
    double rope_theta, partial_rotary_factor;
    plx_rope_scaling rope_scaling;
    bool norm_layer;
    double norm_eps;
    bool gelu, tie_word_embeddings, attention_bias, attention_out_bias, mlp_bias, qk_norm, parallel_residual;
    double dropout;
    bool init_fan_in;
    char tokenizer[64];     /* "" when absent */
    int64_t bos_token_id, eos_token_id; /* -1: absent */
    plx_adapter_config adapter;
    size_t layer_count;
    plx_layer *layers;      /* shape, mixer and own set by the parser */
} plx_config;

/* The keys that a layer's object may hold whatever its mixer, ended by NULL. */
extern const char *const plx_layer_shape_keys[];
/* Reads a config (a tree of config.json); messages say "model.x" where the root's key is "model", else "config.x". On
 * failure nothing is left behind. */
plx_status plx_config_parse(plx_context *context, const plx_node *root, plx_config *config);
/* Every key, resolved, as JSON; NULL when memory is short. */
json_t *plx_config_describe(const plx_config *config);
void plx_config_release(plx_context *context, plx_config *config);
/* rope_scaling of a config (rope.c): an object in Hugging Face's words, called `section` in messages; max_positions is
 * the default of original_max_position_embeddings. */
plx_status plx_rope_scaling_parse(plx_context *context, const plx_node *node, const char *section, size_t max_positions,
                                  plx_rope_scaling *scaling);
/* The object resolved, null for none; NULL when memory is short. */
json_t *plx_rope_scaling_describe(const plx_rope_scaling *scaling);

struct plx_model {
    plx_context *context;
    plx_type type;          /* of activations, gradients and fresh weights */
    plx_config config;
    char *config_text;
    plx_param **params;
    size_t param_count;
    plx_rope **ropes;
    size_t rope_count;
    plx_param *embedding, *head; /* head: the embedding when tied */
    plx_norm norm;
    void *weights;          /* device memory of all params */
    void *gradients, *moments;   /* device memory, made by a trainer or plx_model_gradients; else NULL */
    void *final_in;         /* kept by forward */
    plx_norm_saved norm_saved;
    char *tokenizer_name;      /* as plx_tokenizer_open takes it; NULL: config.tokenizer, or none */
    plx_tokenizer *tokenizer;  /* NULL until it is asked for */
};

/* tokenizer.c. Names the tokenizer that goes with the model (not "bytes", which the config names). */
plx_status plx_model_set_tokenizer(plx_model *model, const char *name);
/* The one that lies with the model's files: in its directory, or in the file (a GGUF) where that is not NULL. */
plx_status plx_model_find_tokenizer(plx_model *model, const char *directory, const char *file);
plx_status plx_model_write_tokenizer(plx_model *model, const char *directory);
void plx_model_free_tokenizer(plx_model *model);

/* Makes layers and params of a parsed config (taken over) without memory for weights: names and shapes only. */
plx_status plx_model_outline(plx_context *context, plx_config *config, plx_type type, plx_model **model);
/* The same of a config as JSON, `name` standing for its file in messages; and of one in memory, where NULL says that
 * memory was short. */
plx_status plx_model_outline_text(plx_context *context, const char *name, const char *text, plx_type type,
                                  plx_model **model);
plx_status plx_model_outline_json(plx_context *context, const json_t *config, plx_type type, plx_model **model);
/* Allocates the weights after checking the sum; fills none of them. */
plx_status plx_model_allocate(plx_model *model);
/* A model of this config (not changed) with the tensors that both have under one name and shape; the others are fresh by
 * seed. Both stand in memory. */
plx_status plx_model_rebuild(plx_model *old, const json_t *config, uint64_t seed, plx_model **made);
/* Before the outline that an allocated model was rebuilt from is read from its file: what both have lies where the model
 * has it, and what only the model has gets its first values. */
plx_status plx_model_lend(const plx_model *model, plx_model *outline, uint64_t seed);
/* The same without memory for weights; both models are the caller's, *made also after an error (NULL, or to be freed). */
plx_status plx_model_rebuild_outline(plx_model *old, const json_t *config, plx_model **made);
plx_status plx_model_initialise(plx_model *model, uint64_t seed);
/* A tensor's numbers come from a stream of its name, so that models that share a tensor start with the same one. */
plx_status plx_param_initialise(plx_context *context, const plx_param *param, uint64_t seed);
/* Memory for gradients (and the optimiser's moments, zeroed) of the trainable tensors. */
plx_status plx_model_allocate_gradients(plx_model *model, bool moments);
void plx_model_free_gradients(plx_model *model);
plx_param *plx_model_find_param(const plx_model *model, const char *name); /* NULL when unknown */
size_t plx_model_parameter_count(const plx_model *model);

/* hidden [tokens, D] (from scratch or saved): the state after the final norm. Uses mixer->step when run->session is
 * set. */
plx_status plx_model_forward(plx_run *run, plx_model *model, void **hidden);
/* dhidden [tokens, D] is overwritten on the way. Adds to all gradients. */
plx_status plx_model_backward(plx_run *run, plx_model *model, void *dhidden);
/* logits [count, vocab] of `count` rows of hidden. */
plx_status plx_model_head(plx_run *run, plx_model *model, const void *hidden, size_t count, void *logits);
/* Losses of all tokens; with dhidden not NULL also its gradient and the head's, each token's loss times scale. Works
 * through the rows in chunks, so that never more than a few MB of logits exist. loss, correct: [tokens], device. */
plx_status plx_model_loss(plx_run *run, plx_model *model, const void *hidden, double scale, double z, void *dhidden,
                          double *loss, int32_t *correct);

plx_status plx_block_define(plx_params *params, plx_layer *layer, const plx_config *config);
plx_status plx_block_forward(plx_run *run, plx_layer *layer, const void *x, void *y);
/* dh [tokens, D]: in, the gradient for y; out, that for x. */
plx_status plx_block_backward(plx_run *run, plx_layer *layer, void *dh);

/* Checks a caller's batch: sizes, token ids, starts, masks. */
plx_status plx_batch_check(plx_context *context, const plx_batch *batch, size_t vocab, bool targets);

/* ---- arenas: memory for passes, found by a dry run and allocated once ---- */

/* One pass: what is to be done with a run that has its batch and memory. Executed first dry, then really. */
typedef plx_status (*plx_pass)(plx_run *run, plx_model *model, void *user);

typedef struct plx_arena {
    plx_model *model;
    void *memory;            /* device; NULL until first needed */
    size_t bytes;
    int32_t *host;           /* staging for the batch's uploads */
    size_t host_bytes;
    plx_pass sized_pass;     /* what the memory was last sized for */
    size_t sized_rows, sized_length, saved_bytes, scratch_bytes;
    int sized_flags;
    plx_layer_done layer_done; /* of the passes that run in it (run.h); NULL after plx_arena_init */
    void *watcher;
} plx_arena;

enum { PLX_PASS_KEEP = 1, PLX_PASS_TRAINING = 2, PLX_PASS_BF16 = 4 /* operands may be rounded to bf16 */ };

/* What a pass over rows x length tokens needs, without memory: *run holds the peaks and flops. session: NULL but in a
 * step. */
plx_status plx_pass_measure(plx_model *model, size_t rows, size_t length, int flags, struct plx_session *session,
                            plx_pass pass, void *user, plx_run *run);
void plx_arena_init(plx_arena *arena, plx_model *model);
void plx_arena_release(plx_arena *arena);
/* Sizes the arena for a pass (ERROR_MEMORY with the sum when the machine has less); grows, never shrinks. */
plx_status plx_arena_reserve(plx_arena *arena, size_t rows, size_t length, int flags, struct plx_session *session,
                             plx_pass pass, void *user);
/* Reserves, uploads the batch (inputs, targets, mask, start; NULL parts get their defaults; past: [B] or NULL), runs.
 * dropout_seed and dropout_stream matter only with PLX_PASS_TRAINING. */
plx_status plx_arena_run(plx_arena *arena, const plx_batch *batch, const int32_t *past, struct plx_session *session,
                         int flags, uint64_t dropout_seed, uint64_t dropout_stream, plx_pass pass, void *user);

/* ---- adapters (adapter.c) ---- */
/* section: as with plx_rope_scaling_parse. */
plx_status plx_adapter_parse(plx_context *context, const plx_node *node, const char *section,
                             plx_adapter_config *adapter);
json_t *plx_adapter_describe(const plx_adapter_config *adapter); /* NULL when memory is short */

/* ---- files (checkpoint.c) ---- */
/* plx_model_load and plx_model_rebuild in one, without memory for both models. */
plx_status plx_model_load_rebuilt(plx_context *context, const char *path, const plx_model_options *options,
                                  const json_t *config, uint64_t seed, plx_model **model);
/* What plx_model_load would make, without memory for its weights: the tensors, and how each is held. */
plx_status plx_model_load_outline(plx_context *context, const char *path, const plx_model_options *options,
                                  plx_model **model);
/* Writes config.json, model.safetensors (shards above 4 GB) and generation_config.json into an existing directory. */
plx_status plx_model_write(plx_model *model, const char *directory);
/* DIRECTORY/NAME with this JSON, which is taken over; NULL (memory was short) is an error. */
plx_status plx_json_write(plx_context *context, const char *directory, const char *name, json_t *object);
/* Reads all tensors of an allocated model but the packed ones from a directory's safetensors files. */
plx_status plx_model_read(plx_model *model, const char *directory);
/* A model's directory: the path itself, or for a run's directory the checkpoint that `latest` names. Freed with
 * plx_free. */
plx_status plx_model_resolve(plx_context *context, const char *path, char **directory);
/* Reads a tensor of an open file to device memory, converting to `type`. */
struct plx_safetensors;
struct plx_safetensor;
plx_status plx_tensor_read_into(plx_context *context, struct plx_safetensors *file, const struct plx_safetensor *tensor,
                                void *device, plx_type type);

/* ---- plans (plan.c) ---- */
/* Of training a config (a tree of config.json) on rows x length tokens (length 0: max_position_embeddings), the first
 * `recompute` layers recomputed. Freed with plx_plan_free. */
plx_status plx_plan_config(plx_context *context, const plx_node *root, size_t rows, size_t length, size_t recompute,
                           plx_plan *plan);
/* The same of a model, which may be an outline; flags are those of the training passes (PLX_PASS_...). */
plx_status plx_plan_outline(plx_model *model, size_t rows, size_t length, int flags, plx_plan *plan);
/* Of the forward pass, at `length` tokens a row. */
plx_status plx_model_flops(plx_model *model, size_t length, double *flops_per_token);
/* Decoding state of one sequence of `tokens` tokens. */
size_t plx_layer_state_bytes(const plx_model *model, const plx_layer *layer, size_t tokens);

#endif
