/* plexus.h - the public interface of libplexus, and its manual.
 *
 * Plexus trains, evaluates, compares and samples language models whose layers mix tokens by more than
 * pairwise attention: attention, nexus, simplicial and grassmann mixers in any pattern.
 *
 * Reading order: status and context; model; batches; training; sessions (generation); text; runs and recipes.
 *
 * Conventions
 *   - Every function that can fail returns a plx_status; PLX_OK is 0. The message is in the context:
 *     plx_context_error(). On failure an output pointer is left NULL or untouched, and nothing is leaked.
 *   - An object made by plx_X_create, _load or _open belongs to the caller and is freed with plx_X_free
 *     (NULL is allowed). Trainers and sessions must be freed before their model, everything before its context.
 *   - Pointers must not be NULL unless it is said that they may. Arrays and strings that are passed in are read
 *     during the call only.
 *   - A context, and all objects made with it, serve one calling thread at a time. Different contexts may be
 *     used from different threads at once. There is no global state, but for one: an OpenBLAS that has threads of
 *     its own is set to one thread, for the whole process, since Plexus divides products itself.
 *   - The library never prints and never exits: it calls the callbacks of the context.
 *   - Arrays are row-major. [B, T] means B rows of T elements.
 *   - Token ids are int32_t. Losses are natural-log means a token unless said otherwise. */
#ifndef PLEXUS_H
#define PLEXUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PLX_VERSION "0.1.0"

/* ---- status ------------------------------------------------------------------------------------------ */

/* code, what it means */
#define PLX_STATUS_LIST(X)                                                                                   \
    X(OK, "success")                                                                                         \
    X(ERROR_MEMORY, "an allocation failed or would not fit")                                                 \
    X(ERROR_FILE, "a file could not be opened, read, written or synced")                                     \
    X(ERROR_FORMAT, "a file's content is not what it should be")                                             \
    X(ERROR_VALUE, "an argument, option or recipe value is not allowed")                                     \
    X(ERROR_NUMERIC, "NaN or Inf appeared in a loss or gradient")                                            \
    X(ERROR_EXISTS, "the output exists already and is not overwritten")                                      \
    X(ERROR_UNSUPPORTED, "the input needs something that Plexus does not have")                              \
    X(CANCELLED, "the caller's cancel callback asked to stop")                                               \
    X(ERROR_INTERNAL, "a broken promise inside Plexus: please report it")

typedef enum plx_status {
#define PLX_STATUS_ENUM(name, text) PLX_##name,
    PLX_STATUS_LIST(PLX_STATUS_ENUM)
#undef PLX_STATUS_ENUM
} plx_status;

/* "ERROR_FILE"; never NULL. */
const char *plx_status_name(plx_status status);

typedef struct plx_error {
    plx_status code;
    char message[1024]; /* one line: what happened and what to do */
    char where[96];     /* source file and line inside Plexus that noticed */
} plx_error;

/* ---- context ----------------------------------------------------------------------------------------- */

typedef struct plx_context plx_context;

typedef enum plx_log_level { PLX_LOG_DEBUG, PLX_LOG_INFO, PLX_LOG_WARNING } plx_log_level;

/* Memory for everything the library allocates itself (parsers it links to use malloc). resize is realloc,
 * with NULL to allocate; memory need not be cleared. May be called from one thread at a time. */
typedef struct plx_allocator {
    void *(*resize)(void *user, void *pointer, size_t bytes);
    void (*release)(void *user, void *pointer);
    void *user;
} plx_allocator;

typedef struct plx_context_options {
    int threads;             /* 0: all processors this process may use. Results do not depend on it */
    const char *device;      /* NULL: "cpu" */
    const char *level;       /* NULL: the processor's best; or "portable", "avx2", "avx512", "vnni", "bf16", "amx" */
    plx_allocator allocator; /* all NULL: malloc */
    void (*log)(void *user, plx_log_level level, const char *message);                     /* may be NULL */
    /* What slow work is at (reading weights, scoring, ...), how much of it is done, of how much in all (0: unknown). From
     * the calling thread, often many times a second; `what` is valid during the call. May be NULL. */
    void (*progress)(void *user, const char *what, double done, double total);
    bool (*cancel)(void *user); /* asked between steps and tokens; true stops with PLX_CANCELLED; may be NULL */
    void *user;                 /* handed to the three callbacks */
} plx_context_options;

/* options may be NULL. A level that the processor does not have stands for its best; the environment variable
 * PLX_LEVEL, where set, lowers it further. Errors (there is no context to hold a message): ERROR_MEMORY; ERROR_VALUE
 * for an unknown device or level, threads outside 0 .. 1024, or half an allocator. */
plx_status plx_context_create(const plx_context_options *options, plx_context **context);
void plx_context_free(plx_context *context);
/* The last error of this context, the context's; valid until its next call. Before any, code is PLX_OK. */
const plx_error *plx_context_error(const plx_context *context);
int plx_context_threads(const plx_context *context);
/* "portable", "avx2", "avx512", "vnni" (integer dot products), "bf16" (those of bf16 numbers) or "amx" (bf16 tiles): the
 * level of the kernels in use. */
const char *plx_context_level(const plx_context *context);
/* Makes operations whose name matches the shell pattern take the named implementation ("ref", ...) wherever it
 * accepts the arguments; elsewhere, and for a name that no implementation has, nothing changes. The latest choice that
 * matches counts. For tests and measurements. ERROR_VALUE beyond 16 patterns, or for names of more than 47 and 23
 * bytes. */
plx_status plx_context_choose_kernel(plx_context *context, const char *op_pattern, const char *kernel);
/* Fills working memory with NaN before use, to show reads of what nobody wrote. For tests. */
void plx_context_poison(plx_context *context, bool on);

/* ---- numbers of the machine ---------------------------------------------------------------------------- */

typedef struct plx_machine {
    char cpu[64];          /* the processor's name */
    char level[16];        /* as plx_context_level */
    int threads;
    double peak_gflops;    /* measured f32 multiply-add rate of all threads, a multiply-add counted as 2 */
    double tile_gflops;    /* of bf16 products whose operands come from L1; 0 below level "bf16" */
    double read_gbs;       /* measured reading of memory, 10^9 bytes a second */
    size_t memory_bytes;   /* available to new allocations */
} plx_machine;

/* Measures for about a quarter of a second, on all threads of the context. ERROR_MEMORY. */
plx_status plx_machine_measure(plx_context *context, plx_machine *machine);

typedef struct plx_kernel_use {
    const char *op, *kernel;  /* the operation, and the implementation that an f32 problem takes */
    const char *passed_over;  /* faster ones and why each is not it: "amx: only with train.precision bf16; ..."; or "" */
} plx_kernel_use;
/* Calls visit for each operation, shared ones and the mixers'. What it is given is valid during the call only. ERROR_MEMORY. */
plx_status plx_kernels_visit(plx_context *context, void (*visit)(void *user, const plx_kernel_use *use), void *user);

/* What the operations of one name and implementation took while the profile was on. */
typedef struct plx_profile_row {
    const char *op, *kernel;  /* "norm.forward", "avx512"; products are matmul.forward, .dinput and .dweight */
    size_t calls;
    double seconds;           /* without that of operations which it ran itself, so that rows add up */
    double flops;             /* 0 for work on memory */
} plx_profile_row;
/* Records what operations take from now on, or no longer; rows add up over several times. It is off at first, and
 * costs nothing then. ERROR_MEMORY. */
plx_status plx_profile_enable(plx_context *context, bool on);
/* Forgets what was recorded; the profile is off. */
void plx_profile_clear(plx_context *context);
/* Calls visit for each row, in the order in which the operations first ran. The strings are valid as long as the
 * context. */
void plx_profile_visit(const plx_context *context, void (*visit)(void *user, const plx_profile_row *row), void *user);

/* ---- model --------------------------------------------------------------------------------------------- */

typedef enum plx_type { PLX_F32, PLX_F64, PLX_BF16, PLX_F16 } plx_type;
size_t plx_type_size(plx_type type); /* bytes */
const char *plx_type_name(plx_type type); /* "f32" */

typedef struct plx_model plx_model;

/* How plx_model_load holds the weights. Packed matrices take a fraction of the memory and are multiplied as they lie, by
 * activations rounded to int8 in blocks of 32; they cannot be trained or written to. Those whose rows are no multiple of
 * 32 numbers, and tensors that are no matrices of products, become `type` under Q8_0 and Q4_0. */
typedef enum plx_weights {
    PLX_WEIGHTS_TYPE,   /* all as `type` */
    PLX_WEIGHTS_STORED, /* matrices as the file has them: packed, bf16, f16, or `type` */
    PLX_WEIGHTS_Q8_0,   /* matrices packed as Q8_0, whatever the file has */
    PLX_WEIGHTS_Q4_0,   /* as Q4_0, but the embedding and the head as Q8_0 */
    PLX_WEIGHTS_BF16    /* matrices rounded to bf16 */
} plx_weights;

typedef struct plx_model_options {
    uint64_t seed; /* of the initial weights; a tensor's numbers depend on seed, its name and shape alone */
    plx_type type; /* PLX_F32; PLX_F64 computes everything by the plain reference kernels (for tests) */
    bool keep_stored_types; /* plx_model_load: matrices stored as bf16 or f16 stay so (half the memory, not trainable)
                               instead of being converted to `type` */
    const char *adapter; /* plx_model_load: directory of an adapter that is put on the model, as plx_model_with_adapter
                            does; NULL: none */
    plx_weights weights;    /* plx_model_load */
} plx_model_options;

/* Makes a model with fresh weights. config_json is the text of a config.json (see docs/config.md); keys with
 * defaults may be left out. options may be NULL. The weights' size is checked against the machine's memory
 * first. Errors: ERROR_VALUE or ERROR_FORMAT naming the key; ERROR_MEMORY with the sum. */
plx_status plx_model_create(plx_context *context, const char *config_json, const plx_model_options *options,
                            plx_model **model);
/* Opens a model: a directory (config.json, model.safetensors or shards with an index), Plexus's own or one of the
 * families of docs/open-models.md; a run's directory, by its `latest` checkpoint; or a .gguf file. options may be NULL;
 * the seed is not used. Errors: ERROR_FILE; ERROR_FORMAT for a file that is damaged, a
 * tensor that is missing, of another shape or too many; ERROR_VALUE naming the key of config.json; ERROR_UNSUPPORTED
 * naming the architecture, key, value or stored type that Plexus does not have; ERROR_MEMORY with the sum. */
plx_status plx_model_load(plx_context *context, const char *path, const plx_model_options *options,
                          plx_model **model);
/* Writes config.json, model.safetensors and generation_config.json into a new directory, first under another
 * name, synced, then renamed: the directory is complete or not there. Errors: ERROR_EXISTS if it is there;
 * ERROR_FILE. */
plx_status plx_model_save(plx_model *model, const char *directory);
/* How plx_model_save_as writes; all zero: as plx_model_save. */
typedef struct plx_layout {
    const char *family; /* "llama", "qwen2" or "gpt_neox": config.json and tensors as that family has them, which other
                           programs open; NULL: Plexus's own */
    bool convert;       /* write every tensor as `type`; else each as it is held */
    plx_type type;
} plx_layout;
/* As plx_model_save, in another layout. ERROR_VALUE for an unknown family; ERROR_UNSUPPORTED naming the layer or key that
 * the family cannot say; ERROR_EXISTS; ERROR_FILE. */
plx_status plx_model_save_as(plx_model *model, const char *directory, const plx_layout *layout);
void plx_model_free(plx_model *model);

typedef struct plx_model_info {
    size_t parameters, vocab_size, hidden_size, layers, max_positions;
    double flops_per_token; /* forward: matrix products and mixers; mean over max_positions tokens in one document */
} plx_model_info;
/* Counts by a dry run; nothing is computed or allocated for it. */
plx_status plx_model_describe(plx_model *model, plx_model_info *info);
/* A new model without adapter whose weights are W + (alpha / rank) B A. Both stand in memory. ERROR_VALUE for a model that
 * has none. */
plx_status plx_model_merge(plx_model *model, plx_model **made);
/* Writes the model's adapter alone, without the weights under it, into a new directory as the peft package has it:
 * adapter_config.json and adapter_model.safetensors (f32). family: as in plx_layout, for the names of the modules; NULL:
 * the first that has a model like this one. base: what base_model_name_or_path shall say, or NULL. Errors: ERROR_VALUE
 * for a model without adapter or an unknown family; ERROR_UNSUPPORTED for a model that the family does not have, as one
 * with other layers than attention; ERROR_EXISTS; ERROR_FILE. */
plx_status plx_model_save_adapter(plx_model *model, const char *directory, const char *family, const char *base);
/* A new model: this one, and the LoRA adapter in a directory of that layout. Both stand in memory. Errors: ERROR_VALUE for
 * a model that has an adapter; those of files; ERROR_UNSUPPORTED or ERROR_VALUE naming the key or tensor that asks for
 * more than adapters on the layers' projections. */
plx_status plx_model_with_adapter(plx_model *model, const char *directory, plx_model **made);
/* The config with every key resolved, as JSON; a string of the model's, valid until it is freed. */
const char *plx_model_config(const plx_model *model);

typedef struct plx_tensor_info {
    const char *name;       /* as in the checkpoint; the model's */
    plx_type type;
    size_t rank, shape[3];
    size_t elements;
    bool trainable, decay;
} plx_tensor_info;
size_t plx_model_tensor_count(const plx_model *model);
/* ERROR_VALUE from plx_model_tensor_count on. */
plx_status plx_model_tensor(const plx_model *model, size_t index, plx_tensor_info *info);
/* Copies a tensor to or from host numbers, row-major; or, with gradient true, its gradient: the sum that the last
 * plx_model_gradients or plx_trainer_step made, before clipping. count must be its number of elements. ERROR_VALUE
 * for an unknown name, another count, or a gradient that there is none of (frozen, or nothing computed since the
 * trainer was freed). */
plx_status plx_model_read_tensor(plx_model *model, const char *name, bool gradient, double *values, size_t count);
plx_status plx_model_write_tensor(plx_model *model, const char *name, const double *values, size_t count);
/* Frozen tensors get no gradient and no update. pattern is a shell pattern of names, in which * also stands for dots.
 * To be called before plx_model_gradients and plx_trainer_create. ERROR_VALUE if none matches, or while gradients exist
 * (until the trainer is freed). */
plx_status plx_model_set_trainable(plx_model *model, const char *pattern, bool trainable);

/* ---- batches ------------------------------------------------------------------------------------------- */

/* B rows of T tokens, in the caller's memory. Rows hold one or several packed documents, which do not see each
 * other: start[b,t] is the index in the row of the first token of the document that token t belongs to. So
 * start is t itself at a document's first token and equals start[b,t-1] elsewhere. Rows shorter than T are padded:
 * tokens of any valid id, mask 0, each its own document (start = t). B * T is below 2^31. Whatever takes a batch checks
 * it: ERROR_VALUE names row and position of an id outside the vocabulary, a mask below 0 or not finite, or a start
 * that is none. */
typedef struct plx_batch {
    size_t rows, length;     /* B, T; both >= 1 */
    const int32_t *inputs;   /* [B,T] */
    const int32_t *targets;  /* [B,T]; NULL where no loss is asked for */
    const float *mask;       /* [B,T] weight of each token's loss, >= 0; NULL: all 1 */
    const int32_t *start;    /* [B,T]; NULL: one document a row (all 0) */
} plx_batch;

/* Logits of every token, [B, T, vocab_size] in double, to the caller's array. */
plx_status plx_model_logits(plx_model *model, const plx_batch *batch, double *logits);

typedef struct plx_score {
    double loss_sum;    /* natural log, over the tokens, each times its mask */
    double weight;      /* sum of the mask */
    size_t tokens;      /* with mask > 0 */
    size_t correct;     /* of those, the largest logit is the target's (lowest id on ties) */
} plx_score;
/* Adds the batch's score to *score, which the caller sets to 0 before the first. Needs targets. */
plx_status plx_model_score(plx_model *model, const plx_batch *batch, plx_score *score);
/* Loss (mean over the mask) and its gradients for all trainable tensors, read by plx_model_read_tensor; nothing is
 * updated, and dropout is off. Needs targets. ERROR_VALUE when the mask is 0 everywhere. */
plx_status plx_model_gradients(plx_model *model, const plx_batch *batch, double *loss);

/* ---- retrofit ------------------------------------------------------------------------------------------ */

/* A new model with layers replaced. Each text is LAYERS:MIXER,KEY=VALUE.. with LAYERS like "3,7,11", "0-5", "every 4" (the
 * 4th, 8th, ...) or "all", and the mixer's own keys of config.json: "3,7,11:nexus,order=2". Tensors that both have under
 * one name and shape are taken over, the others are fresh by `seed`. Options that are left open are chosen so that the
 * layer begins as exactly the attention layer it replaces, where the mixer can; where it does not, a warning is logged
 * that says why. Both models stand in memory. Errors: ERROR_VALUE naming text, layer or key; ERROR_MEMORY. */
plx_status plx_model_retrofit(plx_model *model, const char *const *layers, size_t count, uint64_t seed,
                              plx_model **made);
typedef struct plx_difference {
    double largest_change; /* of a logit */
    double range;          /* of the first model's logits: largest less smallest */
    double loss[2];        /* mean natural log-loss of the text's next tokens, of each model */
} plx_difference;
/* How far the logits of two models of one vocabulary are apart over one document. Their contexts must not be in use
 * elsewhere. Errors: ERROR_VALUE; ERROR_NUMERIC when a logit is not finite. */
plx_status plx_model_difference(plx_model *a, plx_model *b, const int32_t *tokens, size_t count,
                                plx_difference *difference);

/* ---- training ------------------------------------------------------------------------------------------ */

/* bf16: products of f32 tensors may round their operands to bf16, with sums in f32, where the processor has tiles for it;
 * weights, gradients and the optimiser stay f32. Elsewhere it computes as f32 does. */
typedef enum plx_precision { PLX_PRECISION_F32, PLX_PRECISION_BF16 } plx_precision;
typedef enum plx_schedule { PLX_SCHEDULE_COSINE, PLX_SCHEDULE_WSD, PLX_SCHEDULE_CONSTANT } plx_schedule;

typedef struct plx_train_options {
    size_t steps;            /* total, of the schedule */
    double lr;               /* peak learning rate */
    size_t warmup_steps;     /* linear: step s of them uses lr * s / warmup_steps, s = 1, 2, ... */
    plx_schedule schedule;   /* cosine to min_lr_ratio; or wsd: constant, then linear over decay_steps */
    size_t decay_steps;      /* wsd only */
    double min_lr_ratio;
    double weight_decay;     /* decoupled (AdamW), on matrices and embeddings; not on norms and biases */
    double beta1, beta2, epsilon;
    double grad_clip;        /* largest norm of all gradients together; 0: no clipping */
    double z_loss;           /* coefficient of the squared log-sum-exp of the logits; 0: none */
    plx_precision precision;
    size_t recompute;        /* layers recomputed in backward instead of kept: 0 none, n the first n */
    uint64_t seed;           /* of dropout */
} plx_train_options;
/* steps 600, lr 3e-3, warm-up 50, cosine to 0.1, decay 0.1, betas 0.9 and 0.95, epsilon 1e-8, clip 1. */
plx_train_options plx_train_defaults(void);

typedef struct plx_trainer plx_trainer;
typedef struct plx_step_report {
    size_t step;        /* 1 for the first */
    double loss, lr, grad_norm; /* loss without the z term; norm before clipping */
    size_t tokens;      /* input tokens of this step */
} plx_step_report;

/* Holds gradients, optimiser state and working memory for batches of up to rows x length tokens. The model must
 * outlive it, and has one trainer at a time. The options are copied, and trusted: recipes check theirs. Errors:
 * ERROR_VALUE (a second trainer; rows or length 0; a trainable tensor of a model loaded with keep_stored_types that
 * is stored in 16 bits); ERROR_MEMORY names the sum and what it is made of before anything is allocated. */
plx_status plx_trainer_create(plx_model *model, const plx_train_options *options, size_t rows, size_t length,
                              plx_trainer **trainer);
/* One optimiser step on the sum of `count` batches (gradient accumulation; the loss is the mean over all their
 * masks). Batches may be smaller than the trainer's, not larger. Errors: ERROR_VALUE; ERROR_NUMERIC names step and
 * tensor when loss or gradient is not finite. The weights and the number of steps done are then as before. */
plx_status plx_trainer_step(plx_trainer *trainer, const plx_batch *batches, size_t count, plx_step_report *report);
void plx_trainer_free(plx_trainer *trainer);

/* ---- sessions: sequences that grow ---------------------------------------------------------------------- */

/* `slots` independent sequences. The state of a slot is bounded: windows keep their window, grassmann layers the
 * last max(offset) vectors. */
typedef struct plx_session plx_session;
/* How the keys and values that attention and nexus layers look back at are kept; the states of other layers are kept as
 * they are. */
typedef enum plx_state_form {
    PLX_STATE_WHOLE,   /* numbers of the model's type */
    PLX_STATE_F16,     /* half of f32's memory: each number is rounded by 2^-11 of itself at most */
    PLX_STATE_Q8       /* bytes with a scale for each 32, 9/32 of f32's: rounded by 1/254 of the largest of the 32 */
} plx_state_form;
typedef struct plx_session_options {
    size_t slots;      /* 0: 1 */
    size_t capacity;   /* tokens a slot may hold; 0: the model's max_positions */
    size_t chunk;      /* most tokens a row in one step; 0: 64 */
    size_t rollback;   /* a slot can always be cut back by this many tokens from the longest that it was, or to any length
                          while nothing is dropped; layers with a bounded state keep so many tokens more. 0: 64 */
    plx_state_form state;
} plx_session_options;
/* options may be NULL. The model must outlive it. ERROR_MEMORY with the sum, before anything large is allocated. */
plx_status plx_session_create(plx_model *model, const plx_session_options *options, plx_session **session);
void plx_session_free(plx_session *session);

typedef struct plx_session_row {
    size_t slot;
    const int32_t *tokens;
    size_t count;          /* 1 .. chunk */
    const bool *new_document; /* [count]; true where a token begins a new document. NULL: none but the slot's first */
} plx_session_row;
/* Appends tokens to `rows` different slots at once (prefill and decode in one). logits: [rows, vocab_size], those
 * after each row's last token; NULL when not wanted. all_logits: [rows, longest count, vocab_size], 0 behind the end
 * of a shorter row; NULL when not wanted. ERROR_VALUE for a slot that is not there or named twice, a count beyond
 * chunk or the slot's capacity, or an id outside the vocabulary; all slots are then as before. */
plx_status plx_session_step(plx_session *session, const plx_session_row *rows, size_t count, float *logits,
                            float *all_logits);
/* Tokens that a slot holds; 0 for a slot that is not there. */
size_t plx_session_length(const plx_session *session, size_t slot);
/* Empties a slot. */
plx_status plx_session_reset(plx_session *session, size_t slot);
/* Copies one slot over another, which then goes on by itself. */
plx_status plx_session_fork(plx_session *session, size_t from, size_t to);
/* Forgets all but the first `length` tokens. ERROR_VALUE, and nothing changed, when a bounded layer has dropped what
 * that needs (see rollback). */
plx_status plx_session_cut(plx_session *session, size_t slot, size_t length);
/* A slot's state as bytes that can be put back later, into any slot of a session of the same model and options.
 * The caller frees *state with plx_session_state_free. The bytes hold numbers of this machine's byte order. What
 * restore is given is checked: ERROR_FORMAT for what is damaged or no state, ERROR_VALUE for one of a model of
 * another shape or too long for a slot; the slot is then as before. */
plx_status plx_session_save(plx_session *session, size_t slot, void **state, size_t *bytes);
plx_status plx_session_restore(plx_session *session, size_t slot, const void *state, size_t bytes);
void plx_session_state_free(plx_session *session, void *state);
/* Bytes of decoding state a slot occupies, whatever its length. */
size_t plx_session_state_bytes(const plx_session *session);

/* ---- sampling ------------------------------------------------------------------------------------------ */

typedef struct plx_sampling {
    double temperature;        /* 0: the largest logit */
    size_t top_k;              /* 0: off */
    double top_p;              /* 1: off */
    double min_p;              /* 0: off; least probability relative to the largest */
    double repetition_penalty; /* 1: off; divides positive and multiplies negative logits of tokens in the history */
    uint64_t seed;
} plx_sampling;
plx_sampling plx_sampling_defaults(void); /* temperature 1, the rest off, seed 0 */
/* Chooses a token. `index` numbers the draw: the same seed, index and logits give the same token. Order: penalty,
 * temperature, top-k, top-p, min-p. history: the tokens that the penalty applies to, each once; may be NULL with
 * history_count 0. logits is not changed. Errors: ERROR_VALUE for an option out of range; ERROR_NUMERIC when a logit
 * is NaN or +inf, or all are -inf. */
plx_status plx_sample(plx_context *context, const plx_sampling *sampling, const float *logits, size_t vocab_size,
                      const int32_t *history, size_t history_count, uint64_t index, int32_t *token);

/* ---- text ---------------------------------------------------------------------------------------------- */

typedef struct plx_tokenizer plx_tokenizer;
/* "bytes" (ids 0-255 and 256, which begins each document), or the path of a tokenizer.json, of a directory with one, or
 * of a GGUF (docs/tokenizers.md); a tokenizer_config.json beside it names the tokens that begin and end a text. Errors: ERROR_VALUE
 * for a name that is neither; ERROR_FILE; ERROR_FORMAT and ERROR_UNSUPPORTED naming file and field. */
plx_status plx_tokenizer_open(plx_context *context, const char *name, plx_tokenizer **tokenizer);
void plx_tokenizer_free(plx_tokenizer *tokenizer);
size_t plx_tokenizer_vocab_size(const plx_tokenizer *tokenizer);
/* The token that begins each document in training; -1 where there is none. */
int32_t plx_tokenizer_separator(const plx_tokenizer *tokenizer);
/* The tokens that begin and end a text, as far as the files say; -1. */
int32_t plx_tokenizer_bos(const plx_tokenizer *tokenizer);
int32_t plx_tokenizer_eos(const plx_tokenizer *tokenizer);
/* The token that the model wants before every text (Llama's <s>), or -1. Encoding does not add it. */
int32_t plx_tokenizer_before_text(const plx_tokenizer *tokenizer);
/* The id of the token that the file writes so ("<|im_start|>"), or -1. */
int32_t plx_tokenizer_find(const plx_tokenizer *tokenizer, const char *text);
/* Any bytes are allowed; what is not UTF-8 counts as U+FFFD, except for "bytes". Special tokens written in the text
 * ("<|endoftext|>") become those tokens. No separator is added. *tokens is the caller's, freed with plx_tokens_free; not NULL when
 * *count is 0. */
plx_status plx_tokenizer_encode(plx_tokenizer *tokenizer, const char *text, size_t bytes, int32_t **tokens,
                                size_t *count);
void plx_tokens_free(plx_tokenizer *tokenizer, int32_t *tokens);
/* Writes the bytes of one token and sets *bytes, the room for them, to their number; 0 for a special one. They may begin
 * or end inside a character. No token has more than 1024. ERROR_VALUE outside the vocabulary, or when there is too little room. */
plx_status plx_tokenizer_decode(plx_tokenizer *tokenizer, int32_t token, char *text, size_t *bytes);
/* The text of all tokens, special ones left out, to a fresh string with a 0 behind it, freed with plx_text_free. Unlike
 * plx_tokenizer_decode it drops the space that some tokenizers put before a text. ERROR_VALUE as there. */
plx_status plx_tokenizer_decode_text(plx_tokenizer *tokenizer, const int32_t *tokens, size_t count, char **text,
                                     size_t *bytes);
void plx_text_free(plx_tokenizer *tokenizer, char *text);
/* Writes tokenizer.json, and tokenizer_config.json where there was one, into a directory; nothing for "bytes".
 * ERROR_FILE. */
plx_status plx_tokenizer_save(const plx_tokenizer *tokenizer, const char *directory);
typedef struct plx_tokenizer_options {
    size_t vocab_size;              /* 257 and more: the bytes, "<|endoftext|>" and what is made of pairs */
    const char *text_field;         /* of JSON lines; NULL: "text" */
    const char *document_separator; /* a line of plain text between documents; NULL: none */
} plx_tokenizer_options;
/* Makes a byte-level BPE vocabulary from text files (plain, .zst, .jsonl, .jsonl.zst), and writes it as a new directory
 * with tokenizer.json and tokenizer_config.json, which the tokenizers package opens, too. The same texts give the same
 * file. *made (may be NULL): the number of tokens, less than asked for where the text has no more pairs that stand there
 * twice. Errors: ERROR_VALUE for the size; ERROR_EXISTS; ERROR_FILE and ERROR_FORMAT of the texts; PLX_CANCELLED. */
plx_status plx_tokenizer_train(plx_context *context, const char *const *files, size_t count,
                               const plx_tokenizer_options *options, const char *directory, size_t *made);
/* The tokenizer that belongs to a model: "bytes" where its config says so, else the tokenizer.json beside it or what its
 * GGUF holds; opened at the first call. The model's: not to be freed. ERROR_UNSUPPORTED where there is none; those of
 * plx_tokenizer_open; ERROR_VALUE where it has more ids than the model. */
plx_status plx_model_tokenizer(plx_model *model, plx_tokenizer **tokenizer);

struct plx_generated;
typedef struct plx_generate_options {
    size_t max_tokens;
    plx_sampling sampling;
    bool stop_at_separator;    /* end at the tokenizer's separator, or at its or the model's end-of-sequence token */
    plx_state_form state;
    size_t together;           /* plx_generate_batch: prompts in work at a time; 0: 8 */
    /* plx_generate: called with each piece of text as it is made; a piece never ends inside a UTF-8 character, so one
     * that the last token leaves unfinished is in the result only. May be NULL. */
    void (*piece)(void *user, const char *text, size_t bytes);
    /* plx_generate_batch: called for each prompt that is done, in the order in which they are. May be NULL. */
    void (*finished)(void *user, size_t index, const struct plx_generated *result);
    void *user;
} plx_generate_options;
plx_generate_options plx_generate_defaults(void); /* 256 tokens */
typedef struct plx_generated {
    char *text;                /* without the prompt; a 0 follows it; freed with plx_generated_free */
    size_t bytes, tokens;
    size_t read;               /* tokens of the prompt */
    double read_seconds;       /* until the first token could be chosen, */
    double seconds;            /* and from then to the last; in a batch, other prompts' steps count too */
} plx_generated;
/* Text that goes on from the prompt; an empty one stands for the beginning of a document. The model's length does
 * not limit it. options may be NULL. PLX_CANCELLED: what was made so far went to `piece` only. */
plx_status plx_generate(plx_model *model, plx_tokenizer *tokenizer, const char *prompt, size_t prompt_bytes,
                        const plx_generate_options *options, plx_generated *result);
typedef struct plx_prompt {
    const char *text;
    size_t bytes;              /* 0: the beginning of a document */
} plx_prompt;
/* The same for `count` prompts into results[count], in their order. They are worked on together, options->together at a
 * time, each in a slot of one session; the state takes so many times what the longest prompt and max_tokens need. Prompt
 * i draws with the seed options->sampling.seed + i and writes what it would alone with that seed: logits are equal up to
 * the rounding of sums over earlier tokens (1e-5 of their norm), so that a text differs only where two choices are that
 * close. On failure no result is kept; those that `finished` was called for were whole. */
plx_status plx_generate_batch(plx_model *model, plx_tokenizer *tokenizer, const plx_prompt *prompts, size_t count,
                              const plx_generate_options *options, plx_generated *results);
/* Frees the text of a result, also of one that is all 0. The model is the one that made it. */
void plx_generated_free(plx_model *model, plx_generated *result);

/* ---- conversations --------------------------------------------------------------------------------------- */

typedef struct plx_conversation plx_conversation;
typedef struct plx_conversation_options {
    const char *chat_template; /* "chatml", "llama3", "zephyr", "plain"; NULL: the one that came with the tokenizer, recognised
                                  by what it contains, plain where none did */
    const char *system;        /* the system's message; NULL: the template's own, if it has one */
    size_t capacity;           /* tokens that the conversation may hold; 0: the model's positions, at most 4,096 */
    size_t max_tokens;         /* of an answer */
    plx_sampling sampling;
    plx_state_form state;
    /* Called with each piece of an answer as it is made, whole characters; may be NULL. */
    void (*piece)(void *user, const char *text, size_t bytes);
    void *user;
} plx_conversation_options;
plx_conversation_options plx_conversation_defaults(void); /* 512 tokens, temperature 0.7, top-p 0.95 */
typedef struct plx_answer {
    const char *text;          /* the conversation's, until its next call; may be empty */
    size_t bytes, tokens;
    bool complete;             /* the model ended it; else max_tokens or the capacity did */
    size_t read;               /* tokens read before the first word */
    size_t forgotten;          /* messages dropped from the beginning to make room */
    double read_seconds, seconds;
} plx_answer;
/* Both must outlive it; the options' strings are read during the call. Errors: ERROR_VALUE for an unknown template;
 * ERROR_UNSUPPORTED for a model's own that is none of them; ERROR_MEMORY with the sum. */
plx_status plx_conversation_create(plx_model *model, plx_tokenizer *tokenizer, const plx_conversation_options *options,
                                   plx_conversation **conversation);
void plx_conversation_free(plx_conversation *conversation);
/* Asks, and is answered. Only what is new is read by the model. Where the capacity is short the oldest questions and
 * answers are forgotten. PLX_CANCELLED (the context's cancel callback) ends the answer: what was said of it stays, and the
 * conversation can go on. ERROR_VALUE for a question that is larger than the capacity. */
plx_status plx_conversation_ask(plx_conversation *conversation, const char *question, size_t bytes, plx_answer *answer);
/* Forgets everything but the system's message; the second also sets that (NULL or "": none). */
plx_status plx_conversation_reset(plx_conversation *conversation);
plx_status plx_conversation_set_system(plx_conversation *conversation, const char *system);
/* The messages so far; role is "system", "user" or "assistant". Strings are the conversation's. */
size_t plx_conversation_count(const plx_conversation *conversation);
void plx_conversation_message(const plx_conversation *conversation, size_t index, const char **role, const char **text,
                              size_t *bytes);
/* The name of its template. */
const char *plx_conversation_template(const plx_conversation *conversation);

typedef struct plx_evaluation {
    size_t tokens;          /* scored */
    double nll, perplexity, bits_per_byte;
} plx_evaluation;
/* Scores a text file (plain, .zst, .jsonl, .jsonl.zst) in windows of `window` tokens (0: max_positions) that overlap by
 * one, so that each token but the first is scored once, with at most window - 1 before it. bits_per_byte divides by the
 * bytes of the scored tokens; nll is the mean a token. Errors: those of reading the file; ERROR_UNSUPPORTED for a model
 * without a tokenizer; ERROR_VALUE for a window of 1, or a text of one token; ERROR_NUMERIC. */
plx_status plx_evaluate_file(plx_model *model, const char *path, size_t window, plx_evaluation *result);

/* ---- recipes and runs ------------------------------------------------------------------------------------ */

typedef struct plx_recipe plx_recipe;
/* Reads a recipe (docs/recipes.md). overrides: "train.steps=100", ...; count may be 0. Relative data paths are
 * taken from the working directory. No data is opened. Unknown keys: ERROR_VALUE with file, line and the nearest known
 * key. */
plx_status plx_recipe_load(plx_context *context, const char *path, const char *const *overrides, size_t count,
                           plx_recipe **recipe);
void plx_recipe_free(plx_recipe *recipe);
const char *plx_recipe_out(const plx_recipe *recipe);       /* the run's directory; the recipe's */
/* The model's config.json text that the recipe describes; the recipe's. */
const char *plx_recipe_config(const plx_recipe *recipe);

/* What a run tells while it goes. Fields that do not belong to the event are 0. */
typedef enum plx_run_event_kind {
    PLX_RUN_STARTED,
    PLX_RUN_STEP,
    PLX_RUN_EVALUATED,
    PLX_RUN_SAVED,
    PLX_RUN_SAMPLE
} plx_run_event_kind;
typedef struct plx_run_event {
    plx_run_event_kind kind;
    size_t step, steps;            /* done, of all */
    size_t tokens;                 /* trained on so far */
    double loss, lr, grad_norm, tokens_per_second, seconds, seconds_left; /* STEP */
    double peak_fraction;          /* STEP: of the measured rate of products in the run's precision; 0: not measured */
    double valid_loss, valid_bits_per_byte, valid_accuracy; /* EVALUATED; the last two < 0 where they do not apply */
    const char *text;              /* SAVED: the checkpoint's path; SAMPLE: text; STARTED: one line about the run */
} plx_run_event;

typedef struct plx_run_options {
    bool resume;                    /* go on from `latest`; without it an existing run is ERROR_EXISTS */
    bool profile;                   /* the context's profile is on during the training steps, and only then */
    void (*event)(void *user, const plx_run_event *event); /* may be NULL */
    void *user;
} plx_run_options;

typedef struct plx_run_result {
    size_t step, tokens, parameters;
    double flops_per_token;         /* forward */
    size_t steps_taken;             /* by this process, */
    double step_seconds;            /* in so much time: the steps and their data, without evaluations and saves */
    double tokens_per_second;       /* of those steps; where none was left to take, of the process before; < 0: unknown */
    double train_loss;              /* of the last step */
    double valid_loss, valid_bits_per_byte, valid_accuracy; /* of the last evaluation; < 0 where they do not apply */
} plx_run_result;

/* Trains as the recipe says: data, evaluation, checkpoints, metrics.jsonl, TensorBoard events. When the cancel
 * callback asks to stop, the step in progress is finished, a checkpoint saved, and PLX_CANCELLED returned. options and
 * result may be NULL; result is filled as far as the run came. An event's text is valid during the call only. */
plx_status plx_recipe_train(plx_recipe *recipe, const plx_run_options *options, plx_run_result *result);

typedef struct plx_plan_layer {
    const char *mixer;
    size_t parameters;
    size_t activation_bytes, state_bytes;             /* kept for backward; decoding state of one sequence */
    double flops_per_token;                           /* forward */
} plx_plan_layer;
typedef struct plx_plan {
    size_t parameters;
    double flops_per_token;      /* forward, at `length` tokens a row */
    struct { size_t weights, gradients, optimizer, activations, scratch, state; } bytes;
    size_t total_bytes;          /* all of them but state, which is of one sequence of `length` tokens */
    size_t available_bytes;      /* of the machine */
    size_t rows, length;
    size_t layer_count;
    plx_plan_layer *layers;      /* freed with plx_plan_free */
} plx_plan;
/* What training the recipe, or a model (as plx_model_load) with batches of rows x length tokens (0: 1 row of max_positions),
 * needs; nothing of it is allocated. Of a plan that failed nothing need be freed. */
plx_status plx_plan_recipe(plx_recipe *recipe, plx_plan *plan);
plx_status plx_plan_model(plx_context *context, const char *directory, size_t rows, size_t length, plx_plan *plan);
void plx_plan_free(plx_context *context, plx_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
