/* run.h - one pass of a model: where its memory comes from and what its batch looks like.
 *
 * Modules take memory from two stacks. `saved` holds what forward keeps for backward; `scratch` holds what a
 * module needs only while it runs (mark and release). A dry run executes the very same module code with no
 * memory and no kernels: it only counts bytes and flops. So the plan cannot disagree with what runs; the arena
 * is sized from it before anything is allocated. Pointers of a dry run must never be read or written - nor may
 * those of a real one, which are device memory. */
#ifndef PLX_MODEL_RUN_H
#define PLX_MODEL_RUN_H

#include "kernels/kernels.h"

typedef struct plx_stack {
    char *memory;          /* NULL in a dry run */
    size_t size;           /* capacity */
    size_t used, peak;
} plx_stack;

struct plx_session_layer; /* decoding state, infer/state.h */

/* Called after each layer's forward, `done` of `layers`, for progress inside a pass that takes long; may stop it. */
typedef plx_status (*plx_layer_done)(void *watcher, size_t done, size_t layers);

typedef struct plx_run {
    plx_context *context;
    plx_type type;          /* of all activations: f32 or f64 */
    bool dry;               /* count only */
    bool keep;              /* a backward follows: forward keeps what it needs */
    bool training;          /* dropout is on */
    bool gradients;         /* a backward follows, or runs: unlike keep also while a layer to be recomputed goes forward */
    bool bf16;              /* operations may round operands to bf16 (train.precision) */
    size_t rows, length;    /* B, T */
    size_t tokens;          /* B * T */
    const int32_t *inputs, *targets; /* [B,T] */
    const float *mask;      /* [B,T] */
    const int32_t *start;   /* [B,T] document starts, index in the sequence */
    const int32_t *position;/* [B,T] index in the document */
    const int32_t *past;    /* [B] or NULL */
    uint64_t dropout_seed, dropout_stream; /* stream: of this step; layers add their index << 32 */
    plx_stack saved, scratch;
    double flops;           /* counted in a dry run */
    struct plx_session *session; /* in a step: the state to append to; NULL in a forward */
    size_t layer;           /* index of the layer that runs, set by the model */
    plx_layer_done layer_done; /* NULL: nobody asks */
    void *watcher;
} plx_run;

/* Take `count` elements of the run's type (or `bytes` bytes) from a stack; 64-byte aligned. Saved memory stays until
 * the model releases it after backward; scratch until plx_release. With the context's poison on, filled with NaN. */
plx_status plx_saved(plx_run *run, size_t count, void **memory);
plx_status plx_saved_bytes(plx_run *run, size_t bytes, void **memory);
plx_status plx_scratch(plx_run *run, size_t count, void **memory);
plx_status plx_scratch_bytes(plx_run *run, size_t bytes, void **memory);
size_t plx_mark(const plx_run *run);
void plx_release(plx_run *run, size_t mark);
/* From saved when a backward follows, else from scratch. For values that backward needs. */
plx_status plx_kept(plx_run *run, size_t count, void **memory);

/* Runs an operation, or counts its flops in a dry run. */
plx_status plx_run_op(plx_run *run, const plx_op *op, const void *arguments);
/* Copies and fills that do nothing in a dry run. */
void plx_run_zero(plx_run *run, void *memory, size_t count);
void plx_run_copy(plx_run *run, void *to, const void *from, size_t count);
void plx_run_upload(plx_run *run, void *to, const void *from, size_t bytes);
void plx_run_download(plx_run *run, void *to, const void *from, size_t bytes);

/* Element `index` of an array of the run's type. */
static inline void *plx_at(const plx_run *run, const void *base, size_t index)
{
    return (char *)(uintptr_t)base + index * plx_type_size(run->type);
}
/* The batch's place in its sequences, as operations take it. */
plx_sequence plx_run_sequence(const plx_run *run);
/* The rows' own tokens as a history, for a forward over whole rows. */
plx_history plx_run_history(const plx_run *run, const void *data, size_t width);
/* y = alpha a + beta b */
plx_status plx_run_add(plx_run *run, const void *a, double alpha, const void *b, double beta, void *y, size_t count);

/* ---- decoding state, in a step (run->session set) ----
 * Part `part` of the running layer, in the order of the mixer's `state` function. */

/* Appends the batch's tokens x[B,T,width] to the part and gives the history that holds them and what came before. */
plx_status plx_state_append(plx_run *run, size_t part, const void *x, plx_history *history);

#endif
